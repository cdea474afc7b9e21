"""Cerebellum and brainstem of the template: where anatomy has them, on grids of any size."""

from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.hindbrain_region import hindbrain_region


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ((26, -64, -44), "cerebellum"),
        ((-26, -64, -44), "cerebellum"),
        ((48, -62, -34), "cerebellum"),  # its side
        ((0, -62, -14), "cerebellum"),  # vermis
        ((22, -54, -34), "cerebellum"),  # its white matter
        ((12, -86, -32), "cerebellum"),
        ((0, -26, -12), "brainstem"),  # midbrain
        ((0, -26, -32), "brainstem"),  # pons
        ((0, -42, -56), "brainstem"),  # medulla
        ((12, -86, 0), "cerebrum"),  # above the tentorium
        ((40, -56, -12), "cerebrum"),  # fusiform gyrus
        ((26, -22, -18), "cerebrum"),  # hippocampus
        ((-50, -20, -26), "cerebrum"),  # temporal lobe
        ((10, -16, 8), "cerebrum"),  # thalamus
        ((24, -20, 30), "cerebrum"),
    ],
)
def test_the_parts_lie_where_they_are_in_mni152(place: tuple[int, ...], part: str) -> None:
    affine = np.eye(4)
    affine[:3, 3] = place
    cerebellum, brainstem = hindbrain_region((1, 1, 1), affine)[:, 0, 0, 0]
    assert (cerebellum > 0.5, brainstem > 0.5) == (part == "cerebellum", part == "brainstem")


def test_no_voxel_is_of_two_parts_and_both_sides_have_as_much() -> None:
    frame = AlignToTemplate(size=112, spacing=2.0, heights=(-72.0, 90.0))
    affine = frame.affine.numpy()
    regions = hindbrain_region(frame.shape, affine)
    assert regions.min() >= 0
    assert regions.sum(0).max() <= 1 + 1e-6
    x = affine[0, 3] + affine[0, 0] * np.arange(frame.shape[0])
    for region in regions:
        right, left = region[x > 0].sum(), region[x < 0].sum()
        assert 0.9 < right / left < 1.1
