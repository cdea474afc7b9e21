"""Laws of the way from volumes to slices and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Resize

from robustmed_monai.transforms.slices import resize_to_square, slices_to_volume, volume_to_slices
from robustmed_monai.utils.errors import ConfigError, GeometryError, ImageShapeError, NonFiniteImageError

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
OBLIQUE = np.array([[0.2, -0.9, 0.1, 30], [0.1, 0.2, 2.9, -20], [1.1, 0.3, -0.4, 5], [0, 0, 0, 1]])


def volume(shape: tuple[int, ...], affine: Any = OBLIQUE, seed: int = 0) -> Any:
    return MetaTensor(
        torch.rand(shape, generator=torch.Generator().manual_seed(seed)), affine=torch.tensor(affine)
    )


def test_orientation_equals_monai() -> None:
    image = volume((2, 5, 6, 7))
    slices, geometry = volume_to_slices(image, low=0, high=1)
    expected: Any = Orientation("RPS", labels=LABELS)(image)
    width, height, count = expected.shape[1:]
    assert geometry.stack_shape == (width, height, count)
    side = max(width, height)
    x, y = (side - width) // 2, (side - height) // 2
    for k in range(count):
        assert torch.equal(slices[k, :, x : x + width, y : y + height], expected.as_tensor()[..., k])
    assert slices.sum().item() == pytest.approx(expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    "shape", [(1, 5, 6, 7), (3, 7, 4, 2), (1, 8, 5), (2, 1, 9), (1, 1, 1, 1), (1, 1, 9, 1)]
)
def test_identity_at_native_size_is_exact(shape: tuple[int, ...]) -> None:
    image = volume(shape)
    slices, geometry = volume_to_slices(image, low=0, high=1)
    back = slices_to_volume(slices, geometry)
    assert torch.equal(back.as_tensor(), image.as_tensor())
    assert torch.equal(back.affine, image.affine)


@pytest.mark.parametrize("axcodes", ["RPS", "LAI", "SRP", "IPL", "ASR"])
def test_labels_come_back_exactly_in_any_orientation(axcodes: str) -> None:
    labels = (volume((1, 5, 6, 7)) * 40).round()
    slices, geometry = volume_to_slices(labels, mode="nearest-exact", axcodes=axcodes)
    assert torch.equal(
        slices_to_volume(slices, geometry, mode="nearest-exact").as_tensor(), labels.as_tensor()
    )


def test_nearest_keeps_label_values_when_resized() -> None:
    labels = (volume((1, 20, 22, 3)) * 4).round() * 50
    slices, geometry = volume_to_slices(labels, 16, mode="nearest-exact")
    assert set(slices.unique().tolist()) <= set(labels.unique().tolist())
    back = slices_to_volume(slices, geometry, mode="nearest-exact")
    assert set(back.unique().tolist()) <= set(labels.unique().tolist())


def test_resize_is_monais() -> None:
    image = volume((2, 30, 30), np.eye(4))
    slices, _ = volume_to_slices(image, 13, high=1)
    expected: Any = Resize((13, 13), mode="bilinear", anti_aliasing=True)(image)
    assert torch.equal(slices[0], expected.as_tensor())
    plain, _ = volume_to_slices(image, 13, high=1, anti_aliasing=False)
    expected = Resize((13, 13), mode="bilinear")(image)
    assert torch.equal(plain[0], expected.as_tensor())


def test_padding_is_centred_zero() -> None:
    square = resize_to_square(torch.ones(1, 1, 4, 7), 7)
    assert square[0, 0].sum(1).tolist() == [0, 7, 7, 7, 7, 0, 0]


def test_smooth_map_survives_resizing() -> None:
    x, y = torch.meshgrid(torch.linspace(-1, 1, 90), torch.linspace(-1, 1, 110), indexing="ij")
    image = MetaTensor(
        torch.exp(-4 * (x**2 + y**2))[None, :, :, None].repeat(1, 1, 1, 3), affine=torch.eye(4)
    )
    slices, geometry = volume_to_slices(image, 64, high=1)
    back = slices_to_volume(slices, geometry)
    assert (back - image).abs().max() < 0.02


def test_slice_by_slice_equals_stack() -> None:
    image = volume((1, 20, 22, 4), np.diag([1.0, -1, 1, 1]))
    stack, _ = volume_to_slices(image, 16, high=1)
    for k in range(4):
        alone, _ = volume_to_slices(image[..., k], 16, high=1)
        assert torch.allclose(stack[k], alone[0], atol=1e-6)


def test_intensities_of_the_foreground() -> None:
    values = torch.zeros(1, 10, 10, 20)
    values[..., 10:] = torch.arange(1.0, 1001.0).reshape(10, 10, 10)
    slices, geometry = volume_to_slices(values)
    assert geometry.low == 0
    assert geometry.high == pytest.approx(np.percentile(np.arange(1, 1001), 99.5))
    assert slices.max() == 1
    assert slices.min() == 0
    back = slices_to_volume(slices, geometry, rescale=True)
    below = values < geometry.high
    assert torch.allclose(back.as_tensor()[below], values[below], atol=1e-3)
    windowed, geometry = volume_to_slices(values, low=100, high=200)
    assert (geometry.low, geometry.high) == (100, 200)
    assert windowed.sort().values.unique()[1] == pytest.approx(0.01)


def test_accepted_kinds_give_equal_results() -> None:
    image = volume((1, 9, 8, 7), np.eye(4))
    expected, _ = volume_to_slices(image, 12)
    plain = image.as_tensor()
    strided = plain.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not strided.is_contiguous()
    frozen = plain.numpy().copy()
    frozen.flags.writeable = False
    kinds: list[Any] = [plain, strided, plain.clone().requires_grad_(), plain.double(), plain.numpy(), frozen]
    for kind in kinds:
        slices, _ = volume_to_slices(kind, 12)
        assert torch.allclose(slices, expected, atol=1e-6)
        assert type(slices) is torch.Tensor
        assert not slices.requires_grad
    for dtype in (torch.uint8, torch.int8, torch.uint16, torch.bool):
        whole = (plain > 0.5).to(dtype)
        assert torch.equal(volume_to_slices(whole, 12)[0], volume_to_slices(whole.float(), 12)[0])


def test_a_volume_one_voxel_thick_is_one_slice() -> None:
    # Coronal, as the 2-D files of neurite-oasis: axes L, I, A.
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    image = volume((1, 16, 19, 1), affine)
    slices, geometry = volume_to_slices(image, high=1)
    assert slices.shape == (1, 1, 19, 19)
    # To the right along x, downwards along y.
    assert torch.equal(slices[0, 0, 1:17], image.as_tensor()[0, :, :, 0].flip(0))
    assert torch.equal(slices_to_volume(slices, geometry).as_tensor(), image.as_tensor())


def test_refusals_are_named() -> None:
    image = volume((1, 5, 6, 7))
    _, geometry = volume_to_slices(image, 8)
    with pytest.raises(ImageShapeError, match=r"expected shape \(\d, C, 8, 8\), got"):
        slices_to_volume(torch.zeros(2, 1, 8, 8), geometry)
    with pytest.raises(ConfigError, match="mode is 'cubic'"):
        slices_to_volume(torch.zeros(2, 1, 8, 8), geometry, mode="cubic")  # type: ignore[arg-type]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"size": 0}, "size is 0"),
        ({"mode": "cubic"}, "mode is 'cubic'"),
        ({"low": 2, "high": 1}, "high is 1 and low 2"),
        ({"upper_percentile": 0}, "upper_percentile is 0"),
        ({"axcodes": "RP"}, "axcodes is 'RP'"),
        ({"axcodes": "RPX"}, "axcodes is 'RPX'"),
        ({"axcodes": "RRS"}, "axcodes is 'RRS'"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            volume_to_slices(image, **arguments)
    with pytest.raises(ImageShapeError, match=r"expected an image of shape \(C, X, Y\) or \(C, X, Y, Z\)"):
        volume_to_slices(torch.zeros(3, 3))
    with pytest.raises(ImageShapeError, match="no voxels"):
        volume_to_slices(torch.zeros(1, 3, 0))
    with pytest.raises(ImageShapeError, match="complex"):
        volume_to_slices(torch.zeros(1, 3, 3, dtype=torch.complex64))
    with pytest.raises(NonFiniteImageError, match="1 of 9 voxels"):
        volume_to_slices(torch.zeros(1, 3, 3).index_put((torch.tensor(0),) * 3, torch.tensor(torch.nan)))
    with pytest.raises(GeometryError, match="singular"):
        volume_to_slices(MetaTensor(torch.ones(1, 3, 3, 3), affine=torch.ones(4, 4, dtype=torch.float64)))
