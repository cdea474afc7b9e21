"""The bundle's configs, on tiny networks and made-up volumes: train, evaluate, apply."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out

from robustmed_monai.networks.pchvae import HierarchicalVAE
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.utils.files import sha256, write_json
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.weights import load_info

# Heads of the size that the bundle expects.
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "pchvae" / "configs"
OVERLAYS = {
    "pchVAE": [],
    "chVAE": ["chvae"],
    "High VAE": ["high_vae"],
    "Low VAE": ["low_vae"],
    "VQVAE-2": ["vqvae2"],
}
SMALL: dict[str, dict[str, Any]] = {
    "pchVAE": {"channels": [4, 6, 6, 8], "high_channels": 4},
    "chVAE": {"channels": [4, 6, 6, 8], "high_channels": 4},
    "High VAE": {"channels": [4, 6, 6, 8], "high_channels": 8},
    "Low VAE": {"channels": [4, 6], "low_channels": 2, "depth": 1},
    "VQVAE-2": {"channels": 8, "residual_channels": 4, "book_size": 8, "book_width": 4},
}
Run = Callable[..., ConfigWorkflow]


def read_nifti(path: Path) -> Any:
    return nib.load(path)


def paths(names: list[str]) -> list[str]:
    return [str(CONFIGS / f"{name}.json") for name in names]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training, one validation and two test volumes of 11 slices, the latter with a lesion in three."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(2)
    content: dict[str, Any] = {"name": "balls", "license": "CC0-1.0", "description": "drawn by the tests"}
    x, y, z = np.ogrid[:24, :28, :11]
    inside = ((x - 12) / 9) ** 2 + ((y - 14) / 11) ** 2 + ((z - 5) / 5.5) ** 2 < 1
    for section, count in (("training", 4), ("validation", 1), ("test", 2)):
        content[section] = []
        for number in range(count):
            name = f"{section}{number}"
            volume = np.where(inside, rng.uniform(300, 500, inside.shape), 0).astype(np.float32)
            item: dict[str, Any] = {"image": f"{name}.nii.gz", "subject": name, "healthy": section != "test"}
            if section == "test":
                mask = np.zeros(inside.shape, np.uint8)
                mask[10:15, 12:17, 4:7] = 1
                volume[mask > 0] = 700
                item["mask"] = f"{name}_mask.nii.gz"
                nib.save(nib.Nifti1Image(mask, AFFINE), folder / item["mask"])
            nib.save(nib.Nifti1Image(volume, AFFINE), folder / item["image"])
            content[section].append(item)
    write_json(folder / "datalist.json", content)
    return folder


@pytest.fixture(scope="module")
def settings(volumes: Path) -> dict[str, Any]:
    return {"dataset_dir": str(volumes), "image_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(
    bundle: Run, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Output folder of a tiny training of each model."""
    root, folders = tmp_path_factory.mktemp("trained"), {}
    for name, overlay in OVERLAYS.items():
        folders[name] = root / name
        more = SMALL[name] | {"max_epochs": 2, "val_interval": 1, "batch_size": 8}
        bundle(paths(["train", *overlay]), settings | more, output_dir=str(folders[name]))
    return folders


def small_networks() -> dict[str, Any]:
    given: dict[str, Any] = {f"network_def#{k}": v for k, v in SMALL["pchVAE"].items()}
    for name, key in (("High VAE", "high_vae"), ("Low VAE", "low_vae"), ("VQVAE-2", "vqvae2")):
        given |= {f"networks#{key}#{k}": v for k, v in SMALL[name].items()}
    return given


