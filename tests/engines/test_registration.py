"""Batches of pairs: what is put where, and transforms that treat each image by itself."""

from __future__ import annotations

import torch

from robustmed_monai.engines.registration import PairTransform, PreparePair


def batch() -> dict[str, torch.Tensor]:
    names = ("moving", "fixed", "moving_label", "fixed_label", "moving_target", "fixed_target")
    return {name: torch.full((2, 1, 4, 4), float(i)) for i, name in enumerate(names)}


def add_number(given: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Adds to each image its label and a number drawn for it."""
    drawn = torch.rand(len(given["image"]), generator=generator).view(-1, 1, 1, 1)
    return {**given, "image": given["image"] + given["label"] + drawn}


def test_moving_comes_first() -> None:
    image, label = PreparePair()(batch())
    assert image[:, :, 0, 0].tolist() == [[0, 1]] * 2
    assert label is not None
    assert label[:, :, 0, 0].tolist() == [[2, 3]] * 2
    target = PreparePair("target")(batch())[1]
    assert target is not None
    assert target[0, :, 0, 0].tolist() == [4, 5]
    assert PreparePair(None)(batch())[1] is None


def test_each_image_is_transformed_by_itself_with_its_own_label() -> None:
    image, label = PreparePair()(batch())
    assert label is not None
    given = {"image": image, "label": label}
    changed = PairTransform(add_number)(given, torch.Generator().manual_seed(0))
    assert torch.equal(changed["target"], image)
    added = (changed["image"] - image - label)[:, :, 0, 0].flatten()
    assert len(added.unique()) == 4
    assert ((added >= 0) & (added < 1)).all()
    assert torch.equal(PairTransform()(given, torch.Generator())["image"], image)


def test_validation_is_transformed_alike_every_time() -> None:
    prepare = PreparePair(transform=PairTransform(add_number), seed=1)
    assert torch.equal(prepare(batch())[0], prepare(batch())[0])
    assert not torch.equal(prepare(batch())[0], PreparePair()(batch())[0])
