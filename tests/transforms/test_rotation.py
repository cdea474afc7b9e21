"""Four and eight rotations: exactness, direction, inverses, and that nothing tells odd from even."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialPad
from scipy import ndimage
from torch.nn import functional as F

from robustmed_monai.transforms.rotation import (
    RandRotateK,
    RandRotateKd,
    RotateK,
    all_rotations,
    circular_mask,
    resample,
    rotate,
    rotate_by,
    rotation_labels,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

QUARTERS = range(-5, 6)


def blob(size: int = 32) -> torch.Tensor:
    """A smooth spot right of and above the centre, (1, 1, size, size)."""
    x, y = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    centre = (size - 1) / 2
    return torch.exp(-((x - centre - 2) ** 2 + (y - centre + 1) ** 2) / 16)[None, None]


class TestFour:
    @pytest.mark.parametrize("index", QUARTERS)
    def test_are_torch_rot90_to_the_bit(self, index: int) -> None:
        images = torch.rand(3, 2, 7, 7)
        assert torch.equal(rotate(images, index), torch.rot90(images, index, (-1, -2)))

    def test_turn_counter_clockwise_as_the_picture_is_seen(self) -> None:
        picture = torch.zeros(1, 1, 5, 5)
        picture[..., 4, 2] = 1  # x = 4, y = 2: right of the centre
        above = rotate(picture, 1)
        assert above[0, 0, 2, 0] == 1, "right goes to the top, y points down"

    def test_each_image_has_its_own(self) -> None:
        images, index = torch.rand(4, 1, 6, 6), torch.tensor([0, 3, 1, 2])
        singles = torch.cat([rotate(x[None], int(k)) for x, k in zip(images, index, strict=True)])
        assert torch.equal(rotate(images, index), singles)

    def test_are_undone_by_the_negative(self) -> None:
        images, index = torch.rand(4, 1, 6, 6), torch.arange(4)
        assert torch.equal(rotate(rotate(images, index), -index), images)


class TestEight:
    def test_agree_with_plain_resampling_where_the_image_is_smooth(self) -> None:
        for index in range(8):
            plain = rotate(blob(), index, 8, "bilinear")
            assert (rotate(blob(), index, 8) - plain).abs().max() < 0.03

    def test_twice_an_eighth_is_a_quarter(self) -> None:
        twice = rotate(rotate(blob(), 1, 8), 1, 8)
        torch.testing.assert_close(twice, rotate(blob(), 2, 8), atol=0.012, rtol=0)

    def test_are_undone_by_the_negative(self) -> None:
        images = blob().expand(8, 1, 32, 32)
        back = rotate(rotate(images, torch.arange(8), 8), -torch.arange(8), 8)
        assert (back - images).abs().max() < 0.02

    def test_quarters_among_them_are_exact_turns_of_the_filtered_image(self) -> None:
        images = torch.rand(2, 3, 16, 16)
        upright = rotate(images, 0, 8)
        assert torch.equal(rotate(images, 6, 8), torch.rot90(upright, 3, (-1, -2)))

    def test_keep_the_inside_and_lose_the_corners_of_all(self) -> None:
        turned = all_rotations(torch.ones(1, 1, 32, 32), 8)
        assert (turned[..., 12:20, 12:20] - 1).abs().max() < 5e-3
        assert turned[..., :3, :3].max() == 0
        assert float(circular_mask(32)[16, 16]) == 1

    @pytest.mark.parametrize("size", [28, 80])
    def test_work_at_any_size(self, size: int) -> None:
        """Above 64 pixels the filter is a sparse matrix."""
        plain = rotate(blob(size), 1, 8, "bilinear")
        assert (rotate(blob(size), 1, 8) - plain).abs().max() < 0.03


@pytest.mark.parametrize("count", [4, 8])
class TestAll:
    def test_rows_are_single_rotations(self, count: int) -> None:
        images = torch.rand(3, 2, 12, 12)
        labels = rotation_labels(3, count)
        expected = rotate(images.repeat_interleave(count, 0), labels, count)
        torch.testing.assert_close(all_rotations(images, count), expected, atol=0.005, rtol=0)

    def test_keep_the_memory_format(self, count: int) -> None:
        images = torch.rand(3, 2, 12, 12).contiguous(memory_format=torch.channels_last)
        assert all_rotations(images, count).is_contiguous(memory_format=torch.channels_last)

    def test_an_image_does_not_see_its_batch(self, count: int) -> None:
        images = torch.rand(3, 2, 12, 12)
        alone = torch.cat([all_rotations(x[None], count) for x in images])
        torch.testing.assert_close(all_rotations(images, count), alone, atol=0.005, rtol=0)


class TestLeak:
    """No probe tells odd from even multiples of 45 degrees by the traces of resampling."""

    @pytest.mark.parametrize("noise", ["uniform", "normal", "from 28 pixels"])
    def test_is_closed(self, noise: str) -> None:
        assert abs(probe_accuracy(noise, "isotropic") - 0.5) < 0.045

    def test_the_same_probe_sees_plain_resampling(self) -> None:
        assert probe_accuracy("uniform", "bilinear") > 0.99

    def test_the_same_probe_sees_a_linear_resize(self) -> None:
        """Which is why images are resampled by ``resample``."""
        assert probe_accuracy("linear", "isotropic") > 0.6


def probe_accuracy(noise: str, mode: str, count: int = 4000) -> float:
    """Held-out accuracy of a linear probe on pixels, their squares, and the spectrum, odd against even."""
    generator = torch.Generator().manual_seed(7)
    side = 28 if noise in ("from 28 pixels", "linear") else 32
    images = torch.rand(count, 1, side, side, generator=generator)
    if noise == "normal":
        images = (0.5 + 0.12 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    if noise == "linear":
        images = F.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    turned = rotate(resample(images, 32), torch.arange(count) % 8, 8, mode)[:, 0]
    spectrum = (torch.fft.rfft2(turned).abs() ** 2 + 1e-8).log()
    features = torch.cat([f.flatten(1) for f in (turned, turned**2, spectrum)], 1)
    target = (torch.arange(count) % 2).float() * 2 - 1
    train, test = features[: count // 2], features[count // 2 :]
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / spread, (test - mean) / spread
    kernel = train @ train.T + 1000 * torch.eye(len(train))
    weights = train.T @ torch.linalg.solve(kernel, target[: count // 2])
    return float(((test @ weights > 0) == (target[count // 2 :] > 0)).float().mean())


class TestResample:
    def test_keeps_a_flat_image_flat_to_the_border(self) -> None:
        torch.testing.assert_close(
            resample(torch.full((1, 1, 28, 28), 0.4), 32), torch.full((1, 1, 32, 32), 0.4)
        )

    def test_blurs_alike_everywhere(self) -> None:
        noise = torch.rand(2000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        spread = resample(noise, 32)[..., 8:24, 8:24].std(0)
        linear = F.interpolate(noise, (32, 32), mode="bilinear", align_corners=False)[..., 8:24, 8:24].std(0)
        assert spread.max() / spread.min() < 1.15 < 1.5 < linear.max() / linear.min()

    def test_shrinks_without_aliasing(self) -> None:
        stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
        assert (resample(stripes, 32)[..., 4:28, 4:28] - 0.5).abs().max() < 0.02


class TestErrors:
    def test_other_numbers_of_rotations(self) -> None:
        with pytest.raises(ConfigError, match="num_rotations=3; choose 4"):
            rotate(torch.zeros(1, 1, 4, 4), 1, 3)

    def test_other_modes(self) -> None:
        with pytest.raises(ConfigError, match="mode='cubic'; choose one of isotropic, bilinear"):
            all_rotations(torch.zeros(1, 1, 4, 4), 8, "cubic")

    @pytest.mark.parametrize("function", [lambda x: rotate(x, 1), all_rotations, lambda x: resample(x, 8)])
    def test_images_that_are_not_square(self, function: object) -> None:
        with pytest.raises(ImageShapeError, match=r"\(1, 1, 4, 5\).*square"):
            function(torch.zeros(1, 1, 4, 5))  # type: ignore[operator]


class TestForms:
    def test_array_and_dictionary_draw_alike(self) -> None:
        image = torch.rand(1, 8, 8)
        single, both = RandRotateK(4), RandRotateKd(["image", "label"])
        single.set_random_state(3)
        both.set_random_state(3)
        for _ in range(6):
            found = both({"image": image, "label": image})
            assert torch.equal(found["image"], single(image))
            assert torch.equal(found["image"], found["label"])
            assert found["rotation"] == single.index

    def test_all_rotations_come_equally_often(self) -> None:
        transform = RandRotateK(8)
        transform.set_random_state(0)
        drawn = []
        for _ in range(4000):
            transform.randomize()
            drawn.append(transform.index)
        assert np.bincount(drawn, minlength=8).min() > 420

    def test_probability_is_that_of_turning(self) -> None:
        image = torch.rand(1, 8, 8)
        assert torch.equal(RandRotateK(4, prob=0.0)(image), image)

    def test_meta_data_stay(self) -> None:
        image = MetaTensor(torch.rand(1, 8, 8), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
        turned = RotateK(1)(image)
        assert isinstance(turned, MetaTensor)
        assert torch.equal(turned.affine, image.affine)

    def test_transforms_before_can_still_be_undone(self) -> None:
        image = MetaTensor(torch.rand(1, 8, 6))
        pad = SpatialPad((8, 8))
        turned: Any = RotateK(2)(pad(image))
        assert pad.inverse(turned).shape == image.shape

    def test_numpy_comes_in(self) -> None:
        image = np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
        assert np.array_equal(RotateK(2)(image).numpy(), image[:, ::-1, ::-1])

    def test_missing_keys(self) -> None:
        with pytest.raises(KeyError):
            RandRotateKd("other")({"image": torch.zeros(1, 4, 4)})
        assert "rotation" in RandRotateKd("other", allow_missing_keys=True)({"image": torch.zeros(1, 4, 4)})


class TestAnyAngle:
    @pytest.mark.parametrize("mode", ["isotropic", "bilinear"])
    @pytest.mark.parametrize("index", [-3, 0, 1, 2, 5])
    def test_multiples_of_45_degrees_are_those_of_eight_rotations(self, index: int, mode: str) -> None:
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(rotate_by(images, 45 * index, mode), rotate(images, torch.tensor(index), 8, mode))

    @pytest.mark.parametrize("mode", ["isotropic", "bilinear"])
    @pytest.mark.parametrize("angle", [-1e-17, 1e-17, 360 - 1e-13, -360.0])
    def test_next_to_nothing_is_nothing(self, angle: float, mode: str) -> None:
        found, expected = (rotate_by(blob(), a, mode) for a in (angle, 0.0))
        torch.testing.assert_close(found, expected, atol=1 / 255, rtol=0)

    @pytest.mark.parametrize("angle", [7.5, 30, 100, -20, 381])
    def test_agrees_with_scipy_where_the_image_is_smooth(self, angle: float) -> None:
        # scipy's axes are those of a picture, (rows, columns); ours are (x, y).
        expected = ndimage.rotate(blob()[0, 0].numpy().T, angle, reshape=False, order=3).T
        for mode, limit in (("isotropic", 0.04), ("bilinear", 0.03)):
            found = rotate_by(blob(), angle, mode)[0, 0].numpy()
            assert np.abs(found - expected).max() < limit

    def test_all_angles_are_blurred_alike(self) -> None:
        noise = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        inside = [rotate_by(noise, angle)[..., 10:22, 10:22].var() for angle in (0, 15, 22.5, 40, 75)]
        assert max(inside) < 1.02 * min(inside)
