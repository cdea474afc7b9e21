"""The mixture under a template: right in any contrast, follows the head, refuses what is not in the frame."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.networks.tissue_mixture import TissueMixture, _alike, _Gaussians
from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.alignment import resample_to
from robustmed_monai.transforms.tissue_priors import brainstem_region
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError

FRAME: dict[str, Any] = {"size": 56, "spacing": 4.0, "heights": (-72.0, 88.0)}


@cache
def head() -> tuple[Tensor, Tensor]:
    """A virtual subject in the frame at 4 mm: image (1, X, Y, S) in [0, 1] and labels (X, Y, S)."""
    frame, subject = AlignToTemplate(**FRAME), virtual_subject(0, 1)
    grid = frame.shape, frame.affine.numpy()
    image = torch.from_numpy(resample_to(subject.image[None], AFFINE, *grid)).float()
    labels = torch.from_numpy(resample_to(subject.labels[None], AFFINE, *grid, order=0))[0]
    return image, labels.long()


@cache
def mixture(bending: int = 10) -> TissueMixture:
    return TissueMixture(**FRAME, bending=bending).eval()


def dice(found: Tensor, true: Tensor) -> list[float]:
    """Dice of the brain, CSF with the ventricles, grey and white matter wherever they are."""
    found = torch.tensor([0, 1, 2, 3, 1, 2, 3, 3])[found]
    pairs = [(found > 0, true > 0), *((found == k, true == k) for k in (1, 2, 3))]
    return [float(2 * (a & b).sum() / (a.sum() + b.sum())) for a, b in pairs]


def segmented(image: Tensor, bending: int = 10) -> Tensor:
    scores: Tensor = mixture(bending)(image[None])
    return scores[0].argmax(0)


@pytest.mark.parametrize("contrast", ["t1", "inverted", "dim", "bent"])
def test_tissues_are_found_in_any_contrast(contrast: str) -> None:
    image, labels = head()
    shown = {
        "t1": image,
        "inverted": torch.where(image > 0.08, 1.1 - image, image).clamp(0, 1),
        "dim": 0.5 * image,
        # Grey matter becomes the brightest.
        "bent": (1 - 2.5 * (image - 0.6).abs()).clamp(0, 1),
    }[contrast]
    least = (0.93, 0.4, 0.8, 0.8) if contrast == "bent" else (0.94, 0.6, 0.85, 0.87)
    assert all(a >= b for a, b in zip(dice(segmented(shown), labels), least, strict=True))


def test_a_bent_template_follows_a_head_that_lies_elsewhere() -> None:
    image, labels = (part.roll(2, -2) for part in head())
    bent, straight = (dice(segmented(image, bending), labels) for bending in (10, 0))
    assert all(a > b + 0.02 for a, b in zip(bent, straight, strict=True))


def test_ventricles_are_the_fluid_in_the_middle() -> None:
    """Of a virtual subject's fluid: what lies deep is theirs, what lies at the skull is not."""
    found = segmented(head()[0])
    frame = AlignToTemplate(**FRAME)
    height = frame.affine[2, 3] + frame.affine[2, 2] * torch.arange(found.shape[-1])
    assert 3 < float((found == 4).sum()) * 4.0**3 / 1000 < 60, "ml"
    assert not (found == 4)[..., height > 45].any()
    assert (found == 1)[..., height > 45].any()


def test_the_classes_together_are_the_tissues_bit_by_bit() -> None:
    """Grey matter is that of cerebrum or cerebellum, white matter also the brainstem; a voxel is of one."""
    image = head()[0][None]
    classes, tissues = mixture()(image), mixture().tissues(image)
    assert torch.equal(classes[:, [0, 1, 4]], tissues[:, [0, 1, 4]])
    for tissue, parts in ((2, [2, 5]), (3, [3, 6, 7])):
        assert torch.equal(classes[:, parts].amax(1), tissues[:, tissue])
        assert int((classes[:, parts] > math.log(2e-6)).sum(1).max()) == 1
    merged = torch.tensor([0, 1, 2, 3, 1, 2, 3, 3])
    assert torch.equal(merged[classes.argmax(1)], merged[tissues.argmax(1)])


