"""One evaluator for image files: laws of the way there and back, and what happens to files that are bad."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.transforms import Compose, Invertd

from robustmed_monai.engines.file_evaluator import FileEvaluator
from robustmed_monai.inferers.slicewise import SlicewiseInferer
from robustmed_monai.transforms import LoadCheckedImaged, ScaleForegroundd, UnscaleIntensityd, VolumeToSlicesd
from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, ImageError


def evaluate(files: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    """Outputs of a run whose network halves what it sees."""
    before = Compose(
        [
            LoadCheckedImaged("image", channels=1),
            ScaleForegroundd("image", 100),
            VolumeToSlicesd("image", size=12),
        ]
    )
    after = Compose([Invertd("pred", before, "image"), UnscaleIntensityd("pred", "image")])
    known: dict[str, Any] = {
        "network": torch.nn.Identity(),
        "inferer": SlicewiseInferer(lambda image, network: {"pred": network(image) / 2}),
        "postprocessing": after,
    }
    dataset = Dataset(files, settings.pop("preprocessing", before))
    evaluator = FileEvaluator("cpu", dataset, **{**known, **settings})
    evaluator.logger.disabled = True
    outputs: list[dict[str, Any]] = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: outputs.append(dict(engine.state.output))
    )
    try:
        evaluator.run()
    finally:
        evaluator.logger.disabled = False
    return outputs


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    voxels = np.zeros((10, 12, 7), np.int16)
    voxels[2:9, 3:11, 1:6] = np.random.default_rng(0).integers(100, 400, (7, 8, 5))
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_maps_come_back_on_the_grid_of_the_file(volume: Path) -> None:
    # No resampling at the own side of the slices: the way there and back is exact.
    (output,) = evaluate([{"image": str(volume)}])
    source = LoadCheckedImage()(volume)
    torch.testing.assert_close(output["pred"].as_tensor(), source.as_tensor() / 2)
    assert torch.equal(output["pred"].affine, source.affine)
    assert output["path"] == str(volume)
    assert output["warnings"] == []
    seen = output["network_space"]
    assert seen["pred"].shape == seen["image"].shape == (1, 12, 12, 7)


def test_a_bad_file_ends_nothing(volume: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(volume.read_bytes()[:-8])
    passed_over = {"image": "x.txt", "error": "x.txt: no image type"}
    outputs = evaluate([{"image": str(torn)}, passed_over, {"image": str(volume)}])
    assert set(outputs[0]) == {"path", "error"}
    assert outputs[0]["error"].startswith(str(torn))
    assert outputs[1] == {"path": "x.txt", "error": "x.txt: no image type"}
    assert "error" not in outputs[2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImageError("x.nii: is bad"), "x.nii: is bad"),
        (MemoryError(), "x.nii: needs more memory than there is (MemoryError:); run it alone, crop it"),
        (torch.OutOfMemoryError("CUDA"), "x.nii: needs more memory than there is (OutOfMemoryError: CUDA)"),
        (RuntimeError("can't allocate memory: 9"), "x.nii: needs more memory than there is"),
        (IndexError("9\nmore"), "x.nii: an error that this package did not foresee (IndexError: 9); look"),
    ],
)
def test_reasons_are_those_behind_monais(error: Exception, message: str) -> None:
    def fail(data: Any) -> Any:
        raise error

    (output,) = evaluate([{"image": "x.nii"}], preprocessing=Compose([fail]))
    assert set(output) == {"path", "error"}
    assert output["error"].startswith(message)


def test_the_log_is_about_images(volume: Path, caplog: pytest.LogCaptureFixture) -> None:
    def failed(engine: Any) -> None:
        raise ImageError("1 of 1 images could not be used")

    evaluator = FileEvaluator("cpu", Dataset([{"image": "x.nii"}]), torch.nn.Identity(), lambda x, n: x)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.logger.info("one image"))
    evaluator.add_event_handler(Events.COMPLETED, failed)
    with caplog.at_level("INFO"), pytest.raises(ImageError):
        evaluator.run()
    # What ended the run is raised, not said once more.
    assert "one image" in caplog.text
    assert "Engine run" not in caplog.text
    assert "Epoch[" not in caplog.text


def test_a_bad_setting_ends_the_run(volume: Path) -> None:
    def fail(image: Any, network: Any) -> Any:
        raise ConfigError("perceptual='x' is unknown")

    with pytest.raises(ConfigError, match="is unknown"):
        evaluate([{"image": str(volume)}], inferer=fail)


def test_doubts_about_the_image_are_part_of_the_result(volume: Path) -> None:
    def doubt(data: Any) -> Any:
        warnings.warn("which one?", GeometryWarning, stacklevel=1)
        warnings.warn("unrelated", FutureWarning, stacklevel=1)
        return {**data, "warnings": ["found later"]}

    with pytest.warns(FutureWarning, match="unrelated"):
        (output,) = evaluate([{"image": str(volume)}], postprocessing=doubt)
    assert output["warnings"] == ["which one?", "found later"]


def test_an_empty_image_says_so(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), np.int16), np.eye(4)), tmp_path / "empty.nii")
    (output,) = evaluate([{"image": str(tmp_path / "empty.nii")}])
    assert output["warnings"] == ["the image is empty: no voxel is above 0"]
    assert not output["pred"].any()


def test_without_files_the_end_of_the_run_happens_all_the_same() -> None:
    ended: list[bool] = []

    class Handler:
        def attach(self, engine: Any) -> None:
            engine.add_event_handler(Events.COMPLETED, lambda _: ended.append(True))

    assert evaluate([], val_handlers=[Handler()]) == []
    assert ended == [True]
