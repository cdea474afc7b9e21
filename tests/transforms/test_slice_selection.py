from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.transforms.slice_selection import OODSlicesd, SelectSlicesd, in_distribution
from robustmed_monai.transforms.volume_slices import VolumeToSlicesd
from robustmed_monai.utils.errors import ConfigError


def _head(
    brightness: float = 0.5, width: int = 16, height: int = 20, noise: float = 0.05, seed: int = 0
) -> Tensor:
    """One image of 32 x 32 with a rectangle of `width` columns (x) and `height` rows (y)."""
    image = torch.zeros(1, 1, 32, 32)
    generator = torch.Generator().manual_seed(seed)
    values = brightness + noise * (2 * torch.rand(width, height, generator=generator) - 1)
    image[0, 0, 4 : 4 + width, 6 : 6 + height] = values
    return image


@pytest.fixture(scope="module")
def training() -> Tensor:
    spread = torch.linspace(-1, 1, 20).tolist()
    heads = [
        _head(0.5 + 0.03 * s, round(16 + 2 * s), round(20 + 2 * s), seed=i) for i, s in enumerate(spread)
    ]
    return torch.cat(heads)


def _stack(slices: Tensor) -> Tensor:
    return slices.movedim(0, -1)


def test_kept_slices_stay_where_they_were() -> None:
    volume = torch.zeros(1, 8, 8, 12)
    volume[..., 4:10] = 1
    affine = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0.5, 2], [0, 0, 3, 3], [0, 0, 0, 1]], dtype=torch.float64)
    kept = SelectSlicesd("image", (0.2, 1.0))({"image": MetaTensor(volume, affine=affine)})["image"]
    assert kept.shape == (1, 8, 8, 5)
    torch.testing.assert_close(kept.affine[:, 3], affine @ torch.tensor([0.0, 0, 5, 1]).double())
    torch.testing.assert_close(kept.affine[:, :3], affine[:, :3])


def test_slices_out_of_distribution_are_left_out_as_long_as_others_are_in(training: Tensor) -> None:
    find = OODSlicesd("image", training_statistics(training))
    odd = 1 - training[:1]
    stack = torch.cat([training[3:5], torch.zeros_like(odd), odd, training[5:6]])
    found = find({"image": _stack(stack)})
    assert {i: bool(why) for i, why in found["ood_reasons"].items()} == {
        0: False,
        1: False,
        3: True,
        4: False,
    }
    assert in_distribution(found["ood_reasons"]) == [0, 1, 4]
    assert found["in_distribution"].amax((0, 1, 2)).tolist() == [1, 1, 0, 0, 1]
    assert found["warnings"][0] == "assessed 3 of 4 slices; the others lie outside of the training data"
    alone = find({"image": _stack(odd), "warnings": ["earlier"]})
    assert in_distribution(alone["ood_reasons"]) == []
    lenient = OODSlicesd("image", training_statistics(training), refuse=False)({"image": _stack(odd)})
    assert lenient["in_distribution"].all()
    assert lenient["warnings"][0] == "1 of 1 slices lie outside of the training data"
    far = OODSlicesd("image", training_statistics(training), refuse=1e4)({"image": _stack(odd)})
    assert far["in_distribution"].all()
    assert far["warnings"] == lenient["warnings"]
    assert (
        OODSlicesd("image", training_statistics(training), refuse=1.5)({"image": _stack(odd)})[
            "assessed_slices"
        ]
        == []
    )
    assert alone["warnings"][0] == "earlier"
    assert find({"image": _stack(odd * 0)})["ood_reasons"] == {}


def test_without_statistics_all_slices_count_and_a_warning_says_so(training: Tensor) -> None:
    found = OODSlicesd("image", None)({"image": _stack(training[:3])})
    assert found["ood_reasons"] == {0: [], 1: [], 2: []}
    assert "no training statistics" in found["warnings"][0]


@pytest.mark.parametrize(("voxel", "warned"), [(2.0, False), (5.4, True)])
def test_voxels_coarser_than_the_networks_pixels_come_with_a_warning(voxel: float, warned: bool) -> None:
    image = MetaTensor(torch.rand(1, 12, 20, 3), affine=torch.diag(torch.tensor([voxel, 2.0, 4.0, 1.0])))
    cut = VolumeToSlicesd("image", 32, 1.8)({"image": image})
    warnings = OODSlicesd("image", None)(cut)["warnings"]
    assert any("up to 3.0 times as large as the network's pixels" in text for text in warnings) == warned
    assert len(warnings) == 1 + warned


def test_a_range_counts_the_filled_slices_alone() -> None:
    image = torch.zeros(1, 4, 4, 12)
    image[..., 2:] = torch.arange(11.0, 21)
    mask = (image > 15).float()
    kept = SelectSlicesd(["image", "mask"], (0.0, 0.5), allow_missing_keys=True)
    data = kept({"image": image, "mask": mask})
    assert data["image"][0, 0, 0].tolist() == [11, 12, 13, 14, 15]
    assert data["mask"].shape == data["image"].shape
    assert kept({"image": image[..., :1]})["image"].shape[-1] == 1
    with pytest.raises(ConfigError, match="must rise inside"):
        SelectSlicesd("image", (0.5, 0.5))
