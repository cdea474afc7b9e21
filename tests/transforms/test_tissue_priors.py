"""The template's tissues: probabilities, at the places where anatomy has them."""

from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.tissue_priors import tissue_priors, ventricle_region

OUTSIDE, FLUID, GREY, WHITE = range(4)


@pytest.mark.parametrize(
    ("place", "tissue"),
    [
        ((26, -20, 30), WHITE),  # corona radiata
        ((-26, -20, 30), WHITE),
        ((12, 12, 10), GREY),  # caudate
        ((-6, -4, 18), FLUID),  # lateral ventricle
        ((0, -60, 112), OUTSIDE),  # above the head
        ((100, -20, 0), OUTSIDE),
        ((0, 90, -70), OUTSIDE),  # the face
    ],
)
def test_tissues_lie_where_they_should(place: tuple[float, float, float], tissue: int) -> None:
    frame = AlignToTemplate(size=112, spacing=2.0, heights=(-72.0, 116.0))
    affine = frame.affine.numpy()
    index = np.linalg.inv(affine) @ [*place, 1.0]
    # A grid of one voxel, at that place.
    affine[:3, 3] = (affine @ np.round(index))[:3]
    priors = tissue_priors((1, 1, 1), affine, blur=0.0)[:, 0, 0, 0]
    assert priors.sum() == pytest.approx(1, abs=1e-5)
    assert priors.argmax() == tissue


def test_a_wider_margin_is_more_fluid() -> None:
    frame = AlignToTemplate(size=28, spacing=8.0, heights=(-64.0, 88.0))
    narrow, wide = (tissue_priors(frame.shape, frame.affine.numpy(), margin=m).sum((1, 2, 3)) for m in (0, 4))
    assert wide[OUTSIDE] < narrow[OUTSIDE]
    assert wide[FLUID] > narrow[FLUID]


@pytest.mark.parametrize(
    ("place", "within"),
    [
        ((12, -4, 22), True),  # body of the lateral ventricle
        ((-28, -44, 4), True),  # its atrium
        ((0, -18, 0), True),  # third ventricle
        ((0, -46, -34), True),  # fourth
        ((-33, -22, -14), True),  # inferior horn
        ((42, 5, -10), False),  # Sylvian fissure
        ((0, 30, 30), False),  # between the hemispheres
        ((0, -80, -30), False),  # behind the cerebellum
        ((0, -30, 66), False),  # top of the head
    ],
)
def test_the_ventricles_lie_where_they_are_in_mni152(place: tuple[int, ...], within: bool) -> None:
    affine = np.eye(4)
    affine[:3, 3] = place
    assert (ventricle_region((1, 1, 1), affine).item() > 0.5) == within
