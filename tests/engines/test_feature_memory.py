from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmed_monai.engines.feature_memory import fill_memory
from robustmed_monai.networks.feature_memory import FeatureMemory, RAFeatures
from robustmed_monai.transforms import BatchRandAffine
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_info, load_weights


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def _filled(images: Tensor, path: Path, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = FeatureMemory(RAFeatures(), per_cell=4, grid=4)
    fill_memory(network, [{"image": part} for part in images.split(4)], path, {"features": "ra"}, **settings)
    return load_weights(path)


def test_the_same_seed_gives_the_same_bits_and_augmentation_adds(images: Tensor, tmp_path: Path) -> None:
    made = {"passes": 2, "augmentation": BatchRandAffine(), "seed": 3}
    first, again = (_filled(images, tmp_path / f"{name}.pt", **made) for name in ("a", "b"))
    assert all(map(torch.equal, first.values(), again.values()))
    assert load_info(tmp_path / "a.pt")["images"] == 12
    plain = _filled(images, tmp_path / "c.pt")
    assert load_info(tmp_path / "c.pt") == {"features": "ra", "images": 6}
    assert not torch.equal(plain["vectors"], first["vectors"])


def test_one_pass_over_few_images_draws_nothing_at_random(images: Tensor, tmp_path: Path) -> None:
    first, other = (_filled(images, tmp_path / f"{seed}.pt", seed=seed) for seed in (0, 1))
    assert all(map(torch.equal, first.values(), other.values()))


def test_more_images_than_the_limit_are_drawn_from(images: Tensor, tmp_path: Path) -> None:
    whole = _filled(images, tmp_path / "whole.pt", limit=6)
    part = _filled(images, tmp_path / "part.pt", limit=3)
    assert (whole["steps"] < 0.1).all()
    # The fourth vector of each cell is none that an image could be near to.
    assert (part["steps"][:, :3] < 0.1).all()
    assert (part["steps"][:, 3] > 0.5).all()


def test_a_finished_memory_is_left_when_resumed(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    first = _filled(images, path)
    again = _filled(images.flip(0) * 0.5, path, resume=True)
    assert all(map(torch.equal, first.values(), again.values()))


def test_one_image_is_no_memory(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 healthy images"):
        _filled(images[:1], tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
