"""Networks as ONNX, and the way back into an inferer.

    python -m robustmed_monai.export ra --output out/ra/export
    robustmed infer ra scan.nii.gz --overlay out/ra/export/onnx.json

MONAI's ``onnx_export`` writes the one graph image -> ``pred``. A score needs more: RA's
map the encoder's features, pchVAE's bound the codes, unORANIC's score the characteristics, RISC's
probabilities its two networks apart. So every entry that an inferer asks a network for becomes a graph of its
own, and ``ExportedNetwork`` offers them under their names: it takes the torch network's place in the inferer.
A graph is what an entry does with tensors alone; options that are given by name are fixed at their defaults.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from robustmed_monai.networks.pchvae import Components, Posterior, Quantized
from robustmed_monai.utils.bundle import bundle_names, bundle_root
from robustmed_monai.utils.errors import ConfigError, DataError, RobustMedError, WeightsError
from robustmed_monai.utils.files import atomic_path, read_json, sha256, write_json
from robustmed_monai.utils.weights import load_into

# What inferers and file iterations ask a network for; a network is exported with those that it has.
ENTRIES = (
    "forward",
    "encoder.features",
    "components",
    "reconstruct",
    "anatomy",
    "characteristics",
    "rotnet",
    "classifier",
)
# Settings of a network that its inferers and file iterations read.
SETTINGS = ("out_channels",)
RECORD = "export.json"
# Laid over ``inference.json`` it makes the bundle run on the exported graphs.
OVERLAY = "onnx.json"

Named = dict[str, torch.Tensor]
Graph = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


def export_network(
    network: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    folder: str | os.PathLike[str],
) -> Path:
    """Write each entry of a network as ONNX (extra `export`), and ``export.json``, which says what they are.

    Args:
        network: put into evaluation mode and onto the CPU.
        inputs: name of each input to an example (B, C, *spatial) with B > 1; B is free in the graphs, the
            other sizes are fixed.
        folder: where to write.

    Returns:
        Path of ``export.json``: per entry its inputs, options, outputs, kind, file and the file's sha256.

    Raises:
        ConfigError: when a graph cannot be made for any batch size.
    """
    network.cpu().eval()
    examples = tuple(tensor.cpu() for tensor in inputs.values())
    record: dict[str, Any] = {}
    for entry in (e for e in ENTRIES if _offers(network, e)):
        function = _Entry(network, entry)
        with torch.no_grad():
            kind, outputs = _flatten(function.call(*examples), entry)
        path = Path(folder) / f"{entry}.onnx"
        with atomic_path(path) as temporary:
            _save(_program(function, examples, entry), temporary, list(inputs), list(outputs))
        shapes = {name: ["batch", *tensor.shape[1:]] for name, tensor in inputs.items()}
        options = _options(function.function)
        record[entry] = {
            "inputs": shapes,
            "options": options,
            "outputs": list(outputs),
            "kind": kind,
            "file": path.name,
            "sha256": sha256(path),
        }
    settings = {name: getattr(network, name) for name in SETTINGS if hasattr(network, name)}
    return write_json(
        Path(folder) / RECORD, {"torch": torch.__version__, "settings": settings, "entries": record}
    )


class ExportedNetwork(nn.Module):
    """The graphs of ``export_network`` as a network, for the inferers and configs of this package.

    Gradients do not pass, so GradCAM and the "gradient" and "product" maps of ``ElboInferer`` need torch. The
    files' sha256 are among its attributes, so that results are made anew when a file changes, see
    ``utils.fingerprint``. onnxruntime gets as many threads as torch has when the network is made.

    Args:
        folder: folder of ``export_network``.
        entry: what calling the network does; "rotnet" and "classifier" for RISC's two networks.
        providers: execution providers of onnxruntime.

    Raises:
        DataError: when the folder holds no such export.
        WeightsError: when a file was altered.

    Example:
        ``robustmed infer ra scan.nii.gz --overlay out/ra/export/onnx.json`` runs on onnxruntime.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        entry: str = "forward",
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        super().__init__()
        content = read_json(Path(folder) / RECORD)
        for name, value in content["settings"].items():
            setattr(self, name, value)
        self.entries: dict[str, Any] = content["entries"]
        if entry not in self.entries:
            raise DataError(f"{folder}: holds no {entry!r}; it has {list(self.entries)}. Export it again.")
        self.entry = entry
        self._graphs: dict[str, Graph] = {}
        for name, known in self.entries.items():
            path = Path(folder) / known["file"]
            if sha256(path) != known["sha256"]:
                raise WeightsError(f"{path}: was altered: {RECORD} has another sha256. Export it again.")
            self._graphs[name] = _onnx_graph(path, providers)
            self._offer(name)

    def forward(self, *inputs: torch.Tensor, **options: Any) -> Any:
        """What ``entry`` of the torch network returns.

        Raises:
            ConfigError: for an option that is not at its default.
        """
        return self._call(self.entry, *inputs, **options)

    def _offer(self, name: str) -> None:
        if name == "forward":
            return
        owner, _, attribute = name.rpartition(".")
        if owner and not hasattr(self, owner):
            setattr(self, owner, SimpleNamespace())
        setattr(getattr(self, owner) if owner else self, attribute, partial(self._call, name))

    def _call(self, name: str, *inputs: torch.Tensor, **options: Any) -> Any:
        known = self.entries[name]
        fixed = known["options"]
        if any(key not in fixed or fixed[key] != value for key, value in options.items()):
            raise ConfigError(
                f"{name}: found {options}; an exported graph has {fixed}. Use the torch network."
            )
        plain = [x.detach().as_subclass(torch.Tensor).float() for x in inputs]
        found = self._graphs[name](plain)
        named = dict(zip(known["outputs"], (y.to(inputs[0].device) for y in found), strict=True))
        return _rebuild(known["kind"], named)


