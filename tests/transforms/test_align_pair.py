"""Two whole heads into one frame: what is said of one of them names it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import AlignmentWarning, AlignPaird


@pytest.mark.slow
@pytest.mark.parametrize("which", ["moving", "fixed"])
def test_a_warning_says_which_head_is_turned(which: str) -> None:
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    plain = torch.from_numpy(virtual_subject(0, 2).image)[None, ::2, ::2, ::2]
    affine = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    pair: dict[Hashable, Any] = {
        name: MetaTensor(plain, affine=torch.from_numpy(turn @ affine if name == which else affine))
        for name in ("moving", "fixed")
    }
    with pytest.warns(AlignmentWarning) as said:
        AlignPaird(size=28, spacing=8.0, heights=(-72.0, 88.0))(pair)
    assert len(said) == 1
    assert str(said[0].message).startswith(f"{which} image: the head is turned by 1")
