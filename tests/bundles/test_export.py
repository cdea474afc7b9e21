"""Exported networks give the scores of the torch ones: whole inference runs, preprocessing included.

A bundle is covered when CASES lists it; one without inference.json, or not listed, is a skip that says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, onnx_export
from torch import nn

from robustmed_monai.export import (
    OVERLAY,
    ExportedNetwork,
    _overlay,
    example_inputs,
    export_bundle,
    export_network,
    main,
)
from robustmed_monai.networks import FeatureMemory
from robustmed_monai.utils.errors import ConfigError, DataError, WeightsError
from robustmed_monai.utils.files import read_json, write_json
from robustmed_monai.utils.fingerprint import digest_objects
from robustmed_monai.utils.weights import save_weights

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs" / "metadata.json").is_file())
TOLERANCE = 1e-4

Overrides = dict[str, Any]
FEATURES = {"out_channels": 3, "channels": 4, "depth": 3, "norm": "channel", "center": True}
# Tiny networks: overrides of inference.json, what the weights' info says, the parts that it loads apart, and
# its arguments for images.
CASES: dict[str, Overrides] = {
    "ra": {
        "overrides": {"image_size": 32, "channels": [4, 8, 8], "latent_size": 8},
        "info": {"calibration": {"thresholds": {"0.05": 1e-5}}},
    },
    "feature_memory": {
        "overrides": {},
        "info": {"features": "ra", "outline": 0.3, "calibration": {"thresholds": {"0.05": 0.1}}},
    },
    "unoranic": {
        "overrides": {},
        "info": {"heads": {"corruption": {"characteristics": {
            "weight": np.random.default_rng(0).normal(size=(2, 256)).tolist(), "bias": [0.0, 0.1],
            "strength": 1.0,
        }}}},
    },
    "pchvae": {"overrides": {"channels": [4, 6, 6, 8], "high_channels": 4, "image_size": 32}},
    "risc": {
        # Heat maps take gradients, which do not pass an exported network.
        "overrides": {"layers": None},
        "info": {
            "rotnet": {"depth": 10, "width": 0.125, "temperature": 1.5},
            "classifier": {"depth": 10, "width": 0.125, "num_classes": 2},
        },
        "parts": {"network": "classifier", "rotnet": "rotnet"},
    },
    # Features of images of any size; a graph has one.
    "cifl": {"overrides": {"image_size": 32}, "info": {"spatial_dims": 2, **FEATURES}},
    "cifl_segmentation": {
        "overrides": {},
        "info": {"image_size": 32, "num_classes": 4, "channels": [4, 8], "features": FEATURES},
    },
    "cifl_registration": {
        "overrides": {},
        "info": {"image_size": 32, "channels": [4, 4, 6, 6], "features": FEATURES},
        "images": ("moving", "fixed"),
    },
}  # fmt: skip


class Exported:
    """A bundle's tiny network, its weights, and the folder of its export."""

    def __init__(self, name: str, root: Path) -> None:
        case = CASES[name]
        self.name, self.folder, self.weights = name, root / "export", root / "model.pt"
        self.configs = BUNDLES / name / "configs"
        self.given: Overrides = {**case["overrides"], "weights": str(self.weights), "device": "cpu"}
        self.parts: dict[str, str] = case.get("parts", {"network": "forward"})
        self.images: tuple[str, ...] = case.get("images", ("input",))
        info = case.get("info", {})
        # Some configs take the sizes of the network from the weights' info.
        save_weights({"nothing": torch.zeros(1)}, self.weights, info)
        parser = self._parser()
        self.network: nn.Module = parser.get_parsed_content("network_def")
        self.inputs = example_inputs(parser["_meta_"])
        side = parser.get_parsed_content("image_size")
        self.inputs = {k: torch.rand(4, v.shape[1], side, side) for k, v in self.inputs.items()}
        _fit(self.network, self.inputs)
        save_weights(self.network.state_dict(), self.weights, info)
        self.record = export_network(self.network, self.inputs, self.folder)
        self.overlay = write_json(self.folder / OVERLAY, _overlay(self.record, None))

    def _parser(self) -> Any:
        parser = ConfigParser()
        parser.read_config(self.configs / "inference.json")
        parser.read_meta(self.configs / "metadata.json")
        for key, value in self.given.items():
            parser[key] = value
        return parser