class _Entry(nn.Module):
    """One entry of a network as a module that returns a tuple of tensors."""

    def __init__(self, network: nn.Module, entry: str) -> None:
        super().__init__()
        self.network = network
        self.entry = entry

    @property
    def function(self) -> Callable[..., Any]:
        found: Callable[..., Any] = attrgetter(self.entry)(self.network)
        return found

    def call(self, *inputs: torch.Tensor) -> Any:
        return (self.network if self.entry == "forward" else self.function)(*inputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_flatten(self.call(*inputs), self.entry)[1].values())


def _offers(network: nn.Module, entry: str) -> bool:
    try:
        return callable(attrgetter(entry)(network))
    except AttributeError:
        return False


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that have a default, which a graph has fixed."""
    made = function.forward if isinstance(function, nn.Module) else function
    known = inspect.signature(made).parameters.values()
    return {p.name: p.default for p in known if isinstance(p.default, bool | int | float | str | None)}


def _flatten(value: Any, entry: str) -> tuple[str, Named]:
    """What an entry returned as named tensors, and what it was."""
    name = "pred" if entry == "forward" else entry.rpartition(".")[2]
    if isinstance(value, torch.Tensor):
        return "tensor", {name: value}
    if isinstance(value, Components):
        images = {k: getattr(value, k) for k in ("total", "high", "low")}
        codes = {f"{k}_{f}": getattr(code, f) for k, code in value.codes.items() for f in code._fields}
        return "components", {k: v for k, v in (images | codes).items() if v is not None}
    if isinstance(value, Mapping):
        return "mapping", dict(value)
    return "list", {f"{name}_{i}": tensor for i, tensor in enumerate(value)}


def _rebuild(kind: str, named: Named) -> Any:
    if kind == "tensor":
        return next(iter(named.values()))
    if kind == "mapping":
        return named
    if kind == "list":
        return list(named.values())
    codes: dict[str, Posterior | Quantized] = {}
    for made in (Posterior, Quantized):
        ending = f"_{made._fields[0]}"
        for name in (k.removesuffix(ending) for k in named if k.endswith(ending)):
            codes[name] = made(*(named[f"{name}_{field}"] for field in made._fields))
    return Components(named["total"], named.get("high"), named.get("low"), codes)


def _program(function: _Entry, examples: tuple[torch.Tensor, ...], entry: str) -> Any:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(
                function, examples, dynamic_shapes=(tuple({0: batch} for _ in examples),), strict=False
            )
    except torch._dynamo.exc.UserError as error:
        raise ConfigError(
            f"{type(function.network).__name__}.{entry}: cannot be exported for any batch size "
            f"({str(error).splitlines()[0]}); use shape[0], not len(), for the size of the batch."
        ) from error


def _save(program: Any, path: Path, inputs: list[str], outputs: list[str]) -> None:
    with _exporter_warnings():
        made: Any = torch.onnx.export(
            program, (), input_names=inputs, output_names=outputs, dynamo=True, verbose=False
        )
    made.save(str(path), external_data=False)


def _onnx_graph(path: Path, providers: Sequence[str]) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Left to itself it takes all cores, whatever torch was told.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    names = [known.name for known in session.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        arrays = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run


@contextmanager
def _exporter_warnings() -> Iterator[None]:
    """2026-11: the exporters of torch 2.15 call names that torch itself has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def export_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Path:
    """Export the network of a bundle's ``inference.json`` with its weights, and an overlay for it.

    Args:
        bundle: folder of the bundle, or the name of one of this package.
        output: folder to write into.
        weights: weights file; None takes the config's.
        overrides: other items of the config.

    Returns:
        Path of ``export.json``.

    Raises:
        ConfigError: when the folder is no bundle.
        WeightsError: when the weights are missing or do not fit.
    """
    from monai.bundle import ConfigParser

    root = bundle_root(str(bundle)) if str(bundle) in bundle_names() else bundle
    configs = Path(root).resolve() / "configs"
    if not (configs / "inference.json").is_file():
        raise ConfigError(
            f"{bundle}: holds no configs/inference.json; give the folder of a bundle, or one of "
            f"{', '.join(bundle_names())}."
        )
    parser = ConfigParser()
    parser.read_config(configs / "inference.json")
    parser.read_meta(configs / "metadata.json")
    given = {"bundle_root": str(configs.parent), "device": "$torch.device('cpu')", **overrides}
    given |= {} if weights is None else {"weights": str(Path(weights).absolute())}
    for key, value in given.items():
        parser[key] = value
    path = Path(parser.get_parsed_content("weights"))
    network = load_into(parser.get_parsed_content("network_def"), path)
    inputs = example_inputs(parser["_meta_"])
    record = export_network(network, inputs, output)
    overlay = _overlay(record, None if weights is None else given["weights"])
    if parser["image_size"] is None:
        # A graph has one size.
        overlay["image_size"] = next(iter(inputs.values())).shape[-1]
    write_json(record.with_name(OVERLAY), overlay)
    return record