def test_cerebellum_and_brainstem_follow_a_head_that_lies_elsewhere() -> None:
    """At the back and low, in the middle and low; as large as an adult's; and they move with the head."""
    frame, places = AlignToTemplate(**FRAME), []
    for image in (head()[0], head()[0].roll(2, -2)):
        found = segmented(image)
        for numbers, least, most in (((5, 6), 90, 200), ((7,), 12, 45)):
            part = torch.isin(found, torch.tensor(numbers))
            assert least < float(part.sum()) * 4.0**3 / 1000 < most, "ml"
            places.append(part.nonzero().double().mean(0) @ frame.affine[:3, :3].T + frame.affine[:3, 3])
    cerebellum, stem, moved_cerebellum, moved_stem = places
    assert abs(float(cerebellum[0])) < 3
    assert -75 < float(cerebellum[1]) < -50
    assert -45 < float(cerebellum[2]) < -20
    assert -40 < float(stem[1]) < -22
    for before, after in ((cerebellum, moved_cerebellum), (stem, moved_stem)):
        # Two voxels along the second axis.
        torch.testing.assert_close(after - before, 2 * frame.affine[:3, 1], atol=3, rtol=0)


def test_the_brainstem_is_white_matter() -> None:
    """In the template, and in a head whose brainstem is no darker than its white matter."""
    frame = AlignToTemplate(**FRAME)
    stem = torch.from_numpy(brainstem_region(frame.shape, frame.affine.numpy())) > 0.5
    tissue = mixture().sharp[2:, stem]
    assert float((tissue[1] / tissue.sum(0)).mean()) > 0.85
    image, labels = head()
    inside = segmented(image.where(~stem | (labels < 2), image[0][labels == 3].mean()))[stem & (labels > 1)]
    assert float(torch.isin(inside, torch.tensor([3, 6, 7])).float().mean()) > 0.8


def test_cortex_looks_like_white_matter_at_one_mean_alone() -> None:
    mean = torch.tensor([0.0, 0.1, 0.2, 0.9, 0.1, 0.5, 0.5, 0.5])
    std = torch.full((8,), 0.1)
    apart = mean.clone()
    apart[6] = 0.8
    assert _alike(_Gaussians(mean, std, std)) == 1
    assert float(_alike(_Gaussians(apart, std, std))) < 0.02


def test_a_batch_is_its_heads_one_by_one() -> None:
    image, _ = head()
    batch = torch.stack([image, 0.5 * image])
    together = mixture()(batch)
    assert torch.equal(together, torch.cat([mixture()(one[None]) for one in batch]))
    torch.testing.assert_close(together.exp().sum(1), torch.ones_like(together[:, 0]), atol=1e-4, rtol=0)


def test_nothing_is_no_brain() -> None:
    assert not segmented(torch.full_like(head()[0], 0.3)).any()


def test_what_is_not_in_the_frame_is_refused() -> None:
    with pytest.raises(ImageShapeError, match="as AlignToTemplate makes them"):
        mixture()(torch.zeros(1, 1, 56, 56, 40))
    with pytest.raises(ImageError, match="give images in"):
        mixture()(255 * head()[0][None])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": (0, 5, 5)},
        {"rounds": (5, 5)},
        {"neighbours": -1.0},
        {"grids": (8.0, 0.0)},
        {"grids": ()},
        {"bending": -1},
        {"white_share": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give grids above 0 mm"):
        TissueMixture(**FRAME, **wrong)


class Says(torch.nn.Module):
    """A network that is sure of one tissue everywhere."""

    def __init__(self, tissue: int) -> None:
        super().__init__()
        self.tissue, self.seen = tissue, 0

    def forward(self, stack: Tensor) -> Tensor:
        self.seen += 1
        logits = torch.zeros(len(stack), 4, *stack.shape[2:])
        logits[:, self.tissue] = 3
        return logits


def test_a_network_is_heard_where_cortex_and_white_matter_look_alike() -> None:
    image, labels = head()
    quick = TissueMixture(**FRAME, bending=4, rounds=(10, 8), grids=(8.0,)).eval()
    # Grey and white matter of one brightness, fluid dark.
    flat = torch.where(labels > 1, 0.6 + 0.02 * (image - image.mean()), image.clamp(max=0.5))
    t1, alone = (quick.tissues(one[None])[0] for one in (image, flat))
    for tissue in (2, 3):
        quick.painted = network = Says(tissue)
        if tissue == 2:
            assert torch.equal(quick.tissues(image[None])[0], t1), "T1 stays as it is, bit by bit"
            assert network.seen == 0
        found = quick.tissues(flat[None])[0]
        assert network.seen == 1
        before, after = (int((f.argmax(0) == tissue).sum()) for f in (alone, found))
        assert after > 1.05 * before