# One bundle stands for all in the quick run.
@pytest.fixture(
    scope="module",
    params=[name if name == "ra" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name: str = request.param
    if not (BUNDLES / name / "configs" / "inference.json").is_file():
        pytest.skip(f"bundles/{name} has no inference.json yet")
    if name not in CASES:
        pytest.skip(f"bundles/{name} has no case here yet: add its tiny network to CASES")
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return Exported(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three slices of a textured ellipse, float32 in [0, 1], and their mirror image."""
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 48), indexing="ij")
    inside = np.hypot(x / 0.8, y / 0.9) < 1
    slices = [
        np.where(inside, 0.6 + 0.2 * np.sin(5 * x + k) + rng.normal(0, 0.05, x.shape), 0) for k in range(3)
    ]
    head = np.stack(slices, -1).clip(0, 1).astype(np.float32)
    folder = tmp_path_factory.mktemp("volumes")
    paths = [folder / "head.nii.gz", folder / "mirrored.nii.gz"]
    for path, image in zip(paths, (head, head[::-1]), strict=True):
        nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return paths


def test_inference_gives_the_same_scores(
    exported: Exported, volumes: list[Path], workflow: Any, tmp_path: Path
) -> None:
    def run(folder: str, **more: Any) -> dict[str, Any]:
        images = dict(zip(exported.images, map(str, volumes), strict=False))
        settings = {**exported.given, **images, "output_dir": str(tmp_path / folder), **more}
        files = str(exported.configs / "inference.json")
        return _outputs(workflow(files, settings, workflow_type="infer"))

    expected, found = run("torch"), run("onnx", **read_json(exported.overlay))
    assert found.keys() == expected.keys()
    figures = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    assert any(float(expected[key].std()) > 1e-3 for key in figures if expected[key].numel() > 1)
    assert not any("error" in key for key in expected), "the input was refused, so nothing was compared"
    for key in figures:
        scale = max(1.0, float(expected[key].abs().max()))
        difference = float((found[key] - expected[key]).abs().max()) / scale
        assert difference < TOLERANCE, f"{key} differs by {difference:.2g}"


def test_any_batch_size(exported: Exported) -> None:
    network = ExportedNetwork(exported.folder, next(iter(exported.parts.values())))
    entry = network.entry
    torch_entry = exported.network if entry == "forward" else exported.network.get_submodule(entry)
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 16):
        images = [torch.rand(batch, *x.shape[1:], generator=generator) for x in exported.inputs.values()]
        with torch.no_grad():
            expected = torch_entry(*images)
        figures = expected.values() if isinstance(expected, dict) else [expected]
        assert batch == 1 or all(x.std() > 1e-3 for x in figures), (
            "an export of a constant would prove nothing"
        )
        torch.testing.assert_close(network(*images), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_monais_command_writes_onnx(exported: Exported, tmp_path: Path) -> None:
    import onnxruntime

    shape = [list(x.shape) for x in exported.inputs.values()]
    if len(shape) > 1:
        pytest.skip("MONAI's commands know networks of one input alone")
    common: Overrides = {
        "net_id": "network_def",
        "ckpt_file": str(exported.weights),
        "meta_file": str(exported.configs / "metadata.json"),
        "config_file": str(exported.configs / "inference.json"),
        "input_shape": shape[0],
        **exported.given,
    }
    names: Overrides = {"input_names": ["image"], "output_names": ["pred"]}
    names["dynamic_axes"] = {"image": {0: "batch"}, "pred": {0: "batch"}}
    with _quiet():
        onnx_export(filepath=str(tmp_path / "model.onnx"), converter_kwargs=names, **common)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        image = torch.rand(batch, *shape[0][1:])
        with torch.no_grad():
            expected = exported.network(image)
        (found,) = session.run(["pred"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=TOLERANCE, rtol=TOLERANCE)


class TestCommand:
    def test_writes_every_entry(self, tmp_path: Path) -> None:
        with _quiet():
            assert main([str(BUNDLES / "ra"), "--output", str(tmp_path)]) == 0
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {"export.json", "onnx.json", "forward.onnx", "encoder.features.onnx"}
        known = read_json(tmp_path / "export.json")["entries"]["forward"]
        assert (known["inputs"], known["outputs"]) == ({"image": ["batch", 1, 128, 128]}, ["pred"])

    def test_refuses_what_is_no_bundle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ConfigError, match=r"holds no configs/inference\.json; give the folder"):
            export_bundle(tmp_path, tmp_path / "out")
        assert main(["raa", "--output", str(tmp_path / "out")]) == 2
        assert "raa: holds no configs/inference.json; give the folder of a bundle, or one of cifl," in (
            capsys.readouterr().err
        )


class TestErrors:
    def test_an_altered_graph_is_refused(self, tmp_path: Path) -> None:
        export_network(nn.Conv2d(1, 1, 3), {"image": torch.rand(2, 1, 8, 8)}, tmp_path)
        assert ExportedNetwork(tmp_path)(torch.rand(5, 1, 8, 8)).shape == (5, 1, 6, 6)
        with pytest.raises(DataError, match=r"holds no 'rotnet'; it has \['forward'\]"):
            ExportedNetwork(tmp_path, "rotnet")
        data = bytearray((tmp_path / "forward.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "forward.onnx").write_bytes(data)
        with pytest.raises(WeightsError, match=r"forward\.onnx: was altered"):
            ExportedNetwork(tmp_path)

    def test_a_graph_has_the_options_it_was_made_with(self, tmp_path: Path) -> None:
        class Scaled(nn.Module):
            def forward(self, image: torch.Tensor, twice: bool = False) -> torch.Tensor:
                return image * (2 if twice else 1)

        export_network(Scaled(), {"image": torch.rand(2, 4)}, tmp_path)
        network, image = ExportedNetwork(tmp_path), torch.rand(3, 4)
        torch.testing.assert_close(network(image, twice=False), image)
        with pytest.raises(
            ConfigError, match=r"found {'twice': True}; an exported graph has {'twice': False}"
        ):
            network(image, twice=True)

    def test_a_network_of_one_batch_size_is_named(self, tmp_path: Path) -> None:
        class Fixed(nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return image.reshape(len(image), -1) * torch.ones(2, 1)

        with pytest.raises(ConfigError, match=r"Fixed\.forward: cannot be exported for any batch size"):
            export_network(Fixed(), {"image": torch.rand(2, 4)}, tmp_path)

    def test_free_sides_of_the_metadata(self) -> None:
        sides = {"num_channels": 1, "spatial_shape": ["*", "16*n", 28]}
        content = {"network_data_format": {"inputs": {"moving": sides, "fixed": sides}}}
        found = example_inputs(content)
        assert {k: tuple(v.shape) for k, v in found.items()} == dict.fromkeys(found, (2, 1, 64, 64, 28))
        assert list(found) == ["moving", "fixed"]


def test_outputs_of_mappings_keep_their_names(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": moving + fixed, "difference": moving - fixed}

    inputs = {"moving": torch.rand(2, 1, 4), "fixed": torch.rand(2, 1, 4)}
    record = read_json(export_network(Pair(), inputs, tmp_path))
    assert record["entries"]["forward"]["outputs"] == ["sum", "difference"]
    moving, fixed = torch.rand(3, 1, 4), torch.rand(3, 1, 4)
    found = ExportedNetwork(tmp_path)(moving, fixed)
    torch.testing.assert_close(found["difference"], moving - fixed)
    write_json(tmp_path / "export.json", {**record, "entries": {}})
    with pytest.raises(DataError):
        ExportedNetwork(tmp_path)


@pytest.mark.slow
def test_results_of_other_files_are_made_anew(tmp_path: Path) -> None:
    """The digest that decides whether a result is kept changes with the files and not with where they lie."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)
    with _quiet():
        for folder, network in (("a", first), ("b", second), ("c", first)):
            export_network(network, {"image": torch.rand(2, 1, 8, 8)}, tmp_path / folder)
    digests = {name: digest_objects(ExportedNetwork(tmp_path / name)) for name in "abc"}
    assert digest_objects(ExportedNetwork(tmp_path / "a")) == digests["a"] != digests["b"]
    export_network(second, {"image": torch.rand(2, 1, 8, 8)}, tmp_path / "a")
    assert digest_objects(ExportedNetwork(tmp_path / "a")) != digests["a"]


def _fit(network: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
    """Spread norms and outputs, as a training would: neither constant nor saturated."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
                nn.init.uniform_(layer.weight, 0.5, 1.5)
            elif isinstance(layer, nn.Conv2d) and layer.weight.std() < 1e-3:
                # A registration starts from the identity.
                nn.init.normal_(layer.weight, std=0.1)
        with torch.no_grad():
            for part in (network, *network.children()):
                if part is network or _takes_images(part):
                    part.train()(*inputs.values())
        if isinstance(network, FeatureMemory):
            network.remember(network.features(*inputs.values()))
    network.eval()


def _takes_images(part: nn.Module) -> bool:
    # RISC's parts see other images than the whole hands on to them.
    return type(part).__name__ in ("RotNet", "ResNet")


def _outputs(workflow: Any) -> dict[str, Any]:
    """Run an inference and return all that its evaluator gave, by path."""
    workflow.initialize()
    evaluator, found = workflow.parser.get_parsed_content("evaluator"), []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(dict(e.state.output)))
    workflow.run()
    workflow.finalize()
    return dict(_leaves([{k: v for k, v in output.items() if k not in ("meta", "path")} for output in found]))


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{where}/{index}")
    elif isinstance(value, torch.Tensor | float | int) and not isinstance(value, bool):
        yield where, torch.as_tensor(value).as_subclass(torch.Tensor).double()
    else:
        yield where, value


class _quiet(warnings.catch_warnings):  # noqa: N801
    """2026-11: torch 2.15 has deprecated what its own exporters and torch.jit, which MONAI calls, do.

    MONAI 1.6.1 also hands the exporter `dynamic_axes`, which is now `dynamic_shapes`; and a traced network
    leaves out the checks of sizes.
    """

    def __enter__(self) -> Any:
        entered = super().__enter__()
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        return entered
