from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmed_monai.transforms.artificial_anomalies import MATERIAL, BatchArtificialAnomalies
from robustmed_monai.utils.errors import ConfigError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def heads() -> Tensor:
    """Discs with some structure on black."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((rows - 32) ** 2 + (columns - 32) ** 2).sqrt() < 26
    waves = 0.5 + 0.2 * torch.sin(rows / 3 + torch.arange(12.0).view(-1, 1, 1, 1)) * torch.cos(columns / 4)
    return (waves * disc).clamp(0, 1)


def test_what_is_labelled_has_changed_and_lies_together(heads: Tensor) -> None:
    found = BatchArtificialAnomalies(healthy=0.0, second=0.0)({"image": heads}, _generator())
    image, label = found["image"], found["label"].bool()
    change = (image - heads).abs()
    assert label.shape == heads.shape
    assert image.min() >= 0
    assert image.max() <= 1
    labelled = label.flatten(1).sum(1)
    assert int((labelled > 0).sum()) >= 10, "a patch may be like what it covers, rarely"
    assert float(change[label].mean()) > MATERIAL
    assert float(change[~label].mean()) < 0.01
    assert float(label.float().mean()) < 0.2
    rows = [one.any(1).nonzero().flatten() for one in label[:, 0] if one.any()]
    assert all(int(r.max() - r.min()) < 40 for r in rows), "one region an image"


def test_as_many_stay_healthy_as_asked(heads: Tensor) -> None:
    many = heads.repeat(20, 1, 1, 1)
    found = BatchArtificialAnomalies(healthy=0.5)({"image": many}, _generator())
    same = (found["image"] == many).flatten(1).all(1)
    assert 0.4 < float(same.float().mean()) < 0.6
    assert not found["label"][same].any()
    untouched = BatchArtificialAnomalies(healthy=1.0)({"image": many}, _generator())
    assert torch.equal(untouched["image"], many)
    assert not untouched["label"].any()


def test_second_anomalies_add_to_the_first(heads: Tensor) -> None:
    many = heads.repeat(8, 1, 1, 1)
    one, two = (
        BatchArtificialAnomalies(healthy=0.0, second=share)({"image": many}, _generator())["label"]
        for share in (0.0, 1.0)
    )
    assert float(two.sum()) > 1.5 * float(one.sum())
    assert bool((two >= one).all())


def test_the_radius_sets_the_size(heads: Tensor) -> None:
    many = heads.repeat(8, 1, 1, 1)
    small, large = (
        BatchArtificialAnomalies(healthy=0.0, second=0.0, radii=(r, r))({"image": many}, _generator())[
            "label"
        ]
        for r in (0.05, 0.15)
    )
    assert float(large.sum()) > 4 * float(small.sum()) > 0


def test_the_seed_alone_decides_and_black_images_pass(heads: Tensor) -> None:
    anomalies = BatchArtificialAnomalies(healthy=0.0)
    first, again, other = (anomalies({"image": heads}, _generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], other["image"])
    black = anomalies({"image": torch.zeros(4, 1, 32, 32)}, _generator())
    assert torch.isfinite(black["image"]).all()


@pytest.mark.parametrize("settings", [{"healthy": -0.1}, {"second": 1.5}, {"radii": (0.2, 0.1)}])
def test_shares_and_radii_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="shares in"):
        BatchArtificialAnomalies(**settings)  # type: ignore[arg-type]
