"""A MONAI bundle under test: audited, then its own preprocessing, network, inferer and postprocessing."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers.inferer import SimpleInferer
from monai.networks.utils import eval_mode
from monai.transforms import Compose
from torch import Tensor, nn

from robustmed_monai.apps.stress.models import Model, as_predictions, label_maps, scores_of
from robustmed_monai.apps.stress.views import Views
from robustmed_monai.audit.command import refusal
from robustmed_monai.engines.file_evaluator import on_its_grid
from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.scale_foreground import IntensityWarning
from robustmed_monai.utils.errors import ConfigError, ImageError, RobustMedError, original_error
from robustmed_monai.utils.files import read_json, sha256
from robustmed_monai.utils.fingerprint import digest_objects
from robustmed_monai.utils.weights import load_into

logger = logging.getLogger(__name__)

# Reading is done before, writing is not wanted.
_NOT_RUN = re.compile(r"^(Load|Save|EnsureChannelFirst)")
_REFERENCE = re.compile(r"@([\w#:]+)")
_WEIGHTS = re.compile(r"\.(pt|pth|ts)\b|load_into")


class UnsafeBundleError(ConfigError):
    """A bundle of which not everything is known to be safe.

    Args:
        verdict: 1 unknown, 2 dangerous.
        report: what the audit found.
    """

    def __init__(self, root: Path, verdict: int, report: str) -> None:
        super().__init__(f"{root}: not safe, so nothing of it was evaluated; --unsafe takes it.\n{report}")
        self.verdict = verdict


def bundle_model(
    root: str | Path,
    config: str = "inference",
    overrides: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    unsafe: bool = False,
    name: str | None = None,
    output_key: str = "pred",
) -> Model:
    """A bundle's inference as a model under test.

    Args:
        root: folder of the bundle.
        config: name of the config that has `network` (or `network_def`), and where it needs them
            `preprocessing`, `inferer` and `postprocessing`; those laid over it follow after commas.
        overrides: key to value, such as ``{"weights": "other.pt"}``.
        device: where the network runs.
        unsafe: evaluate what the audit does not know.
        name: what the report calls it; None takes the folder's name.
        output_key: what its postprocessing leaves as the labels of a segmentation, such as "anomaly_mask".

    Returns:
        The model. Images reach its preprocessing as a reader of their file would give them, and transforms
        that read or write files are left out. What a segmentation's preprocessing refuses has no labels.

    Raises:
        UnsafeBundleError: when the audit finds anything that is not safe; nothing is evaluated then.
        ConfigError: when there is no such config, or it lacks a network.
        WeightsError: when its weights do not fit.
    """
    folder = Path(root).expanduser().absolute()
    files = [_config_file(folder, name) for name in config.split(",")]
    if not unsafe:
        verdict, report = refusal(folder)
        if report:
            raise UnsafeBundleError(folder, int(verdict), report)
    parser = _parser(folder, files, overrides or {}, device)
    for key in ("preprocessing", "postprocessing"):
        _disable_files(parser, key)
    network, weights = _network(parser, folder, device)
    before = _without_files(_content(parser, "preprocessing"))
    after = _without_files(_content(parser, "postprocessing"))
    inferer = _content(parser, "inferer") or SimpleInferer()
    runner = _BundleRun(network, before, inferer, after, torch.device(device), output_key)
    inputs, outputs = _formats(folder)
    digest = digest_objects(
        network, inferer, before, after, output_key, {k: str(v) for k, v in (overrides or {}).items()}
    )
    return Model(
        name or folder.name,
        f"bundle {folder.name}, {', '.join(file.name for file in files)}",
        runner.predict,
        digest,
        weights_sha256=sha256(weights) if weights else None,
        channels=inputs.get("num_channels"),
        num_classes=outputs.get("num_channels"),
        class_names=_class_names(outputs),
    )


class _BundleRun:
    """Views to predictions through the parts of a bundle; several at once where its inferer takes batches."""

    def __init__(
        self,
        network: nn.Module,
        before: Compose,
        inferer: Any,
        after: Compose,
        device: torch.device,
        output_key: str,
    ) -> None:
        self.network, self.before, self.inferer, self.after = network, before, inferer, after
        self.device, self.output_key = device, output_key
        self.in_batches = True

    def predict(self, views: Views) -> Sequence[Tensor]:
        """One prediction an image."""
        with warnings.catch_warnings():
            # Said of every image under every condition they would hide what matters.
            for category in (GeometryWarning, IntensityWarning):
                warnings.simplefilter("ignore", category)
            try:
                items = [self._prepared(views, i) for i in range(len(views))]
                images = [item["image"] for item in items if item is not None]
                return self._finish(items, self._infer(images) if images else [], views)
            except RuntimeError as error:
                # MONAI's Compose wraps what a transform raises.
                cause = original_error(error)
                if cause is error:
                    raise
                raise cause from error

    def _prepared(self, views: Views, index: int) -> dict[str, Any] | None:
        """An image through the preprocessing; None where a segmentation refuses it."""
        try:
            item: dict[str, Any] = self.before({"image": views.as_read(index)})
        except (ImageError, RuntimeError) as error:
            cause = original_error(error)
            if views.truth.ndim == 1 or not isinstance(cause, ImageError):
                raise
            logger.warning("refused, which counts as an image without labels: %s", cause)
            return None
        return item

    def _infer(self, images: Sequence[Any]) -> list[Any]:
        plain = [torch.as_tensor(image).as_subclass(Tensor).to(self.device) for image in images]
        several = self.in_batches and len({p.shape for p in plain}) == 1 and len(plain) > 1
        with torch.no_grad(), eval_mode(self.network):
            if several:
                output = self.inferer(torch.stack(plain), self.network)
                parts = _apart(output, len(plain))
                if parts is not None:
                    return parts
                # An inferer of ours takes the slices of one image at a time.
                self.in_batches = False
            singles = [_apart(self.inferer(image[None], self.network), 1) for image in plain]
        if any(single is None for single in singles):
            raise ConfigError("the inferer gives no output with a first axis of 1 for one image.")
        return [single[0] for single in singles if single is not None]

    def _finish(
        self, items: Sequence[dict[str, Any] | None], outputs: Sequence[Any], views: Views
    ) -> list[Tensor]:
        if views.truth.ndim == 1:
            scores = torch.stack([scores_of(output) for output in outputs])
            return list(as_predictions(scores, views))
        found, answers = [], iter(outputs)
        for number, item in enumerate(items):
            if item is None:
                found.append(torch.zeros_like(views.truth[number : number + 1]))
                continue
            output = next(answers)
            named = output if isinstance(output, dict) else {"pred": output}
            done = self.after({**item, **{k: on_its_grid(v, item["image"]) for k, v in named.items()}})
            if self.output_key not in done:
                raise ConfigError(f"the bundle makes {sorted(done)}, no {self.output_key}; say --output_key.")
            found.append(scores_of(done[self.output_key])[None])
        return list(as_predictions(torch.cat([label_maps(f) for f in found]), views))


def _apart(output: Any, count: int) -> list[Any] | None:
    """The outputs of the images of a batch, or None where it is no batch of as many."""
    if isinstance(output, Mapping):
        parts = {k: v for k, v in output.items() if isinstance(v, Tensor) and v.ndim and len(v) == count}
        if not parts:
            return None
        return [{k: v[i].cpu() for k, v in parts.items()} for i in range(count)]
    tensor = scores_of(output)
    return list(tensor) if tensor.ndim and len(tensor) == count else None


def _config_file(folder: Path, config: str) -> Path:
    found = [folder / "configs" / f"{Path(config).stem}{s}" for s in (".json", ".yaml", ".yml")]
    there = [path for path in found if path.is_file()]
    if not there:
        raise ConfigError(f"{folder / 'configs'}: has no config {config}; name another by --config.")
    return there[0]


def _parser(folder: Path, files: Sequence[Path], overrides: Mapping[str, Any], device: Any) -> ConfigParser:
    parser = ConfigParser()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        parser.read_config([str(file) for file in files])
    metadata = folder / "configs" / "metadata.json"
    if metadata.is_file():
        parser.read_meta(str(metadata))
    parser["bundle_root"] = str(folder)
    parser["device"] = torch.device(device)
    for key, value in overrides.items():
        if key.split("#")[0] not in _config(parser):
            raise ConfigError(f"--{key}: the config {files[0].name} has no such key; correct the spelling.")
        parser[key.replace("#", "::")] = value
    return parser


def _config(parser: ConfigParser) -> dict[str, Any]:
    config: dict[str, Any] = parser.get()
    return config


def _content(parser: ConfigParser, key: str) -> Any:
    if key not in _config(parser):
        return None
    try:
        return parser.get_parsed_content(key)
    except Exception as error:
        # A foreign config can go wrong in any way; MONAI wraps most of them.
        cause = original_error(error)
        if isinstance(cause, RobustMedError):
            raise cause from None
        raise ConfigError(f"{key} of the bundle cannot be made ({type(cause).__name__}: {cause}).") from error


def _network(parser: ConfigParser, folder: Path, device: Any) -> tuple[nn.Module, Path | None]:
    """The network with its weights, loaded by the config, or from ``models/model.pt``."""
    key = next((k for k in ("network", "network_def", "net") if k in _config(parser)), None)
    if key is None:
        raise ConfigError(f"{folder}: its config has neither network nor network_def; name another --config.")
    own = any(_WEIGHTS.search(text) for text in _reachable(_config(parser), key, set()))
    network = _content(parser, key)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{folder}: {key} is a {type(network).__name__}; a network is needed.")
    named = _content(parser, "weights")
    file = Path(named) if isinstance(named, str) else folder / "models" / "model.pt"
    network = network.to(device)
    if not own and network.state_dict():
        load_into(network, file, allow_unverified=True)
    return network, file if file.is_file() else None


def _reachable(config: Mapping[str, Any], key: str, seen: set[str]) -> Iterator[str]:
    """All texts of a part of a config and of what it refers to."""
    if key in seen or key not in config:
        return
    seen.add(key)
    for text in _texts(config[key]):
        yield text
        for reference in _REFERENCE.findall(text):
            yield from _reachable(config, re.split(r"#|::", reference)[0], seen)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _disable_files(parser: ConfigParser, key: str) -> None:
    """Switch off what reads or writes files in a pipeline, before it is made."""
    pipeline = _config(parser).get(key)
    for part in pipeline.get("transforms", []) if isinstance(pipeline, dict) else []:
        if isinstance(part, dict) and _NOT_RUN.match(str(part.get("_target_", "")).rpartition(".")[2]):
            part["_disabled_"] = True


def _without_files(transform: Any) -> Compose:
    """A pipeline without the transforms that read or write files."""
    if transform is None:
        return Compose([])
    parts = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    return Compose([part for part in parts if not _NOT_RUN.match(type(part).__name__)])


def _formats(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    file = folder / "configs" / "metadata.json"
    formats = read_json(file).get("network_data_format", {}) if file.is_file() else {}
    return formats.get("inputs", {}).get("image", {}), formats.get("outputs", {}).get("pred", {})


def _class_names(outputs: Mapping[str, Any]) -> list[str]:
    named = outputs.get("channel_def", {})
    return [str(named[key]) for key in sorted(named, key=int)] if all(k.isdecimal() for k in named) else []
