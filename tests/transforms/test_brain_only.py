"""Maps of aligned heads are kept in the brain alone; others stay as they are."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import AlignToTemplate, KeepBraind
from robustmed_monai.transforms.align_to_template import Placement
from robustmed_monai.utils.errors import ConfigError

FRAME = AlignToTemplate(64, 3.6, (18.0, 30.0), 4.0)


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> tuple[MetaTensor, torch.Tensor]:
    """A virtual subject in the frame by what is known of it, and where its brain lies there."""
    subject = virtual_subject(0, 2)
    affine = torch.tensor(AFFINE)
    where = Placement(subject.image.shape, torch.linalg.inv(affine) @ FRAME.affine)
    monkeypatch.setattr(AlignToTemplate, "place", lambda *_: where)
    parts = [
        MetaTensor(torch.as_tensor(part[None]).float(), affine=affine)
        for part in (subject.image, subject.labels)
    ]
    image, labels = FRAME(parts[0]), FRAME(parts[1], mode="nearest")
    return image, torch.as_tensor(labels) > 0


def test_the_brain_is_kept_and_the_scalp_is_not(aligned: tuple[MetaTensor, torch.Tensor]) -> None:
    image, brain = aligned
    ones = torch.ones(image.shape)
    found = KeepBraind(["first", "second"])(
        {"image": image, "first": ones, "second": 2 * ones, "network_space": {"image": image, "first": ones}}
    )
    assert torch.equal(found["network_space"]["first"], found["first"]), "scores are made of it"
    assert found["network_space"]["image"] is image
    kept = found["first"] > 0
    assert torch.equal(found["second"], 2 * found["first"])
    assert float((kept & brain).sum() / brain.sum()) > 0.96, "the subject is a warped template"
    assert float(kept.sum() / brain.sum()) < 1.3, "its edge is 4 mm wider"
    head = torch.as_tensor(image) > 0.1
    assert float((head & ~kept).sum() / (head & ~brain).sum()) > 0.3, "of the scalp much is gone"


def test_the_margin_widens(aligned: tuple[MetaTensor, torch.Tensor]) -> None:
    image, _ = aligned
    sizes = [
        int(KeepBraind("map", margin=mm)({"image": image, "map": torch.ones(image.shape)})["map"].sum())
        for mm in (0.0, 4.0, 8.0)
    ]
    assert sizes[0] < sizes[1] < sizes[2] < image.numel()
    with pytest.raises(ConfigError, match="margin=-1"):
        KeepBraind("map", margin=-1.0)


def test_what_was_not_aligned_stays() -> None:
    stack = MetaTensor(torch.ones(1, 8, 8, 2))
    found = KeepBraind("map")({"image": stack, "map": torch.ones(1, 8, 8, 2)})
    assert bool((found["map"] == 1).all())
