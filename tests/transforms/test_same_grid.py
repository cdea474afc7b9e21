"""Masks on the grid of their image: turned where headers tell, warned of where they contradict."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from robustmed_monai.apps.stress.data import datalist_data
from robustmed_monai.data.pairs import tissue_images
from robustmed_monai.transforms import LoadCheckedImage, VolumeToSlicesd
from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.same_grid import has_voxel_size, on_grid_of
from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.utils.files import write_json

AFFINE = np.array([[2.0, 0.1, 0, -10], [-0.1, 3, 0, 5], [0, 0, 4, 7], [0, 0, 0, 1]])


def _image(shape: tuple[int, int, int] = (10, 12, 8)) -> MetaTensor:
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, affine=torch.from_numpy(AFFINE))


@pytest.mark.parametrize("axcodes", ["LAS", "RPI", "LPS", "ASR", "IRP"])
def test_a_mask_stored_otherwise_is_turned_as_monai_does(axcodes: str) -> None:
    image = _image()
    turned: Any = Orientation(axcodes=axcodes, labels=None)(image)
    assert turned.shape != image.shape or not torch.equal(turned.as_tensor(), image.as_tensor())
    found = on_grid_of(image, turned)
    assert torch.equal(found.as_tensor(), image.as_tensor())
    assert torch.equal(found.affine, image.affine)


def test_a_mask_without_header_or_elsewhere_is_taken_voxel_by_voxel_with_a_warning() -> None:
    image = _image()
    moved = MetaTensor(image.as_tensor(), affine=image.affine.clone())
    moved.affine[0, 3] += 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(on_grid_of(image, moved).affine, image.affine)
        assert torch.equal(on_grid_of(image, image.as_tensor()), image.as_tensor())
    moved.affine[0, 3] += 0.2
    for other in (moved, MetaTensor(image.as_tensor())):
        with pytest.warns(GeometryWarning, match="places the label elsewhere .* by up to .* mm; it is taken"):
            found = on_grid_of(image, other)
        assert torch.equal(found.as_tensor(), image.as_tensor())
        assert torch.equal(found.affine, image.affine)


def test_the_headers_of_oblique_images_may_differ_in_the_last_bit() -> None:
    image = _image((6, 6, 6))
    half = np.sqrt(0.5)
    image.affine = torch.tensor(
        [[half, -half, 0, 0], [half, half, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    for tiny in (-1e-9, 1e-9):
        other = MetaTensor(image.as_tensor(), affine=image.affine.clone())
        other.affine[0, 0] += tiny
        assert torch.equal(on_grid_of(image, other).as_tensor(), image.as_tensor())


def test_other_voxels_are_refused() -> None:
    with pytest.raises(ImageShapeError, match=r"mask of \(10, 12, 7\) voxels for an image of \(10, 12, 8\)"):
        on_grid_of(_image(), _image((10, 12, 7)), key="mask")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A volume, and labels of it that are stored from left to right the other way round."""
    brain = np.zeros((16, 16, 8), np.float32)
    brain[2:6, 4:12] = 1
    affine = np.diag([1.5, 1.5, 3, 1])
    nib.save(nib.Nifti1Image(brain, affine), tmp_path / "image.nii.gz")
    other = affine.copy()
    other[0] = [-1.5, 0, 0, 22.5]
    nib.save(nib.Nifti1Image(brain[::-1].astype(np.uint8), other), tmp_path / "label.nii.gz")
    write_json(tmp_path / "datalist.json", {"test": [{"image": "image.nii.gz", "label": "label.nii.gz"}]})
    return tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"


def test_slices_pairs_and_stress_tests_see_the_label_where_the_image_is(pair: tuple[Path, Path]) -> None:
    load = LoadCheckedImage(channels=1)
    cut = VolumeToSlicesd(("image", "label"), mode=("bilinear", "nearest"))
    item: dict[Any, Any] = cut({"image": load(pair[0]), "label": load(pair[1])})
    assert torch.equal(item["image"].as_tensor(), item["label"].as_tensor())
    cube: dict[str, Any] = {"spatial_dims": 3, "spacing": 1.5, "image_size": (16, 16, 16)}
    plane: dict[str, Any] = {"spatial_dims": 2, "image_size": 16}
    for axes in (plane, cube):
        found = tissue_images("test", pair[0].parent, num_classes=2, **axes).tensors
        assert torch.equal(found["image"] > 0.5, found["label"] > 0)
        assert found["label"].any()
    views = datalist_data(pair[0].parent).views(0)
    assert torch.equal(views.images > 0.5, views.truth > 0)


def test_what_has_a_voxel_size(tmp_path: Path) -> None:
    def of(shape: tuple[int, ...], **meta: Any) -> bool:
        return has_voxel_size(MetaTensor(torch.zeros(shape), meta=meta))

    assert of((1, 8, 8, 2))
    assert of((1, 8, 8), filename_or_obj="a.nii.gz", original_affine=np.eye(4))
    # An X-ray has pixels of unknown size, as a picture has.
    assert not of((1, 8, 8), filename_or_obj="a.dcm")
    assert not of((1, 8, 8, 2), filename_or_obj="a.tif")
    assert not of((1, 8, 8))
    assert not has_voxel_size(torch.zeros(1, 8, 8, 2))
