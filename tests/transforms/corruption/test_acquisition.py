"""Field of view, coverage, slabs and gain against what they should compute."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Affine
from torch import Tensor

from robustmed_monai.transforms.corruption.acquisition import ACQUISITION, acquisition
from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.labelled import labelled
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _corrupted(corruption: Corruption, images: Tensor) -> Tensor:
    return corrupt(images, corruption, corruption.sample(images.shape, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("name", "factor"), [("zoom_in", 1.35), ("zoom_out", 0.7)])
def test_zoom_is_monais(name: str, factor: float) -> None:
    images = _images(3, 1, 24, 31)
    found = _corrupted(acquisition(name, 3), images)
    # MONAI's scale tells how the grid grows, against the content.
    zoom = Affine(scale_params=(1 / factor,) * 2, padding_mode="zeros", image_only=True)
    for image, result in zip(images, found, strict=True):
        torch.testing.assert_close(
            result, torch.as_tensor(zoom(image)).as_subclass(Tensor), atol=1e-4, rtol=0
        )


def test_a_volume_is_zoomed_slice_by_slice() -> None:
    volume = _images(2, 1, 16, 16, 5)
    found = _corrupted(acquisition("zoom_out", 4), volume)
    for z in range(5):
        torch.testing.assert_close(found[..., z], _corrupted(acquisition("zoom_out", 4), volume[..., z]))


def test_coverage_gain_and_slabs() -> None:
    volume = _images(2, 1, 8, 8, 10)
    cut = _corrupted(acquisition("cut_off", 5), volume)
    assert torch.equal(cut[..., 3:7], volume[..., 3:7])
    assert not cut[..., :2].any()
    assert not cut[..., 8:].any()
    torch.testing.assert_close(_corrupted(acquisition("gain_up", 5), volume), (2 * volume).clamp(0, 1))
    thick = _corrupted(acquisition("thick_slices", 1), volume)
    centres = (volume[..., ::2] + volume[..., 1::2]) / 2
    # Half a voxel from the centre of a slab, a quarter comes from the next.
    torch.testing.assert_close(thick[..., 1], 0.75 * centres[..., 0] + 0.25 * centres[..., 1])
    with pytest.raises(ImageShapeError, match="thick_slices"):
        _corrupted(acquisition("thick_slices", 1), _images(2, 1, 8, 8))


def test_remapping_depends_on_the_intensity_alone() -> None:
    flat = torch.full((1, 1, 8, 8), 0.3)
    assert len(_corrupted(acquisition("remapping", 5), flat).unique()) == 1
    assert set(ACQUISITION) > {"remapping", "zoom_in"}
    with pytest.raises(ConfigError, match="Did you mean 'zoom_in'"):
        acquisition("zoom_inn", 1)


def test_labelled_contrasts() -> None:
    labels = torch.randint(0, 4, (3, 1, 16, 16), generator=torch.Generator().manual_seed(2))
    labels[:, :, :4] = 0
    images = (labels / 4 + 0.1).float()
    suite = CorruptionSuite.labelled([1, 5])
    for case in suite.cases:
        whole = suite.apply(images, case, labels=labels)
        singles = [suite.apply(images[i : i + 1], case, i, labels=labels[i : i + 1]) for i in range(3)]
        assert torch.equal(whole, torch.cat(singles))
        if case.name == "inverted_inside":
            assert torch.equal(whole[:, :, :4], suite.apply(images, case, labels=labels * 0)[:, :, :4])
    inverted = suite.apply(images, suite.cases[1], eight_bit=False, labels=labels)
    torch.testing.assert_close(inverted[labels > 0], 1 - images[labels > 0])
    with pytest.raises(ConfigError, match="0 background, 1 CSF"):
        suite.apply(images, suite.cases[3], labels=labels + 1)
    with pytest.raises(ConfigError, match="severity 6"):
        labelled("painted_t2", 6)