class TestTraining:
    def test_weights_are_those_of_the_last_epoch(self, trained: dict[str, Path]) -> None:
        for name, folder in trained.items():
            info = load_info(folder / "model.pt")
            assert (info["method"], info["epoch"], info["clip"]) == (name, 2, 1.5)
            assert set(info["training_statistics"]) > {"brightness", "foreground", "appearance"}

    def test_same_seed_same_weights(
        self, trained: dict[str, Path], bundle: Run, settings: dict[str, Any], tmp_path: Path
    ) -> None:
        more = SMALL["pchVAE"] | {"max_epochs": 1, "val_interval": 1, "batch_size": 8}
        bundle(paths(["train"]), settings | more, output_dir=str(tmp_path))
        # Stopped after the first epoch and taken up again, it gets where the other run got.
        again = more | {"max_epochs": 2, "resume": True}
        bundle(paths(["train"]), settings | again, output_dir=str(tmp_path))
        assert sha256(tmp_path / "model.pt") == sha256(trained["pchVAE"] / "model.pt")

    @pytest.mark.parametrize("name", ["pchVAE", "VQVAE-2"])
    def test_bfloat16(self, bundle: Run, settings: dict[str, Any], name: str, tmp_path: Path) -> None:
        more = SMALL[name] | {"max_epochs": 1, "val_interval": 1, "amp": True}
        done = bundle(paths(["train", *OVERLAYS[name]]), settings | more, output_dir=str(tmp_path))
        assert load_info(tmp_path / "model.pt")["value"] > 0
        assert {p.dtype for p in done.network_def.parameters()} == {torch.float32}

    @pytest.mark.parametrize("name", OVERLAYS)
    def test_overlays_are_the_models_of_the_comparison(
        self, workflow: Run, name: str, tmp_path: Path
    ) -> None:
        made = workflow(paths(["train", "paper", *OVERLAYS[name]]), output_dir=str(tmp_path))
        made.parser.parse(reset=True)
        network = made.parser.get_parsed_content("network_def")
        assert isinstance(network, VQVAE2 if name == "VQVAE-2" else HierarchicalVAE)
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert 1.0 <= count / 2_527_076 <= 1.15
        # A code book in the optimizer would be wrapped for torchrun, which refuses what has no gradient.
        held = [
            p for group in made.parser.get_parsed_content("optimizer").param_groups for p in group["params"]
        ]
        assert sum(p.numel() for p in held) == count
        loss = made.parser.get_parsed_content("loss")
        assert type(loss).__name__ == ("QuantizedLoss" if name == "VQVAE-2" else "HierarchicalLoss")
        schedule = ("max_epochs", "learning_rate", "batch_size")
        assert [made.parser.get_parsed_content(k) for k in schedule] == [10, 1e-4, 64]

    def test_weights_of_the_terms_are_settings(self, workflow: Run, tmp_path: Path) -> None:
        made = workflow(
            paths(["train"]), output_dir=str(tmp_path), lambda_primary=2.0, lambda_full=0.5, beta=0.1
        )
        made.parser.parse(reset=True)
        assert made.parser.get_parsed_content("loss").weights == {
            "primary": 2.0, "full": 0.5, "zero": 0.5, "kl_high": 0.1, "kl_low": 0.1,
        }  # fmt: skip

    def test_properties(self, workflow: Run, settings: dict[str, Any], tmp_path: Path) -> None:
        train = workflow(paths(["train"]), settings | SMALL["pchVAE"], output_dir=str(tmp_path))
        train.initialize()
        assert train.check_properties() == []
        train.finalize()

    def test_multi_gpu_overlay_parses(self, workflow: Run, settings: dict[str, Any], tmp_path: Path) -> None:
        files = paths(["train", "multi_gpu_train"])
        made = workflow(files, settings | SMALL["pchVAE"], output_dir=str(tmp_path), batch_size=8)
        made.parser.parse(reset=True)
        assert made.parser.get_parsed_content("train#dataloader").batch_size == 8
        made.parser.get_parsed_content("writer").close()


