"""The registration bundle on made-up heads: trains, resumes, evaluates against controls, registers files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from PIL import Image

from robustmed_monai.inferers.registration import checkerboard, registration_sheet
from robustmed_monai.networks.registration import RegistrationNet, load_registration_net
from robustmed_monai.transforms.field_files import read_field
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "cifl_registration" / "configs"
NOTHING = {"_target_": "robustmed_monai.metrics.registration.no_registration", "_mode_": "callable"}
OVERLAYS = ["raw", "mind", "augmented", "synth", "compared"]
SHAPE = (20, 24, 12)

Overrides = dict[str, Any]


def configs(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.json") for name in names]


def head(rng: np.random.Generator, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid within one within one, of random size and place: image in [0, 1] and labels."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    distance = np.sqrt(sum(((g - rng.uniform(-0.1, 0.1)) / rng.uniform(0.6, 0.9)) ** 2 for g in grid))
    label = np.digitize(-distance, [-1, -0.7, -0.4]).astype(np.uint8)
    return np.array([0, 0.3, 0.6, 0.9])[label] + rng.normal(0, 0.02, shape) * (label > 0), label


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three subjects per section, with labels."""
    folder, rng = tmp_path_factory.mktemp("heads"), np.random.default_rng(0)
    for section in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (folder / section / kind).mkdir(parents=True)
        for i in range(4):
            image, label = head(rng, (32, 32))
            pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
            Image.fromarray(pixels.T).save(folder / section / "images" / f"{section}{i}.png")
            Image.fromarray(label.T).save(folder / section / "labels" / f"{section}{i}.png")
    return folder


@pytest.fixture(scope="session")
def feature_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of an untrained network, whose file says how it is built."""
    from robustmed_monai.networks.cifl import CIFL

    torch.manual_seed(0)
    settings = {"out_channels": 4, "channels": 4, "filters": 4, "depth": 2}
    features = CIFL(out_channels=4, channels=4, depth=2)
    path = tmp_path_factory.mktemp("features") / "model.pt"
    save_weights(features.state_dict(), path, settings)
    return path


@pytest.fixture
def tiny(heads: Path, feature_weights: Path) -> Overrides:
    """Overrides that make a run of a second or two."""
    return {
        "dataset_dir": str(heads),
        "image_size": 32,
        "channels": [4, 4, 4, 4],
        "batch_size": 2,
        "max_epochs": 2,
        "val_interval": 1,
        "val_pairs": 3,
        "features_weights": str(feature_weights),
    }


def raw(tiny: Overrides) -> Overrides:
    return {k: v for k, v in tiny.items() if k != "features_weights"}


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Weights of a network of 2 or 3 dimensions that moves by a few voxels."""

    def write(spatial_dims: int) -> Path:
        torch.manual_seed(1)
        network = RegistrationNet(spatial_dims, channels=[4, 4])
        backbone: Any = network.backbone
        torch.nn.init.constant_(backbone.net[1].final_conv_out.conv.bias, 1.5)
        info = {"spatial_dims": spatial_dims, "channels": [4, 4], "image_size": 32, "spacing": 2.0}
        path = tmp_path_factory.mktemp("weights") / "model.pt"
        save_weights(network.state_dict(), path, info)
        return path

    return write


class TestConfigs:
    def test_properties_and_promises(self, workflow: Any, tiny: Overrides, tmp_path: Path) -> None:
        train = workflow(configs("train"), tiny, output_dir=str(tmp_path))
        train.initialize()
        assert train.check_properties() == []
        train.finalize()
        for path in CONFIGS.glob("*.json"):
            content = json.loads(path.read_text())
            assert path.name == "metadata.json" or len(content["_desc_"]) > 30
            if path.stem in ("train", "evaluate", "inference"):
                assert {"dataset_dir", "output_dir", "device", "bundle_root"} <= set(content)
                assert content["initialize"][0]["_target_"].endswith("check_overrides")

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_overlays_train(self, bundle: Any, tiny: Overrides, tmp_path: Path, overlay: str) -> None:
        given = tiny if overlay == "compared" else raw(tiny)
        bundle(configs("train", overlay), {**given, "max_epochs": 1}, output_dir=str(tmp_path))
        network = load_registration_net(tmp_path / "model.pt")
        assert (network.features is None) == (overlay not in ("mind", "compared"))
        assert load_info(tmp_path / "model.pt")["metric"] == "val_mean_dice"


