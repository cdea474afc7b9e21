"""Heads painted from labels: a draw can be replayed, labels move with the image, a FLAIR looks like one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmed_monai.transforms.batch_painted_heads import BatchPaintedHeads
from robustmed_monai.transforms.params import index_params
from robustmed_monai.transforms.standardised import standardised
from robustmed_monai.utils.errors import ConfigError, ImageError

SHAPE = (3, 1, 40, 48, 8)


def heads() -> dict[str, Tensor]:
    """Balls in balls: fluid in white matter in grey matter in fluid in a head, T1-weighted."""
    x, y = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(48) - 23.5, indexing="ij")
    radius = (x.square() + (0.85 * y).square()).sqrt()
    label = torch.zeros(40, 48, dtype=torch.uint8)
    for edge, number in ((16, 1), (15, 2), (11, 3), (4, 1)):
        label[radius < edge] = number
    image = torch.tensor([0.0, 0.2, 0.5, 0.8])[label.long()]
    image[(radius >= 17) & (radius < 19)] = 0.9
    return {
        k: v[None, None, ..., None].expand(SHAPE).clone() for k, v in (("image", image), ("label", label))
    }


def test_a_draw_gives_the_same_bits_alone_and_in_a_batch() -> None:
    paint, batch = BatchPaintedHeads(), heads()
    params = paint.sample(SHAPE, torch.Generator().manual_seed(0))
    together = paint.apply(batch, params)
    again = paint(batch, torch.Generator().manual_seed(0))
    assert together["image"].shape == SHAPE
    assert together["image"].isfinite().all()
    for name in ("image", "label"):
        assert torch.equal(together[name], again[name])
        for row in range(3):
            single = {k: v[row : row + 1] for k, v in batch.items()}
            alone = paint.apply(single, index_params(params, torch.tensor([row])))
            torch.testing.assert_close(alone[name], together[name][row : row + 1], atol=1e-4, rtol=1e-4)
    assert not torch.equal(together["label"], batch["label"])
    assert together["label"].dtype == torch.uint8
    assert batch["image"].max() == heads()["image"].max()


def test_a_painted_flair_has_dark_fluid_and_cortex_like_white_matter() -> None:
    """Medians over many draws, in spreads of the brain: the three tissues, moved as their labels say."""
    batch = {k: v[:1].expand(24, -1, -1, -1, -1) for k, v in heads().items()}
    found = BatchPaintedHeads(flair=1.0)(batch, torch.Generator().manual_seed(1))
    fluid, grey, white = (
        torch.stack(
            [i[t == k].median() for i, t in zip(found["image"], found["label"], strict=True)]
        ).median()
        for k in (1, 2, 3)
    )
    assert fluid < white - 1
    assert white - 0.2 < grey < white + 1.2


def test_a_stripped_head_has_nothing_outside() -> None:
    bare = BatchPaintedHeads(stripped=1.0)
    params = bare.sample(SHAPE, torch.Generator().manual_seed(0))
    assert not params["outside"].any()
    assert BatchPaintedHeads(stripped=0.0).sample(SHAPE, torch.Generator().manual_seed(0))["outside"].all()


def test_standardised_images_do_not_know_brightness_and_contrast() -> None:
    image, weight = torch.rand(2, 1, 8, 8, 4), torch.rand(1, 1, 8, 8, 4)
    found = standardised(image, weight)
    torch.testing.assert_close(found, standardised(0.2 + 0.3 * image, weight), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        (found * weight).sum((1, 2, 3, 4)) / weight.sum(), torch.zeros(2), atol=1e-4, rtol=0
    )


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"flair=1\.5"):
        BatchPaintedHeads(flair=1.5)
    with pytest.raises(ImageError):
        BatchPaintedHeads()({**heads(), "image": 3 + heads()["image"]}, torch.Generator())
