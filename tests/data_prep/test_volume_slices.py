"""The law of data preparation: its slice of a head is inference's slice of that head, on every grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy import ndimage

from robustmed_monai.data.datalist import training_spacing
from robustmed_monai.data.slice_dataset import slice_transforms
from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.data_prep import folder, ixi

Array = NDArray[Any]
RA = Path(__file__).parents[2] / "bundles/ra/configs/inference.json"
PREPARED: dict[str, Any] = {"size": 128, "spacing_mm": 1.8}


def _native(voxels: Array, affine: Array) -> tuple[Array, Array]:
    """As IXI stores its scans: sagittal, 1.2 mm thick, 0.94 mm within."""
    sizes = np.asarray([1.2, 0.94, 0.94])
    step = sizes / 1.8
    shape = np.floor((np.asarray(voxels.shape) - 1) / step).astype(int) + 1
    finer = ndimage.affine_transform(voxels, np.diag(step), output_shape=tuple(shape), order=1)
    image = nib.Nifti1Image(finer, affine @ np.diag([*step, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple("PSR"))
    )
    made: Any = image.as_reoriented(turn)
    return np.asarray(made.dataobj), made.affine


def _wide(voxels: Array, affine: Array) -> tuple[Array, Array]:
    """More air before and behind, and below."""
    moved = affine.copy()
    moved[:3, 3] = (affine @ [-20, -3, 0, 1])[:3]
    return np.pad(voxels, ((20, 5), (3, 30), (0, 0))), moved


GRIDS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "as it is": lambda voxels, affine: (voxels, affine),
    "native": _native,
    "wide": _wide,
}


@pytest.fixture(scope="module")
def head() -> Array:
    """The upper half of a virtual head with its skull."""
    voxels: Array = (900 * virtual_subject(0, 0).image[:, :, 28:72]).astype(np.int16)
    return voxels


@pytest.fixture(params=GRIDS)
def scan(request: pytest.FixtureRequest, head: Array, tmp_path: Path) -> Path:
    """The file of a head on one of the grids, named as IXI names it."""
    affine = AFFINE.copy()
    affine[2, 3] += AFFINE[2, 2] * 28
    voxels, affine = GRIDS[request.param](head, affine)
    path = tmp_path / "in" / "IXI012-Guys-0001-T1.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def as_inference_sees(scan: Path, spacing: float) -> Array:
    """The stack (x, y, slices) that the shipped config of RA makes."""
    parser = ConfigParser()
    parser.read_config(RA)
    parser.update({"spacing": spacing})
    stack = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    return np.asarray(stack[0])


def test_prepared_slices_are_those_of_inference(scan: Path, tmp_path: Path, load: Any, pixels: Any) -> None:
    content = load(ixi.prepare(scan.parent, tmp_path / "out", slices=3, gap_mm=9, depth_mm=40, **PREPARED))
    seen = as_inference_sees(scan, 1.8)
    items = [item for section in ("training", "validation", "test") for item in content[section]]
    assert len(items) == 3
    for item in items:
        shown = pixels(tmp_path / "out" / item["image"]).T
        np.testing.assert_allclose(shown, 255 * seen[..., item["level"]], atol=0.501)


def test_training_sees_what_inference_sees(scan: Path, tmp_path: Path, load: Any) -> None:
    """Of pictures of another size too: they say how large the network's pixels are."""
    content = load(ixi.prepare(scan.parent, tmp_path / "out", depth_mm=40, splits=(1, 0, 0)))
    (item,) = content["training"]
    item["image"] = str(tmp_path / "out" / item["image"])
    spacing = training_spacing([item], 128, None)
    assert spacing is not None
    assert spacing == pytest.approx(233 / 128)
    trained = np.asarray(slice_transforms(128)(item)["image"][0, ..., 0])
    applied = as_inference_sees(scan, spacing)[..., item["level"]]
    # Both by the white of the volume: a slice alone would be brighter.
    factor = (trained * applied).sum() / (applied**2).sum()
    assert factor == pytest.approx(1, abs=0.01)
    assert np.abs(trained - applied).mean() < 0.02 * trained[trained > 0.1].mean()


def test_a_volume_wider_than_the_pictures_is_reported(tmp_path: Path, write_nifti: Any, head: Array) -> None:
    write_nifti(tmp_path / "in/sub-1.nii.gz", head, 1.8)
    words = ["--source", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--size", "100"]
    assert folder.main([*words, "--splits", "1", "0", "0"]) == 0
    assert "the pictures 100 mm; give a larger --size" in (tmp_path / "out/prepare_report.json").read_text()