class TestTraining:
    def test_same_seed_same_bits_and_resuming_too(self, bundle: Any, tiny: Overrides, tmp_path: Path) -> None:
        bundle(configs("train"), tiny, output_dir=str(tmp_path / "whole"))
        schedule = {"schedule#max_epochs": 2, "schedule#first_epochs": 2}
        parts = {**tiny, **schedule, "output_dir": str(tmp_path / "parts")}
        bundle(configs("train"), {**parts, "max_epochs": 1})
        bundle(configs("train"), parts, resume=True)
        first, second = (load_weights(tmp_path / name / "model.pt") for name in ("whole", "parts"))
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert any(k.startswith("features.") for k in first), "one file holds all that registration needs"

    def test_features_given_or_computed_are_the_same(
        self, bundle: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        for name, precompute in (("before", True), ("during", False)):
            bundle(
                configs("train"),
                {**tiny, "max_epochs": 1},
                precompute=precompute,
                output_dir=str(tmp_path / name),
            )
        first, second = (load_weights(tmp_path / name / "model.pt") for name in ("before", "during"))
        for key, values in first.items():
            torch.testing.assert_close(values, second[key], atol=1e-4, rtol=1e-3)

    def test_learns_to_register(self, bundle: Any, tiny: Overrides, tmp_path: Path) -> None:
        longer = {
            **raw(tiny),
            "max_epochs": 60,
            "val_interval": 60,
            "learning_rate": 0.01,
            "smoothness": 0.02,
        }
        bundle(configs("train", "raw"), longer, output_dir=str(tmp_path / "out"))
        runs = {"raw": [str(tmp_path / "out" / "model.pt")]}
        evaluate(bundle, tiny, tmp_path, checkpoints=runs, controls={"no registration": NOTHING})
        found = cells(tmp_path / "results.json")
        assert found["T1", "t1_tissue"] > found["no registration", "t1_tissue"] + 0.05

    def test_bad_input_is_named(self, bundle: Any, tiny: Overrides, tmp_path: Path) -> None:
        with pytest.raises((RuntimeError, RobustMedError)) as caught:
            bundle(configs("train"), {**tiny, "backbone": "unet"}, output_dir=str(tmp_path))
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, RobustMedError):
            error = error.__cause__
        assert "choose one of" in str(error)


def evaluate(bundle: Any, tiny: Overrides, folder: Path, **more: Any) -> None:
    given = {k: tiny[k] for k in ("dataset_dir", "image_size")}
    bundle(configs("evaluate"), given, num_pairs=4, output_dir=str(folder), **more)


def cells(path: Path) -> dict[tuple[str, str], float]:
    return {(row["row"], row["column"]): row["mean"] for row in read_results(path)["rows"]}


class TestEvaluation:
    def test_all_rows_contrasts_and_tests(
        self, bundle: Any, tiny: Overrides, network_file: Any, tmp_path: Path
    ) -> None:
        weights = str(network_file(2))
        runs = {"raw": [weights, weights], "features": [weights, weights], "mine": [weights, weights]}
        small = {"mutual_information#control_points": 2, "mutual_information#iterations": 2}
        evaluate(bundle, tiny, tmp_path, checkpoints=runs, seeds=[0, 1], **small)
        content = read_results(tmp_path / "results.json")
        found = cells(tmp_path / "results.json")
        rows = {row for row, _ in found}
        assert rows == {"no registration", "mutual information", "T1", "CIFL features", "mine"}
        contrasts = {"t1", "inverted", "inverted_frame", "remapped", "t2_like"}
        assert {c for _, c in found} == {f"{c}{e}" for c in contrasts for e in ("", "_tissue", "_folds")}
        # What does not look at the image does not depend on its contrast, and does not fold.
        assert len({found["no registration", c] for c in contrasts}) == 1
        assert found["no registration", "t1_folds"] == 0
        same = [t for t in content["paired_tests"] if (t["row"], t["against"]) == ("CIFL features", "T1")]
        assert {t["column"] for t in same} == {f"{c}{e}" for c in contrasts for e in ("", "_tissue")}
        assert all(t["difference"] == 0 and t["p"] == 1 for t in same)
        assert {p.name for p in tmp_path.glob("*.png")} == {f"results_{c}.png" for c in contrasts}


