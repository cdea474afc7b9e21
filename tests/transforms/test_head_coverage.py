"""Volumes that end within the brain, and brains of no human size, are said."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.align_to_template import Placement
from robustmed_monai.transforms.head_coverage import SayHeadOutsided

FRAME = AlignToTemplate(56, 4.0, (-72.0, 88.0))


def stack(cut: int, monkeypatch: pytest.MonkeyPatch) -> MetaTensor:
    """A virtual subject without its highest ``cut`` mm, in the frame by what is known of it."""
    image = virtual_subject(0, 2).image[None]
    kept = image[..., : image.shape[-1] - round(cut / AFFINE[2, 2])]
    where = Placement(kept.shape[1:], torch.linalg.inv(torch.tensor(AFFINE)) @ FRAME.affine)
    monkeypatch.setattr(AlignToTemplate, "place", lambda *_: where)
    return FRAME(MetaTensor(torch.tensor(kept), affine=torch.tensor(AFFINE)))


def said(image: MetaTensor, millilitres: float = 1400.0) -> list[str]:
    mask = torch.zeros(1, 200, 200, 200)
    mask.flatten()[: int(1000 * millilitres)] = 1
    data: dict[Hashable, Any] = {
        "image": image,
        "brain": MetaTensor(mask, affine=torch.eye(4)),
        "warnings": ["earlier"],
    }
    found: list[str] = SayHeadOutsided("brain")(data)["warnings"]
    *own, earlier = found
    assert earlier == "earlier"
    return own


def test_a_whole_head_needs_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(stack(0, monkeypatch)) == []


@pytest.mark.parametrize("cut", [40, 70])
def test_a_head_without_its_top_is_told(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = said(stack(cut, monkeypatch))
    share = int(sentence.split("%")[0].split()[-1])
    assert "lie outside of the image" in sentence
    assert 5 < share < 60


@pytest.mark.parametrize("millilitres", [500, 2900])
def test_a_brain_of_no_human_size_is_told(millilitres: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = said(stack(0, monkeypatch), millilitres)
    assert f"measures {millilitres} ml" in sentence


def test_nothing_is_said_of_what_was_not_aligned() -> None:
    assert said(MetaTensor(torch.zeros(1, 8, 8, 3))) == []
