"""Inference by the config: volumes, pictures and folders in; maps on their grid, scores and sheets out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.utils.errors import ConfigError, ImageError, RobustMedError, WeightsError
from robustmed_monai.utils.files import read_json

FILES = ("pseudo_healthy", "anomaly_map", "anomaly_mask")
Infer = Callable[..., Path]


@pytest.fixture(scope="module")
def infer(bundle: Any, tiny_network: dict[str, Any], trained: Path) -> Infer:
    """`infer(input, output, **overrides)` runs inference.json with the tiny weights and returns `output`."""

    def run(given: Path, output: Path, **overrides: Any) -> Path:
        # These heads have no size in mm: they are fitted, as the pictures of the training were.
        known: dict[str, Any] = {
            "weights": str(trained / "model.pt"),
            "input": str(given),
            "output_dir": str(output),
        }
        known["spacing"] = None
        bundle("inference.json", tiny_network | known | overrides, workflow_type="infer")
        return output

    return run


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique left-handed int16 volume of 14 slices along its second axis, the outer ones empty."""
    z = np.linspace(-1.3, 1.3, 14)
    heads = [draw(1 - abs(v)) for v in z]
    voxels = (np.stack(heads, 1) * 900).astype(np.int16)
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    # Axes of the file: to the left, up, to the front.
    affine[:3, :3] = turn @ np.array([[-1.2, 0, 0], [0, 0, 1.2], [0, 4.0, 0]])
    affine[:3, 3] = (31.5, -40.25, 12.125)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    path = tmp_path_factory.mktemp("in") / "sub-01_T1w.nii.gz"
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def inferred(infer: Infer, volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of the volume."""
    return infer(volume, tmp_path_factory.mktemp("inferred"))


def draw(size: float, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    """A head like those of the training data, smaller for a smaller `size`, nothing for 0."""
    if size <= 0:
        return np.zeros(shape)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    distance = np.hypot(x / 0.72, y / 0.82) / size**0.2
    return np.where(distance < 1, np.where(distance < 0.3, 0.3, 0.6 + 0.1 * np.sin(6 * x)), 0)


def _cause(error: BaseException) -> RobustMedError:
    found: BaseException | None = error
    while found is not None and not isinstance(found, RobustMedError):
        found = found.__cause__
    assert found is not None, error
    return found


def _png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


class TestVolume:
    def test_comes_back_on_its_own_grid(self, inferred: Path, volume: Path, trained: Path) -> None:
        folder = inferred / "sub-01_T1w"
        source: Any = nib.load(volume)
        read = {}
        for name in FILES:
            image: Any = nib.load(folder / f"{name}.nii.gz")
            assert image.shape == source.shape
            assert np.array_equal(image.affine, source.affine)
            for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
                assert np.array_equal(image.header[field], source.header[field]), field
            assert np.array_equal(image.header.get_zooms(), source.header.get_zooms())
            read[name] = np.asanyarray(image.dataobj)
        assert [read[name].dtype for name in FILES] == [np.float32, np.float32, np.uint8]
        threshold = read_json(trained / "model.json")["info"]["calibration"]["thresholds"]["0.05"]
        report = read_json(folder / "scores.json")
        assert np.array_equal(read["anomaly_mask"], read["anomaly_map"] >= np.float32(threshold))
        # Slices lie along the second axis of this file; those unlike the training data stay out.
        known = {s["slice"] for s in report["slices"] if not s["warnings"]}
        assert report["assessed"] == len(known) > 0
        assert set(np.flatnonzero(read["anomaly_map"].any(axis=(0, 2)))) == known
        voxels = np.asanyarray(source.dataobj)
        assert 0 <= read["pseudo_healthy"].min() < read["pseudo_healthy"].max() <= voxels.max()
        # Slices lie along the second axis of this file.
        empty = ~voxels.any(axis=(0, 2))
        assert empty.sum() == 4
        assert not read["anomaly_map"][:, empty].any()
        assert not read["pseudo_healthy"][:, empty].any()

    def test_scores_say_which_slices_they_are_of(self, inferred: Path, volume: Path) -> None:
        report = read_json(inferred / "sub-01_T1w" / "scores.json")
        assert report["image"] == str(volume)
        assert report["threshold_fpr"] == 0.05
        # Slices are counted from below, as the axial view shows them; the empty ones have no entry.
        assert [entry["slice"] for entry in report["slices"]] == list(range(2, 12))
        scores = [entry["score"] for entry in report["slices"] if not entry["warnings"]]
        assert all(score > 0 for score in scores)
        assert report["score"] == pytest.approx(np.mean(scores))
        assert all(entry["score"] is None for entry in report["slices"] if entry["warnings"])
        mask: Any = nib.load(inferred / "sub-01_T1w" / "anomaly_mask.nii.gz")
        assert report["anomalous_voxels"] == int(np.asanyarray(mask.dataobj).sum())
        assert (inferred / "sub-01_T1w" / "worst_slices.png").read_bytes().startswith(b"\x89PNG")
        summary = read_json(inferred / "summary.json")
        assert summary["failed"] == {}
        assert [entry["image"] for entry in summary["images"]] == [str(volume)]

    def test_twice_gives_the_same_bytes(
        self, infer: Infer, inferred: Path, volume: Path, tmp_path: Path
    ) -> None:
        one, two = inferred / "sub-01_T1w", infer(volume, tmp_path) / "sub-01_T1w"
        for name in [*(f"{name}.nii.gz" for name in FILES), "scores.json", "worst_slices.png"]:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name

    def test_direction_of_the_file_does_not_matter(
        self, infer: Infer, inferred: Path, volume: Path, tmp_path: Path
    ) -> None:
        source: Any = nib.load(volume)
        to_ras = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(source.affine), nib.orientations.axcodes2ornt(("R", "A", "S"))
        )
        nib.save(source.as_reoriented(to_ras), tmp_path / "sub-02_T1w.nii.gz")
        folder = infer(tmp_path / "sub-02_T1w.nii.gz", tmp_path / "out") / "sub-02_T1w"
        for name in FILES:
            one: Any = nib.load(inferred / "sub-01_T1w" / f"{name}.nii.gz")
            two: Any = nib.load(folder / f"{name}.nii.gz")
            np.testing.assert_allclose(one.as_reoriented(to_ras).get_fdata(), two.get_fdata(), atol=1e-3)


class TestPicture:
    def test_comes_back_as_pictures(self, infer: Infer, dataset_dir: Path, tmp_path: Path) -> None:
        # A lesion this large changes the brightness of the head; without statistics every slice is assessed.
        settings: dict[str, Any] = {"postprocessing#transforms#0#statistics": None}
        folder = infer(dataset_dir / "test-1.png", tmp_path, **settings) / "test-1"
        assert {p.name for p in folder.iterdir()} == {
            *(f"{n}.png" for n in FILES),
            "scores.json",
            "worst_slices.png",
        }
        pictures = [_png(folder / f"{name}.png") for name in FILES]
        assert {p.shape for p in pictures} == {_png(dataset_dir / "test-1.png").shape}
        assert {p.dtype for p in pictures} == {np.dtype(np.uint8)}
        assert set(np.unique(pictures[2])) == {0, 255}
        report = read_json(folder / "scores.json")
        assert report["anomalous_voxels"] == (pictures[2] == 255).sum()


class TestFamiliarity:
    def test_images_like_the_training_data_get_no_warning(
        self, infer: Infer, dataset_dir: Path, tmp_path: Path
    ) -> None:
        report = read_json(infer(dataset_dir / "test-0.png", tmp_path) / "test-0" / "scores.json")
        assert report["warnings"] == []

    def test_others_do(self, infer: Infer, dataset_dir: Path, tmp_path: Path) -> None:
        inverted = 255 - _png(dataset_dir / "test-0.png")
        Image.fromarray(inverted).save(tmp_path / "inverted.png")
        report = read_json(infer(tmp_path / "inverted.png", tmp_path / "out") / "inverted" / "scores.json")
        assert report["warnings"][0].startswith("assessed 0 of 1 slices")
        assert report["score"] is None
        assert not (tmp_path / "out" / "inverted" / "worst_slices.png").exists()
        assert any(
            w.startswith("foreground is ") and "the training images have" in w for w in report["warnings"]
        )
        assert report["slices"][0]["warnings"] == report["warnings"][1:]

    def test_empty_images_say_so(self, infer: Infer, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "black.png")
        folder = infer(tmp_path / "black.png", tmp_path / "out") / "black"
        report = read_json(folder / "scores.json")
        assert report["warnings"] == ["the image is empty: no voxel is above 0"]
        assert (report["score"], report["slices"], report["anomalous_voxels"]) == (None, [], 0)
        assert not _png(folder / "anomaly_map.png").any()


class TestFolder:
    def test_one_bad_file_does_not_stop_the_others(
        self, infer: Infer, volume: Path, dataset_dir: Path, tmp_path: Path
    ) -> None:
        folder, out = tmp_path / "in", tmp_path / "out"
        (folder / "a").mkdir(parents=True)
        (folder / volume.name).write_bytes(volume.read_bytes())
        (folder / "a" / "test-0.png").write_bytes((dataset_dir / "test-0.png").read_bytes())
        (folder / "b").mkdir()
        (folder / "b" / "test-0.png").write_bytes((dataset_dir / "test-2.png").read_bytes())
        broken = folder / "a" / "broken.nii.gz"
        broken.write_bytes(volume.read_bytes()[:-9])
        with pytest.raises(RuntimeError) as caught:
            infer(folder, out)
        error = _cause(caught.value)
        assert isinstance(error, ImageError)
        assert str(error).startswith("1 of 4 images could not be used:")
        assert f"{broken}: the compressed data are damaged or cut off" in str(error)
        summary = read_json(out / "summary.json")
        assert list(summary["failed"]) == [str(broken)]
        done = {
            Path(entry["image"]).relative_to(folder).as_posix(): entry["folder"]
            for entry in summary["images"]
        }
        assert done == {
            "a/test-0.png": "a_test-0",
            "b/test-0.png": "b_test-0",
            "sub-01_T1w.nii.gz": "sub-01_T1w",
        }
        for name in done.values():
            assert (out / name / "scores.json").is_file()
        assert not (out / "broken").exists()


class TestSite:
    def test_healthy_images_of_a_site_give_p_values_and_a_threshold(
        self,
        infer: Infer,
        bundle: Any,
        tiny_network: dict[str, Any],
        trained: Path,
        dataset_dir: Path,
        tmp_path: Path,
    ) -> None:
        (tmp_path / "healthy").mkdir()
        rng, head = np.random.default_rng(0), _png(dataset_dir / "test-0.png").astype(float)
        for i in range(9):
            noisy = head + rng.normal(0, 2 + i, head.shape) * (head > 0)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "healthy" / f"{i}.png")
        known = {"weights": str(trained / "model.pt"), "spacing": None}
        where = {"input": str(tmp_path / "healthy"), "output_dir": str(tmp_path / "site")}
        files = ["inference.json", "calibrate.json"]
        bundle(files, tiny_network | known | where, workflow_type="infer")
        site = tmp_path / "site" / "site.json"

        out = infer(dataset_dir / "test-0.png", tmp_path / "out", site=str(site), share=0.1)
        report = read_json(out / "test-0" / "scores.json")
        healthy = [read_json(tmp_path / "site" / str(i) / "scores.json") for i in range(9)]
        above = sum(other["score"] >= report["score"] for other in healthy)
        assert report["p_value"] == (1 + above) / 10
        assert report["slices"][0]["p_value"] == report["p_value"]
        assert report["site"]["images"] == 9
        assert report["threshold"] > max(other["map_maximum"] for other in healthy)
        assert bool(report["anomalous_voxels"]) == (report["map_maximum"] >= report["threshold"])
        with pytest.raises(RuntimeError) as caught:
            infer(dataset_dir / "test-0.png", tmp_path / "other", site=str(site), share=0.05)
        assert "9 healthy images cannot vouch for it; 19 or more" in str(_cause(caught.value))

        # Maps relative to a healthy reference, which other images of the folder make.
        where["output_dir"] = str(tmp_path / "relative")
        bundle(files, tiny_network | known | where | {"reference_share": 0.34}, workflow_type="infer")
        site = tmp_path / "relative" / "site.json"
        used = read_json(site)
        assert [len(used["scores"]), used["reference"]["images"]] == [6, 3]
        out = infer(dataset_dir / "test-0.png", tmp_path / "against", site=str(site))
        against = read_json(out / "test-0" / "scores.json")
        assert against["site"]["reference"] == used["reference"]
        assert against["score"] != report["score"]


class TestRefusals:
    def test_of_rates_that_the_weights_are_not_calibrated_at(
        self, infer: Infer, volume: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(RuntimeError) as caught:
            infer(volume, tmp_path, fpr=0.03)
        error = _cause(caught.value)
        assert isinstance(error, ConfigError)
        assert (
            str(error)
            == "fpr=0.03: the weights are calibrated at ['0.01', '0.02', '0.05']; choose one of these."
        )

    def test_of_altered_weights(self, infer: Infer, volume: Path, trained: Path, tmp_path: Path) -> None:
        content = bytearray((trained / "model.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "model.pt").write_bytes(content)
        (tmp_path / "model.json").write_bytes((trained / "model.json").read_bytes())
        with pytest.raises(RuntimeError) as caught:
            infer(volume, tmp_path / "out", weights=str(tmp_path / "model.pt"))
        error = _cause(caught.value)
        assert isinstance(error, WeightsError)
        assert "was altered" in str(error)
        assert not (tmp_path / "out").exists()

    def test_of_weights_of_another_network(self, infer: Infer, volume: Path, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError) as caught:
            infer(volume, tmp_path, channels=[4, 8, 16])
        assert "does not fit ReversedAutoEncoder" in str(_cause(caught.value))

    def test_of_nan_unless_they_are_to_be_replaced(self, infer: Infer, volume: Path, tmp_path: Path) -> None:
        source: Any = nib.load(volume)
        voxels = source.get_fdata(dtype=np.float32)
        voxels[20, 7, 20] = np.nan
        path = tmp_path / "nan.nii"
        nib.save(nib.Nifti1Image(voxels, source.affine), path)
        with pytest.raises(RuntimeError) as caught:
            infer(path, tmp_path / "refused")
        assert "1 of 1 images could not be used" in str(_cause(caught.value))
        assert f"{path}: 1 of " in str(_cause(caught.value))
        out = infer(path, tmp_path / "replaced", on_nonfinite="replace")
        maps: Any = nib.load(out / "nan" / "anomaly_map.nii.gz")
        assert np.isfinite(maps.get_fdata()).all()