def oblique(angle: float, spacing: float, origin: Sequence[float]) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-c, s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = origin
    return affine


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Path]:
    """A moving and a fixed volume of different contrast, on grids that differ."""
    rng = np.random.default_rng(2)
    paths = []
    for name, invert, affine in (
        ("moving", False, oblique(0.1, 2.0, (20, -25, -12))),
        ("fixed", True, oblique(0.0, 1.8, (18, -22, -11))),
    ):
        image, label = head(rng, SHAPE)
        image = np.where(label > 0, 1 - image, 0) if invert else image
        paths.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image((1000 * image).astype(np.float32), affine), paths[-1])
    return paths[0], paths[1]


class TestInference:
    @pytest.mark.parametrize(("spatial_dims", "affine"), [(2, False), (2, True), (3, False)])
    def test_volumes_on_different_grids_and_simpleitk_agrees(
        self,
        bundle: Any,
        network_file: Any,
        volumes: tuple[Path, Path],
        tmp_path: Path,
        spatial_dims: int,
        affine: bool,
    ) -> None:
        moving, fixed = volumes
        out = tmp_path / "out"
        given = {"moving": str(moving), "fixed": str(fixed), "affine": affine}
        bundle(configs("inference"), given, weights=str(network_file(spatial_dims)), output_dir=str(out))
        moved: Any = nib.load(out / "moving" / "moved.nii.gz")
        like: Any = nib.load(fixed)
        grid_of_moving: Any = nib.load(moving)
        assert moved.shape == SHAPE
        np.testing.assert_allclose(moved.affine, like.affine, atol=1e-5)
        source, target = (SimpleITK.ReadImage(str(p)) for p in (moving, fixed))
        field = SimpleITK.ReadImage(str(out / "moving" / "field.nii.gz"), SimpleITK.sitkVectorFloat64)
        transform = SimpleITK.DisplacementFieldTransform(field)
        theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(source, target, transform)).T
        np.testing.assert_allclose(moved.get_fdata(), theirs, atol=0.05)
        assert np.ptp(theirs) > 500
        back, grid = read_field(out / "moving" / "inverse_field.nii.gz")
        assert back.shape == (3, *SHAPE)
        np.testing.assert_allclose(grid.numpy(), grid_of_moving.affine, atol=1e-4)
        report = json.loads((out / "moving" / "registration.json").read_text())
        assert report["mean_displacement_mm"] > 0.5
        assert (report["alignment"] is not None) == affine
        assert (out / "moving" / "checkerboard.png").stat().st_size > 1000

    def test_slices_move_as_far_as_the_network_says(
        self, bundle: Any, network_file: Any, volumes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """The made network moves by nearly 1.5 of its pixels of 2 mm; the volume's voxels have 1.8 mm."""
        _, fixed = volumes
        given = {"moving": str(fixed), "fixed": str(fixed)}
        bundle(configs("inference"), given, weights=str(network_file(2)), output_dir=str(tmp_path / "out"))
        ddf, _ = read_field(tmp_path / "out" / "fixed" / "field.nii.gz")
        middle = ddf[:, 7:13, 8:16, 4:8]
        assert middle[:2].abs().mean().item() == pytest.approx(1.5 * 2.0 / 1.8, rel=0.1)
        assert middle[2].abs().max() < 1e-4

    def test_a_checkerboard_takes_both_images_in_turn(self) -> None:
        one, two = torch.zeros(1, 1, 24, 36), torch.ones(1, 1, 24, 36)
        board = checkerboard(one, two)
        assert board.mean() == 0.5
        assert torch.equal(checkerboard(two, one), 1 - board)
        assert torch.equal(checkerboard(one, one), one)

    def test_lines_of_the_sheet_move_as_the_image_does(self) -> None:
        image = MetaTensor(torch.rand(2, 33, 25, 1, generator=torch.Generator().manual_seed(0)))
        shift = MetaTensor(torch.zeros(2, 33, 25, 1))
        shift[0] = -2
        space = {"image": image, "moved": MetaTensor(image[:1])}
        sheets = [registration_sheet({"network_space": {**space, "ddf": ddf}}) for ddf in (shift * 0, shift)]
        still, moved = (np.asarray(sheet.axes[3].images[0].get_array()) for sheet in sheets)
        assert still[:, 8].min() == still[8].min() == 1
        assert still.mean() < 0.3
        np.testing.assert_allclose(moved[:, 10], still[:, 8])

    @pytest.mark.parametrize(("shift", "reason"), [(1000.0, "does not overlap"), (None, "is empty")])
    def test_pairs_without_anything_in_common_are_refused(
        self,
        bundle: Any,
        network_file: Any,
        volumes: tuple[Path, Path],
        tmp_path: Path,
        shift: float | None,
        reason: str,
    ) -> None:
        source: Any = nib.load(volumes[0])
        affine, values = source.affine.copy(), source.get_fdata(dtype=np.float32)
        affine[0, 3] += shift or 0.0
        moving = tmp_path / "other.nii.gz"
        nib.save(nib.Nifti1Image(values if shift else -values, affine), moving)
        given = {"moving": str(moving), "fixed": str(volumes[1])}
        with pytest.raises(RuntimeError) as caught:
            bundle(configs("inference"), given, weights=str(network_file(2)), output_dir=str(tmp_path / "o"))
        assert reason in str(caught.value.__cause__)

    def test_pictures_of_a_folder_against_one(
        self, bundle: Any, network_file: Any, heads: Path, tmp_path: Path
    ) -> None:
        images = heads / "test" / "images"
        given = {"moving": str(images), "fixed": str(images / "test0.png")}
        bundle(configs("inference"), given, weights=str(network_file(2)), output_dir=str(tmp_path))
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert len(summary["images"]) == 4
        assert np.asarray(Image.open(tmp_path / "test1" / "moved.png")).shape == (32, 32)
        ddf, _ = read_field(tmp_path / "test1" / "field.nii.gz")
        assert ddf.shape == (2, 32, 32)

    def test_a_pair_that_does_not_fit_is_named(
        self, bundle: Any, network_file: Any, volumes: tuple[Path, Path], heads: Path, tmp_path: Path
    ) -> None:
        picture = heads / "test" / "images" / "test0.png"
        given = {"moving": str(picture), "fixed": str(volumes[1])}
        with pytest.raises(RuntimeError) as caught:
            bundle(configs("inference"), given, weights=str(network_file(2)), output_dir=str(tmp_path / "o"))
        assert "give two images of the same kind" in str(caught.value.__cause__)

    def test_a_slice_and_a_volume_are_refused_by_name(
        self, bundle: Any, network_file: Any, volumes: tuple[Path, Path], tmp_path: Path
    ) -> None:
        source: Any = nib.load(volumes[0])
        flat = tmp_path / "flat.nii.gz"
        nib.save(nib.Nifti1Image(source.get_fdata(dtype=np.float32)[:, :, 8], source.affine), flat)
        given = {"moving": str(flat), "fixed": str(volumes[1])}
        with pytest.raises(RuntimeError) as caught:
            bundle(configs("inference"), given, weights=str(network_file(2)), output_dir=str(tmp_path / "o"))
        assert f"{flat}: one voxel thick, 2 dimensions" in str(caught.value.__cause__)
        assert str(volumes[1]) in str(caught.value.__cause__)
