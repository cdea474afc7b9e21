"""Contrasts: where they change an image, that a curve is one, that labels become the wanted intensities."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.transforms.contrasts import (
    T2_MEANS,
    apply_curves,
    brain_mask,
    head_classes,
    invert,
    sample_curves,
    smooth_remap,
    tissue_contrast,
)
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

SHAPES = [(3, 1, 12, 10), (3, 1, 6, 5, 4)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverting_twice_is_the_image(shape: tuple[int, ...]) -> None:
    # Sixteenths, so that 1 - x is exact.
    image = torch.randint(0, 17, shape, generator=generator()) / 16
    mask = torch.rand(shape, generator=generator(1)) < 0.5
    assert torch.equal(invert(invert(image)), image)
    inside = invert(image, mask)
    assert torch.equal(inside[mask], 1 - image[mask])
    assert torch.equal(inside[~mask], image[~mask])


def test_a_mask_of_another_image_is_refused() -> None:
    with pytest.raises(ImageShapeError, match="give one of each"):
        invert(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8))


def test_the_brain_has_no_holes() -> None:
    labels = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    labels[0, 0, 2:7, 2:7] = 2
    labels[0, 0, 4, 4] = 0
    labels[0, 0, 0, 0] = 0
    mask = brain_mask(labels)
    assert mask.shape == labels.shape
    assert mask[0].sum() == 25
    assert not mask[1].any()


class TestCurves:
    def test_they_span_the_range_and_end_dark_as_often_as_asked(self) -> None:
        curves = sample_curves(2000, generator())
        assert curves.shape == (2000, 256)
        assert curves.min() == 0
        assert torch.equal(curves.amax(1), torch.ones(2000))
        # One in eight of the others has its lowest point there as well.
        assert 0.5 < (curves[:, 0] == 0).float().mean() < 0.65
        assert torch.equal(sample_curves(50, generator(), dark_prob=1.0)[:, 0], torch.zeros(50))

    def test_they_are_smooth_and_not_monotone(self) -> None:
        steps = sample_curves(200, generator(), dark_prob=0.0).diff(dim=1)
        assert steps.abs().max() < 0.12
        assert ((steps > 1e-3).any(1) & (steps < -1e-3).any(1)).float().mean() > 0.9

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_straight_curve_changes_nothing(self, shape: tuple[int, ...]) -> None:
        image = torch.rand(shape, generator=generator())
        straight = torch.linspace(0, 1, 256).expand(3, -1)
        torch.testing.assert_close(apply_curves(image, straight), image)

    def test_a_batch_is_its_images_one_by_one(self) -> None:
        image, curves = torch.rand(4, 2, 8, 8, generator=generator()), sample_curves(4, generator(1))
        alone = [apply_curves(image[i : i + 1], curves[i : i + 1]) for i in range(4)]
        assert torch.equal(apply_curves(image, curves), torch.cat(alone))

    def test_equal_intensities_stay_equal(self) -> None:
        image = (torch.rand(2, 1, 16, 16, generator=generator()) * 4).floor() / 4
        remapped = smooth_remap(image, generator(3))
        assert 0 <= remapped.min() <= remapped.max() <= 1
        assert torch.equal(remapped, smooth_remap(image, generator(3)))
        assert not torch.allclose(remapped, image, atol=0.1)
        for one, other in zip(image, remapped, strict=True):
            assert all(len(other[one == level].unique()) == 1 for level in one.unique())

    @pytest.mark.parametrize("settings", [{"knots": 1}, {"dark_prob": 1.5}])
    def test_settings_out_of_range(self, settings: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="at least 2 and a share"):
            sample_curves(1, generator(), **settings)  # type: ignore[arg-type]


class TestFromLabels:
    def test_the_background_is_split_by_intensity(self) -> None:
        image = torch.tensor([0.05, 0.3, 0.9, 0.9]).view(1, 1, 2, 2)
        labels = torch.tensor([0, 0, 0, 3]).view(1, 1, 2, 2)
        assert head_classes(image, labels).flatten().tolist() == [0, 4, 5, 3]
        assert torch.equal(head_classes(torch.zeros(1, 1, 2, 2), labels), labels.to(torch.uint8))
        with pytest.raises(DataError, match="labels go to 3, tissues are 0 to 2"):
            head_classes(image, labels, num_classes=3)

    def test_a_t2_like_head_has_the_order_of_t2(self) -> None:
        labels = torch.arange(6).repeat_interleave(64).view(1, 1, 6, 64).repeat_interleave(16, 2)
        images = tissue_contrast(labels.expand(5, -1, -1, -1), generator=generator())
        assert images.shape == (5, 1, 96, 64)
        for image in images:
            background, csf, grey, white, muscle, fat = (
                float(image[0][labels[0, 0] == label].median()) for label in range(6)
            )
            assert background < muscle < white < grey < csf
            assert white < fat < csf
        assert len(T2_MEANS) == 6