@pytest.fixture(scope="module")
def tables(bundle: Run, settings: dict[str, Any], trained: dict[str, Path], tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("tables")
    runs = {name: [str(path / "model.pt")] for name, path in trained.items()}
    runs["pchVAE"] *= 2
    more = small_networks() | {"checkpoints": runs, "seeds": [0, 1], "table_name": "balls"}
    bundle(paths(["evaluate"]), settings | more, workflow_type="infer", output_dir=str(folder))
    return folder


class TestEvaluation:
    def test_table(self, tables: Path) -> None:
        content = read_results(tables / "balls.json")
        cells: dict[str, dict[str, Any]] = {}
        for row in content["rows"]:
            cells.setdefault(row["row"], {})[row["column"]] = row
        assert list(cells) == [*OVERLAYS, "mean intensity", "slice position", "brain area"]
        for name, row in cells.items():
            assert {f"{s}_{c}" for s in ("lesions", "objects", "mean") for c in ("auroc", "ap")} <= set(row)
            assert ("mse" in row) == (name in OVERLAYS)
        pch = cells["pchVAE"]
        assert (pch["mse"]["n"], pch["mse"]["std"]) == (2, 0)
        assert {f"lesions_pixel_ap_{m}" for m in ("residual", "low", "gradient", "product")} < set(pch)
        assert {f"objects_auroc_{s}" for s in ("reconstruction", "kl", "high")} < set(pch)
        assert "lesions_auroc_high" not in cells["chVAE"]
        assert len(pch["lesions_auroc"]["ci95"]) == 2
        assert cells["mean intensity"]["lesions_pixel_ap_intensity"]["mean"] > 0.7, "bright lesions"
        assert [entry["split"] for entry in content["data"]] == ["healthy", "lesions", "objects"]

    def test_pictures(self, tables: Path) -> None:
        names = {path.name for path in tables.glob("*.png")}
        shown = {f"balls_{s}_{kind}.png" for s in ("lesions", "objects") for kind in ("curves", "components")}
        codes = {
            f"balls_{kind}_{m}.png"
            for kind in ("samples", "traversals")
            for m in ("pchvae", "chvae", "high_vae", "low_vae")
        }
        assert names == shown | codes

    def test_objects_alone(
        self, bundle: Run, settings: dict[str, Any], trained: dict[str, Path], tmp_path: Path
    ) -> None:
        more = small_networks() | {"weights": str(trained["pchVAE"] / "model.pt"), "maps": []}
        bundle(
            paths(["evaluate", "objects"]), settings | more, workflow_type="infer", output_dir=str(tmp_path)
        )
        columns = {row["column"] for row in read_results(tmp_path / "results.json")["rows"]}
        assert "objects_auroc" in columns
        assert not any(column.startswith("lesions") for column in columns)


def test_inference(bundle: Run, trained: dict[str, Path], volumes: Path, tmp_path: Path) -> None:
    overrides = SMALL["pchVAE"] | {"image_size": 32, "device": "cpu", "anomaly_map": "product"}
    more = {"input": str(volumes / "test0.nii.gz"), "weights": str(trained["pchVAE"] / "model.pt")}
    bundle(paths(["inference"]), overrides | more, workflow_type="infer", output_dir=str(tmp_path))
    written = {path.name for path in (tmp_path / "test0").iterdir()}
    volumes_written = {f"{n}.nii.gz" for n in ("x_high", "x_low", "x_sum", "anomaly_map")}
    assert written == volumes_written | {"scores.json", "slices.png"}
    low = np.asarray(read_nifti(tmp_path / "test0/x_low.nii.gz").dataobj)
    assert low.shape == (24, 28, 11)
    assert low.any()


def test_weights_are_calibrated(trained: dict[str, Path]) -> None:
    for folder in trained.values():
        calibration = load_info(folder / "model.pt")["calibration"]
        thresholds = [calibration["thresholds"][rate] for rate in ("0.01", "0.02", "0.05")]
        assert thresholds == sorted(thresholds, reverse=True)
        assert 0 < calibration["pixels"] < 11 * 32 * 32  # those of the brain


def test_mask_is_cut_at_the_calibrated_rate(
    bundle: Run, trained: dict[str, Path], volumes: Path, tmp_path: Path
) -> None:
    overrides = SMALL["pchVAE"] | {"image_size": 32, "device": "cpu", "fpr": 0.05}
    overrides["postprocessing#transforms#0#statistics"] = None  # no slice is left out
    weights = trained["pchVAE"] / "model.pt"
    cut = load_info(weights)["calibration"]["thresholds"]["0.05"]
    more = {"input": str(volumes / "test0.nii.gz"), "weights": str(weights)}
    bundle(paths(["inference"]), overrides | more, workflow_type="infer", output_dir=str(tmp_path))
    mask = np.asarray(read_nifti(tmp_path / "test0/anomaly_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, read_nifti(tmp_path / "test0/anomaly_map.nii.gz").get_fdata() >= cut)
    report = json.loads((tmp_path / "test0/scores.json").read_text())
    assert report["anomalous_voxels"] == mask.sum() > 0
    assert (report["threshold"], report["threshold_fpr"]) == (cut, 0.05)


def test_network_maps_one_tensor_to_one_tensor() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(CONFIGS / "metadata.json"),
            config_file=str(CONFIGS / "train.json"),
            device="cpu",
        )


def test_commands_refuse_unknown_overrides(command: Any, tmp_path: Path) -> None:
    done = command(tmp_path, "--config_file", str(CONFIGS / "train.json"), "--lambda_primry", "2")
    assert done.code == 1
    assert "--lambda_primry: the config has no such key; the nearest is --lambda_primary" in done.last_line
    assert not list(tmp_path.iterdir())