def _overlay(record: Path, weights: str | None) -> dict[str, Any]:
    """Items of ``inference.json`` that put the graphs of a record in the place of the torch networks."""
    graphs = {"_target_": "robustmed_monai.export.ExportedNetwork", "folder": str(record.parent.absolute())}
    found: dict[str, Any] = {} if weights is None else {"weights": weights}
    if "rotnet" not in read_json(record)["entries"]:
        return found | {"network": graphs}
    # Heat maps take gradients, which do not pass.
    parts = {
        key: graphs | {"entry": entry} for key, entry in (("network", "classifier"), ("rotnet", "rotnet"))
    }
    return found | parts | {"layers": None}


def example_inputs(metadata: Mapping[str, Any], batch: int = 2) -> Named:
    """Random tensors (batch, C, *spatial) in [0, 1] for each input that a bundle's metadata describes.

    Args:
        metadata: content of ``metadata.json``; a free side ("*", "16*n") becomes 64.
        batch: images.
    """
    from monai.bundle.scripts import _get_fake_spatial_shape

    found: Named = {}
    for name, known in metadata["network_data_format"]["inputs"].items():
        sides = [
            side if isinstance(side, int) else _get_fake_spatial_shape([side], p=6, n=4, any=64)[0]
            for side in known["spatial_shape"]
        ]
        found[name] = torch.rand(batch, known["num_channels"], *sides)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: export one bundle."""
    parser = argparse.ArgumentParser(description="Write a bundle's network as ONNX.")
    parser.add_argument("bundle", help=f"folder of a bundle, or one of {', '.join(bundle_names())}")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--weights", type=Path, help="weights file (those that the bundle ships)")
    chosen = parser.parse_args(arguments)
    try:
        path = export_bundle(chosen.bundle, chosen.output, chosen.weights)
    except RobustMedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    name = Path(chosen.bundle).resolve().name
    sys.stdout.write(
        f"written: {path}\nto apply it: robustmed infer {name} INPUT --overlay {path.with_name(OVERLAY)}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
