"""The weights that ship with the bundle: whole, listed, with heads, and what they are said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import load
from torch import nn

from robustmed_monai.data.virtual_subjects import virtual_subject
from robustmed_monai.inferers.probe import heads_file, load_heads
from robustmed_monai.networks.unoranic import UNORANIC
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC
from robustmed_monai.transforms.corruption.core import corrupt
from robustmed_monai.transforms.corruption.unoranic import UNORANIC as CORRUPTIONS
from robustmed_monai.utils.weights import load_into, load_weights, verify_bundle_weights

SHIPPED: dict[str, Any] = {
    "model.pt": lambda: UNORANIC(1),
    "pca_pneumoniamnist.pt": lambda: PCAUNORANIC(1, hidden=1024, gates=12),
    "pca_retinamnist.pt": lambda: PCAUNORANIC(3, hidden=512, gates=12),
}
shipped = pytest.mark.parametrize("name", SHIPPED)


def _load(name: str, models: Path) -> nn.Module:
    network: nn.Module = load_into(SHIPPED[name](), models / name)
    return network.eval()


@pytest.fixture
def models(configs: Path) -> Path:
    return configs.parent / "models"


def test_all_are_listed_and_whole(configs: Path, models: Path) -> None:
    heads = {heads_file(name).name for name in SHIPPED}
    assert set(verify_bundle_weights(configs.parent)) == set(SHIPPED) | heads
    assert all(path.stat().st_size <= 25 * 2**20 for path in models.iterdir())


@shipped
def test_heads_come_with_them(name: str, models: Path) -> None:
    heads = load_heads(models / name)
    assert set(heads) == {"disease", "corruption"}
    assert all(set(probes) == {"anatomy", "characteristics", "both"} for probes in heads.values())


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI warns of any config that it reads
def test_monai_loads_the_published_network(configs: Path, models: Path) -> None:
    network = load("unoranic", bundle_dir=str(configs.parents[1]))
    assert isinstance(network, UNORANIC)
    stored = load_weights(models / "model.pt")
    assert all(torch.equal(v, stored[k].to(v)) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", ["pca_pneumoniamnist.pt", "pca_retinamnist.pt"])
def test_pca_variant_reconstructs_and_scores_images_of_another_kind(name: str, models: Path) -> None:
    network = _load(name, models)
    channels = 3 if "retina" in name else 1
    slices = torch.from_numpy(virtual_subject(0, 0).image).movedim(2, 0)[30:50, None]
    brains = nn.functional.interpolate(slices, (28, 28), mode="area").repeat(1, channels, 1, 1)
    inverted = corrupt(
        brains, CORRUPTIONS["invert"], CORRUPTIONS["invert"].sample(brains.shape, torch.Generator())
    )
    head = load_heads(models / name)["corruption"]["characteristics"]
    with torch.no_grad():
        full = network.reconstruct(brains)  # type: ignore[operator]
        scores = [head(network.characteristics(x))[:, 1].mean() for x in (brains, inverted)]  # type: ignore[operator]
    # Brains are far from what it learned; a full reconstruction must still be of this image.
    assert (full - brains).square().mean() < 0.25 * brains.var()
    assert all(0 <= score <= 1 for score in scores)
