"""Laws of the way from volumes to slices and back."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientation, Resize

from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.volume_slices import VolumeToSlices, VolumeToSlicesd, resize_to_square
from robustmed_monai.utils.errors import ConfigError, GeometryError, ImageShapeError, NonFiniteImageError

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
OBLIQUE = np.array([[0.2, -0.9, 0.1, 30], [0.1, 0.2, 2.9, -20], [1.1, 0.3, -0.4, 5], [0, 0, 0, 1]])
SPACING = 4.0


def volume(shape: tuple[int, ...], affine: Any = OBLIQUE, seed: int = 0) -> Any:
    return MetaTensor(
        torch.rand(shape, generator=torch.Generator().manual_seed(seed)), affine=torch.tensor(affine)
    )


def slicer(*args: Any, **settings: Any) -> Any:
    return VolumeToSlices(*args, **settings)


def head(voxel: tuple[float, float, float], margin: int = 0, shift: tuple[float, float] = (0, 0)) -> Any:
    """A smooth lopsided head of 130 x 160 x 110 mm with air around it, axes R, P, S."""
    size = [round(s / v) + 2 * margin for s, v in zip((200, 240, 160), voxel, strict=True)]
    x, y, z = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * v for n, v in zip(size, voxel, strict=True)], indexing="ij"
    )
    x, y = x - shift[0], y - shift[1]
    inside = 1 / (1 + np.exp((np.sqrt((x / 65) ** 2 + (y / 80) ** 2 + (z / 55) ** 2) - 1) * 12))
    inside[inside < 0.05] = 0
    values = inside * (0.6 + 0.2 * np.sin(x / 15) + 0.2 * np.cos(y / 20))
    affine = np.diag([voxel[0], -voxel[1], voxel[2], 1.0])
    return MetaTensor(torch.tensor(values[None], dtype=torch.float32), affine=torch.tensor(affine))


class TestWithoutSpacing:
    def test_orientation_equals_monai(self) -> None:
        image = volume((2, 5, 6, 7))
        slices = slicer()(image)
        expected: Any = Orientation("RPS", labels=LABELS)(image)
        width, height, _ = expected.shape[1:]
        side = max(width, height)
        x, y = (side - width) // 2, (side - height) // 2
        assert torch.equal(slices[:, x : x + width, y : y + height].as_tensor(), expected.as_tensor())
        assert slices.sum().item() == pytest.approx(expected.sum().item(), rel=1e-5)

    @pytest.mark.parametrize(
        "shape", [(1, 5, 6, 7), (3, 7, 4, 2), (1, 8, 5), (2, 1, 9), (1, 1, 1, 1), (1, 1, 9, 1)]
    )
    def test_identity_at_native_size_is_exact(self, shape: tuple[int, ...]) -> None:
        image, cut = volume(shape), slicer()
        back = cut.inverse(cut(image))
        assert torch.equal(back.as_tensor(), image.as_tensor())
        torch.testing.assert_close(back.affine, image.affine)

    @pytest.mark.parametrize("axcodes", ["RPS", "LAI", "SRP", "IPL", "ASR"])
    def test_labels_come_back_exactly_in_any_orientation(self, axcodes: str) -> None:
        labels, cut = (volume((1, 5, 6, 7)) * 40).round(), slicer(axcodes=axcodes, mode="nearest")
        assert torch.equal(cut.inverse(cut(labels)).as_tensor(), labels.as_tensor())

    def test_resize_is_monais(self) -> None:
        image = volume((2, 30, 30), np.eye(4))
        expected: Any = Resize((13, 13), mode="bilinear", anti_aliasing=True)(image)
        assert torch.equal(slicer(13)(image)[..., 0].as_tensor(), expected.as_tensor())
        expected = Resize((13, 13), mode="bilinear")(image)
        plain = slicer(13, anti_aliasing=False)(image)
        assert torch.equal(plain[..., 0].as_tensor(), expected.as_tensor())

    def test_padding_is_centred_zero(self) -> None:
        square = resize_to_square(torch.ones(1, 1, 4, 7), 7)
        assert square[0, 0].sum(1).tolist() == [0, 7, 7, 7, 7, 0, 0]

    def test_a_picture_is_fitted_whatever_the_spacing(self) -> None:
        picture = MetaTensor(torch.rand(1, 20, 30), meta={"filename_or_obj": "a/x.PNG"})
        assert torch.equal(slicer(16, SPACING)(picture), slicer(16)(picture))

    def test_slice_by_slice_equals_stack(self) -> None:
        image, cut = volume((1, 20, 22, 4), np.diag([1.0, -1, 1, 1])), slicer(16)
        for k in range(4):
            torch.testing.assert_close(cut(image)[..., k], cut(image[..., k])[..., 0], atol=1e-6, rtol=0)


class TestWithSpacing:
    """The same head gives the same slices at any in-plane voxel size and field of view."""

    @pytest.mark.parametrize("voxel", [(2, 2, 4), (1, 1, 4), (0.94, 1.2, 4), (1.2, 0.94, 4), (2.5, 1, 4)])
    def test_the_voxel_size_does_not_count(self, voxel: tuple[float, float, float]) -> None:
        cut = slicer(64, SPACING)
        expected, found = cut(head((1, 1, 4))), cut(head(voxel))
        assert (found - expected).abs().max() < 0.04
        assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.01)

    @pytest.mark.parametrize("margin", [4, 11])
    def test_air_around_the_head_does_not_count(self, margin: int) -> None:
        cut = slicer(64, SPACING)
        expected, found = cut(head((2, 2, 4))), cut(head((2, 2, 4), margin))
        kept = found[..., margin : found.shape[-1] - margin]
        torch.testing.assert_close(kept.as_tensor(), expected.as_tensor(), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("side", [1.0, 1.8, 2.4])
    def test_a_pixel_is_the_mean_over_its_area(self, side: float) -> None:
        values = np.random.default_rng(0).random(30)
        image = MetaTensor(
            torch.tensor(values, dtype=torch.float32)[None, :, None, None].expand(1, 30, 30, 2),
            affine=torch.tensor(np.diag([side, -side, 3.0, 1.0])),
        )
        slices = slicer(12, 2.0)(image)
        first = (torch.linalg.inv(image.affine) @ slices.affine)[0, 3].item()
        found = slices[0, :, 6, 0].numpy()
        for pixel in range(2, 10):
            area = first + (pixel + np.linspace(-0.5, 0.5, 4001)) * 2.0 / side
            assert found[pixel] == pytest.approx(np.interp(area, range(30), values).mean(), abs=2e-4)
        plain = slicer(12, 2.0, anti_aliasing=False)(image)[0, 5, 6, 0].item()
        assert plain == pytest.approx(np.interp(first + 5 * 2.0 / side, range(30), values), abs=1e-5)

    def test_where_the_head_lies_in_the_plane_does_not_count(self) -> None:
        cut = slicer(64, SPACING)
        expected, found = cut(head((2, 2, 4))), cut(head((2, 2, 4), shift=(10, -16)))
        assert (found - expected).abs().max() < 0.04

    @pytest.mark.parametrize("turn", list(product(permutations(range(3)), product((1, -1), repeat=3))))
    def test_all_48_orientations_give_the_same_slices(self, turn: Any) -> None:
        order, signs = turn
        image, cut = head((4, 5, 8)), slicer(32, 8.0)
        ornt = np.array(list(zip(order, signs, strict=True)))
        array = nib.orientations.apply_orientation(image[0].numpy(), ornt)
        affine = image.affine.numpy() @ nib.orientations.inv_ornt_aff(ornt, image.shape[1:])
        turned = MetaTensor(torch.tensor(np.ascontiguousarray(array))[None], affine=torch.tensor(affine))
        torch.testing.assert_close(cut(turned).as_tensor(), cut(image).as_tensor(), atol=1e-5, rtol=0)
        torch.testing.assert_close(cut.inverse(cut(turned)).affine, turned.affine)

    def test_a_slice_is_a_slice_with_two_axes_or_three(self, tmp_path: Path) -> None:
        values = head((1.5, 2, 4))[0, :, :, 20].numpy()
        for name, array in (("flat", values), ("thin", values[..., None])):
            nib.save(nib.Nifti1Image(array, np.diag([1.5, -2, 4, 1])), tmp_path / f"{name}.nii")
        flat, thin = (LoadCheckedImage()(tmp_path / f"{name}.nii") for name in ("flat", "thin"))
        cut = slicer(64, SPACING)
        torch.testing.assert_close(cut(flat).as_tensor(), cut(thin).as_tensor())

    def test_smooth_maps_come_back_where_they_were(self) -> None:
        image, cut = head((1.3, 2, 4)), slicer(96, 2.5)
        back = cut.inverse(cut(image))
        assert back.shape == image.shape
        assert (back - image).abs().max() < 0.06
        torch.testing.assert_close(back.affine, image.affine)

    def test_the_affine_says_where_the_slices_lie(self) -> None:
        image, cut = head((1.3, 2, 4), shift=(9, 4)), slicer(96, 2.5)
        slices = cut(image)
        # The same place in the world, asked of both grids.
        world = torch.tensor([20.0, -30.0, 12.0, 1.0], dtype=torch.float64)
        places = [torch.linalg.inv(i.affine.double()) @ world for i in (image, slices)]
        near = [i[0][tuple(p[:3].round().long())] for i, p in zip((image, slices), places, strict=True)]
        assert abs(near[0] - near[1]) < 0.05
        torch.testing.assert_close(slices.affine[:3, :3].norm(dim=0), torch.tensor([2.5, 2.5, 4.0]).double())

    def test_size_none_takes_in_the_whole_image(self) -> None:
        image = head((2, 2, 8))
        slices = slicer(spacing=SPACING)(image)
        assert slices.shape == (1, 60, 60, 20)
        assert float(slices.sum()) * 4 == pytest.approx(float(image.sum()), rel=0.01)


class TestDictionary:
    def test_masks_go_with_their_image_and_invertd_brings_them_back(self) -> None:
        image = head((2, 2, 8))
        data = {"image": image, "mask": (image > 0.5).float()}
        before = Compose([VolumeToSlicesd(["image", "mask"], 64, SPACING, mode=["bilinear", "nearest"])])
        cut = before(data)
        assert set(cut["mask"].unique().tolist()) == {0, 1}
        assert torch.equal(cut["mask"].affine, cut["image"].affine)
        cut["pred"] = cut["image"].clone()
        after = Invertd(["pred", "mask"], before, "image", nearest_interp=[False, True])(cut)
        assert set(after["mask"].unique().tolist()) == {0, 1}
        agreement = (after["mask"] == data["mask"]).float().mean()
        assert agreement > 0.98
        assert (after["pred"] - image).abs().max() < 0.06

    def test_a_mask_on_another_grid_is_refused(self) -> None:
        with pytest.raises(ImageShapeError, match="give one on the image's grid"):
            VolumeToSlicesd(["image", "mask"])({"image": head((4, 4, 8)), "mask": head((5, 4, 8))})

    def test_missing_keys_are_allowed_where_asked(self) -> None:
        cut = VolumeToSlicesd(["image", "mask"], allow_missing_keys=True)
        assert set(cut({"image": volume((1, 5, 6, 7))})) == {"image"}


def test_accepted_kinds_give_equal_results() -> None:
    image, cut = volume((1, 9, 8, 7), np.eye(4)), slicer(12)
    expected = cut(image).as_tensor()
    plain = image.as_tensor()
    strided = plain.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not strided.is_contiguous()
    frozen = plain.numpy().copy()
    frozen.flags.writeable = False
    kinds: list[Any] = [plain, strided, plain.clone().requires_grad_(), plain.double(), plain.numpy(), frozen]
    for kind in kinds:
        slices = cut(kind)
        torch.testing.assert_close(slices.as_tensor(), expected, atol=1e-6, rtol=0)
        assert not slices.requires_grad
    for dtype in (torch.uint8, torch.int8, torch.uint16, torch.bool):
        whole = (plain > 0.5).to(dtype)
        assert torch.equal(cut(whole), cut(whole.float()))


def test_a_volume_one_voxel_thick_is_one_slice() -> None:
    # Coronal, as the 2-D files of neurite-oasis: axes L, I, A.
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    image, cut = volume((1, 16, 19, 1), affine), slicer()
    slices = cut(image)
    assert slices.shape == (1, 19, 19, 1)
    # To the right along x, downwards along y.
    assert torch.equal(slices[0, 1:17, :, 0].as_tensor(), image.as_tensor()[0, :, :, 0].flip(0))
    assert torch.equal(cut.inverse(slices).as_tensor(), image.as_tensor())


def test_refusals_are_named() -> None:
    image, cut = volume((1, 5, 6, 7)), slicer(8)
    slices = cut(image)
    with pytest.raises(ImageShapeError, match=r"expected shape \(C, 8, 8, \d\), got"):
        cut.inverse(slices[..., :1])
    with pytest.raises(ImageShapeError, match="use Invertd"):
        cut.inverse(torch.zeros(1, 8, 8, 6))
    with pytest.raises(ConfigError, match="size is 0"):
        slicer(0)
    with pytest.raises(ConfigError, match="spacing is -1"):
        slicer(8, -1)
    with pytest.raises(ConfigError, match="mode is 'cubic'"):
        slicer(8, mode="cubic")
    with pytest.raises(ConfigError, match="axcodes is 'RRS'"):
        slicer(8, axcodes="RRS")(image)
    with pytest.raises(NonFiniteImageError):
        cut(image * float("nan"))
    with pytest.raises(GeometryError):
        cut(MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.zeros(4, 4)))
    with pytest.raises(ImageShapeError, match="complex"):
        cut(torch.zeros(1, 4, 4, 4, dtype=torch.complex64))
