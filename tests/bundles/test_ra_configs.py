"""The RA bundle as MONAI sees it: properties, overlays, metadata, call of the network, export, weights."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow, load, verify_net_in_out
from torch import nn

from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.batch_affine import BatchRandAffine
from robustmed_monai.utils.weights import load_info, load_into

Workflow = Callable[..., ConfigWorkflow]

TRAIN_OVERLAYS = [
    [],
    ["paper.json"],
    ["ixi.json"],
    ["ixi.json", "paper.json"],
    ["ae.json"],
    ["vae.json"],
    ["sivae.json"],
    ["ixi.json", "ae.json"],
    ["ixi.json", "vae.json"],
    ["ixi.json", "sivae.json"],
    ["wrist.json"],
    ["chest.json"],
    ["chest.json", "paper.json"],
    ["pneumoniamnist.json"],
    ["pneumoniamnist.json", "sivae.json"],
    ["pneumoniamnist.json", "vae.json"],
    ["pneumoniamnist.json", "ae.json"],
    ["multi_gpu_train.json"],
    ["paper.json", "multi_gpu_train.json"],
]
EVALUATE_OVERLAYS = [[], ["ablation.json"], ["pneumoniamnist.json"], ["pneumoniamnist.json", "ablation.json"]]


def _names(overlays: list[str]) -> str:
    return "+".join(name.removesuffix(".json") for name in overlays) or "alone"


@pytest.fixture
def parsed(workflow: Workflow, tmp_path: Path) -> Callable[..., Callable[[str], Any]]:
    """`parsed(files, **overrides)` gives a function of an id: that item of the config, made."""

    def read(files: list[str], **overrides: Any) -> Callable[[str], Any]:
        made = workflow(files, output_dir=str(tmp_path / "out"), **overrides)
        made.parser.parse(reset=True)
        return lambda key: made.parser.get_parsed_content(key)

    return read


class TestProperties:
    def test_of_training(self, workflow: Workflow, tiny: dict[str, Any], tmp_path: Path) -> None:
        train = workflow("train.json", tiny, output_dir=str(tmp_path))
        train.initialize()
        assert train.check_properties() == []
        assert train.max_epochs == 4
        assert isinstance(train.network_def, ReversedAutoEncoder)
        assert len(train.train_dataset_data) == len(train.train_dataset) == 12
        train.finalize()

    def test_of_inference(
        self,
        workflow: Workflow,
        tiny_network: dict[str, Any],
        trained: Path,
        dataset_dir: Path,
        tmp_path: Path,
    ) -> None:
        weights, image = str(trained / "model.pt"), str(dataset_dir / "test-0.png")
        infer = workflow(
            "inference.json",
            tiny_network,
            weights=weights,
            input=image,
            output_dir=str(tmp_path),
            workflow_type="infer",
        )
        infer.initialize()
        assert infer.check_properties() == []
        assert infer.dataset_dir == image
        assert list(infer.dataset.data) == [{"image": image}]

    def test_every_step_of_a_run_works_where_the_network_is(self, configs: Path) -> None:
        steps = json.loads((configs / "train.json").read_text())["run"]
        (calibration,) = [step for step in steps if "network" in step and isinstance(step, dict)]
        assert calibration["device"] == "@device"

    def test_what_the_documents_promise_can_be_overridden_everywhere(self, configs: Path) -> None:
        """DESIGN.md: the words that every config of every bundle shares."""
        for name in ("train.json", "evaluate.json", "inference.json"):
            content = json.loads((configs / name).read_text())
            assert {"dataset_dir", "output_dir", "device", "bundle_root"} <= set(content), name
            assert next(iter(content["initialize"]))["_target_"].endswith("check_overrides"), name
        assert {"seed", "max_epochs", "resume"} <= set(json.loads((configs / "train.json").read_text()))
        assert "input" in json.loads((configs / "inference.json").read_text())


class TestOverlays:
    @pytest.mark.parametrize("overlays", TRAIN_OVERLAYS, ids=_names)
    def test_of_training_make_network_loss_and_optimizers(self, parsed: Any, overlays: list[str]) -> None:
        made = parsed(["train.json", *overlays])
        # The published network belongs to the pictures of 128 pixels that the others inherit.
        network, objectives, optimizers = made("network"), made("objectives"), made("optimizers")
        assert list(optimizers) == ["encoder", "decoder"]
        held = {id(p) for o in optimizers.values() for group in o.param_groups for p in group["params"]}
        assert held == {id(p) for p in network.parameters()}
        assert all(callable(getattr(objectives, phase)) for phase in optimizers)
        assert set(made("schedulers")) <= set(optimizers)
        image = torch.rand(2, 1, made("image_size"), made("image_size"), device=made("device"))
        with torch.no_grad():
            assert network(image).shape == image.shape
        made("train#augmentation")
        made("inferer")

    @pytest.mark.parametrize("overlays", EVALUATE_OVERLAYS, ids=_names)
    def test_of_evaluation_make_network_and_rows(self, parsed: Any, overlays: list[str]) -> None:
        made = parsed(["evaluate.json", *overlays])
        rows, checkpoints = made("rows"), {"RA", "AE", "VAE", "SI-VAE"}
        assert all(r["checkpoints"] in checkpoints and callable(r["inferer"]) for r in rows.values())
        assert made("table_name") == ("ablation" if "ablation.json" in overlays else "results")
        assert isinstance(made("network"), nn.Module)

    def test_paper_is_the_published_setting(self, parsed: Any) -> None:
        made = parsed(["train.json", "paper.json"])
        network = made("network_def")
        assert sum(p.numel() for p in network.parameters()) == 29_430_785
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        for optimizer in made("optimizers").values():
            assert isinstance(optimizer, torch.optim.Adam)
            assert optimizer.defaults["lr"] == 5e-5
            assert optimizer.defaults["betas"] == (0.9, 0.999)
            assert optimizer.defaults["weight_decay"] == 0
        assert made("schedulers") == {}
        loss = made("loss")
        assert (loss.beta_rec, loss.beta_kl, loss.beta_neg, loss.gamma_r) == (0.5, 1.0, None, 1e-8)
        assert (loss.lambda_emb, loss.warmup_epochs, loss.freeze_norm) == (0.005, 0, False)
        assert network.latent_size == 128, "beta_neg is the size of the latent"
        assert made("patience") == 500
        assert (made("max_epochs"), made("batch_size"), made("val_interval")) == (1500, 8, 1)
        augmentation = made("train#augmentation")
        assert isinstance(augmentation, BatchRandAffine)
        assert augmentation.ranges == (10.0, 0.1, (0.9, 1.1), 0.5)
        assert augmentation.mode == "nearest"

    @pytest.mark.parametrize("name", ["wrist.json", "chest.json"])
    def test_radiographs_are_not_augmented(self, parsed: Any, name: str) -> None:
        assert parsed(["train.json", name])("train#augmentation") is None

    @pytest.mark.parametrize(
        ("name", "expected"), [("ae.json", (0.0, 40)), ("vae.json", (1.0, 40)), ("sivae.json", (1.0, 32))]
    )
    def test_controls_are_schedules_of_the_same_loss(
        self, parsed: Any, name: str, expected: tuple[float, int]
    ) -> None:
        loss = parsed(["train.json", name])("loss")
        assert (loss.beta_kl, loss.warmup_epochs) == expected
        assert (loss.lambda_emb == 0) == (name == "sivae.json")

    @pytest.mark.parametrize(
        ("files", "overrides", "expected"),
        [
            ([], {}, 33),
            (["ixi.json"], {}, 41),
            # Nothing but warm-up: the last validation is kept, and there is one whatever the interval.
            (["ixi.json", "vae.json"], {}, 51),
            ([], {"max_epochs": 2}, 3),
            ([], {"train#trainer#max_epochs": 2}, 3),
            (["paper.json"], {}, 1),
        ],
    )
    def test_some_validation_always_counts(
        self, parsed: Any, files: list[str], overrides: dict[str, Any], expected: int
    ) -> None:
        made = parsed(["train.json", *files], channels=[2, 2], image_size=8, latent_size=2, **overrides)
        assert made("best").first_epoch == expected
        assert made("train#handlers#0#interval") <= made("train#trainer#max_epochs")


class TestMetadata:
    @pytest.mark.parametrize("name", ["train.json", "inference.json"])
    def test_network_takes_and_gives_what_it_says(self, configs: Path, name: str) -> None:
        meta = str(configs / "metadata.json")
        verify_net_in_out(net_id="network_def", meta_file=meta, config_file=str(configs / name), device="cpu")

    def test_shipped_network_is_the_one_of_all_configs(self, configs: Path) -> None:
        keys = ("image_size", "channels", "latent_size", "norm")
        contents = [
            json.loads((configs / f"{n}.json").read_text()) for n in ("train", "evaluate", "inference")
        ]
        assert contents[0]["network_def"] == contents[1]["network_def"] == contents[2]["network_def"]
        assert len({str([content[key] for key in keys]) for content in contents}) == 1


class TestWeights:
    def test_a_copy_of_the_bundle_loads_with_its_weights(
        self, configs: Path, tiny: dict[str, Any], trained: Path, tmp_path: Path
    ) -> None:
        copy = _copy(configs, tmp_path / "bundles" / "ra", tiny)
        shutil.copy(trained / "model.pt", copy / "models")
        network = _load(copy.parent)
        expected = load_into(ReversedAutoEncoder(1, 32, (4, 8, 8), 8, "batch"), trained / "model.pt")
        image = torch.rand(3, 1, 32, 32)
        with torch.no_grad():
            assert torch.equal(network.eval()(image), expected.eval()(image))

    def test_shipped_weights_are_the_verified_ones(self, configs: Path) -> None:
        model = configs.parent / "models" / "model.pt"
        if not model.is_file():
            pytest.skip("bundles/ra/models/model.pt is not there: no weights ship yet")
        info = load_info(model)
        assert {"calibration", "training_statistics", "provenance"} <= set(info)
        assert info["contrast"] == "T1"
        assert set(info["calibration"]["thresholds"]) == {"0.01", "0.02", "0.05"}
        network = _load(configs.parents[1])
        assert isinstance(network, ReversedAutoEncoder)
        with torch.no_grad():
            assert network.eval()(torch.zeros(1, 1, 128, 128)).shape == (1, 1, 128, 128)


def _copy(configs: Path, root: Path, overrides: dict[str, Any]) -> Path:
    """A copy of the bundle whose train.json describes a tiny network."""
    shutil.copytree(configs, root / "configs")
    (root / "models").mkdir()
    content = json.loads((root / "configs" / "train.json").read_text())
    (root / "configs" / "train.json").write_text(json.dumps(content | overrides))
    return root


def _load(bundle_dir: Path) -> Any:
    with warnings.catch_warnings():
        # A config is a program, MONAI says; this one is ours.
        warnings.filterwarnings("ignore", category=UserWarning)
        return load(name="ra", bundle_dir=str(bundle_dir))
