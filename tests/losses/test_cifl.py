from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from robustmed_monai.losses.cifl import (
    CIFLLoss,
    attraction,
    channel_similarity,
    crop_border,
    gram_matrix,
    repulsion,
)
from robustmed_monai.networks.cifl import unit_maps
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

C = 16
TEMPERATURES = [(1.0, 1.0), (1.0, 0.1), (1.0, 0.01), (0.1, 1.0), (0.1, 0.1)]
# Fact sheet of CIFL, section 1.4: loss at (t, tau_g) for the four configurations below.
SHEET = {
    "collapse": [2.7726, 11.7081, 101.7081, 0.0018, 2.7726],
    "orthogonal": [1.8746, 1.8746, 1.8746, 0.0007, 0.0007],
    "simplex": [1.8185, 1.3437, 0.0070, 0.0006, 0.0003],
    "unrelated": [2.7726, 2.7726, 2.7726, 2.7726, 2.7726],
}


def _maps(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (1, C, 8, 8) maps whose channels have exactly the similarities that the name says, and mean 0."""
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).double())[0]
    # Without the constant vector all that is left has mean 0.
    plain = torch.linalg.qr(torch.cat([torch.ones(64, 1).double(), basis[:, :63]], 1))[0].T[1:]
    first = {
        "collapse": plain[:1].expand(C, 64),
        "orthogonal": plain[:C],
        "unrelated": plain[:C],
        "simplex": plain[:C] - plain[:C].mean(0),
    }[kind]
    second = plain[C : 2 * C] if kind == "unrelated" else first
    return first.reshape(1, C, 8, 8), second.reshape(1, C, 8, 8)


def _closed_form(kind: str, t: float, g: float) -> float:
    pairs = {"collapse": 1 / g - 1 / t, "orthogonal": -1 / t, "simplex": -1 / ((C - 1) * g) - 1 / t}
    return math.log(C) if kind == "unrelated" else math.log1p((C - 1) * math.exp(pairs[kind]))


@pytest.mark.parametrize("kind", SHEET)
@pytest.mark.parametrize("place", range(5), ids=lambda k: f"t={TEMPERATURES[k][0]}-g={TEMPERATURES[k][1]}")
def test_closed_form_values(kind: str, place: int) -> None:
    t, g = TEMPERATURES[place]
    first, second = _maps(kind)
    for center in (True, False):
        loss = float(CIFLLoss(t, t, g, center=center, crop=0).terms(first, second)["loss"])
        assert loss == pytest.approx(_closed_form(kind, t, g), rel=1e-4, abs=2e-6)
        # One sheet value rounds a 5 down.
        assert loss == pytest.approx(SHEET[kind][place], abs=1.01e-4)


def test_loss_is_the_logarithm_of_the_printed_quotient() -> None:
    first, second = torch.rand(3, 5, 6, 7).double(), torch.rand(3, 5, 6, 7).double()
    tau_a, tau_b, tau_g = 0.7, 0.9, 0.3
    expected = 0.0
    for x, y in zip(first, second, strict=True):
        r1, r2 = (m.flatten(1) / m.flatten(1).norm(dim=1, keepdim=True) for m in (x, y))
        s = [float(a @ b) for a, b in zip(r1, r2, strict=True)]
        same = sum(math.exp(v / tau_a) for v in s)
        pairs = sum(math.exp(float(r1[c] @ r1[d]) / tau_g) for c in range(5) for d in range(5) if c != d)
        expected += -math.log(same / (sum(math.exp(v / tau_b) for v in s) + pairs)) / 3
    found = CIFLLoss(tau_a, tau_b, tau_g, center=False, crop=0).terms(first, second)["loss"]
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_gradient_with_respect_to_the_similarity() -> None:
    t, g = 0.4, 0.2
    generator = torch.Generator().manual_seed(0)
    units = unit_maps(torch.randn(1, C, 9, 9, generator=generator))
    gram = gram_matrix(units)
    s = (torch.rand(1, C, generator=generator) * 2 - 1).requires_grad_()
    (repulsion(s, gram, t, g) + attraction(s, t)).sum().backward()
    different = ~torch.eye(C, dtype=torch.bool)
    with torch.no_grad():
        positive = (s / t).exp().sum()
        share = positive / (positive + (gram[:, different] / g).exp().sum())
        expected = -(1 / t) * torch.softmax(s / t, 1) * (1 - share)
    assert s.grad is not None
    assert torch.allclose(s.grad, expected, atol=1e-6)


def test_float32_inside_autocast_also_at_the_smallest_temperature() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, C, 32, 32), torch.randn(2, C, 32, 32)
    loss = CIFLLoss(tau_g=0.01)
    plain = loss.terms(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss.terms(first, second)
        half = loss.terms(first.bfloat16(), second.bfloat16())
    assert all(torch.equal(plain[k], inside[k]) for k in plain)
    assert half["loss"].dtype == torch.float32
    # In bfloat16 an exponent near 100 would be off by 0.2 at least.
    collapsed = torch.randn(1, 1, 32, 32).expand(1, C, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        value = float(loss.terms(collapsed, collapsed)["loss"])
    assert value == pytest.approx(101.7081, abs=1e-3)


class TestOptions:
    def test_terms_add_up(self) -> None:
        terms = CIFLLoss().terms(torch.randn(2, 4, 24, 24), torch.randn(2, 4, 24, 24))
        assert torch.allclose(terms["attraction"] + terms["repulsion"], terms["loss"])

    def test_crop_cuts_what_lies_at_the_border(self) -> None:
        first, second = torch.randn(2, 4, 24, 20), torch.randn(2, 4, 24, 20)
        noisy = torch.randn(2, 4, 24, 20) * 9
        noisy[..., 3:-3, 3:-3] = first[..., 3:-3, 3:-3]
        loss = CIFLLoss(crop=3)
        assert torch.allclose(loss.terms(noisy, second)["loss"], loss.terms(first, second)["loss"])
        inner = CIFLLoss(crop=0).terms(first[..., 3:-3, 3:-3], second[..., 3:-3, 3:-3])
        assert torch.allclose(loss.terms(first, second)["loss"], inner["loss"])

    def test_centring_takes_offsets_away_and_nothing_else_does(self) -> None:
        first, second = torch.randn(2, 4, 24, 24), torch.randn(2, 4, 24, 24)
        shifted = first + torch.randn(1, 4, 1, 1)
        with_, without = (CIFLLoss(center=center) for center in (True, False))
        assert torch.allclose(
            with_.terms(shifted, second)["loss"], with_.terms(first, second)["loss"], atol=1e-5
        )
        assert not torch.allclose(
            without.terms(shifted, second)["loss"], without.terms(first, second)["loss"], atol=1e-3
        )

    def test_symmetric_is_the_mean_of_both_orders(self) -> None:
        first, second = torch.randn(2, 4, 24, 24), torch.randn(2, 4, 24, 24) ** 3
        forth, back = CIFLLoss(tau_g=0.1).terms(first, second), CIFLLoss(tau_g=0.1).terms(second, first)
        both = CIFLLoss(tau_g=0.1, symmetric=True).terms(first, second)
        assert not torch.allclose(forth["loss"], back["loss"], atol=1e-4)
        assert torch.allclose(both["loss"], (forth["loss"] + back["loss"]) / 2, atol=1e-6)

    def test_voxel_norm_divides_by_the_number_of_voxels(self) -> None:
        maps = torch.randn(1, 4, 8, 8)
        units = torch.nn.functional.normalize(maps, dim=1).flatten(2)
        s = channel_similarity(unit_maps(maps, "voxel", False), unit_maps(maps, "voxel", False))
        assert torch.allclose(s, units.square().sum(2) / 64)
        assert float(s.sum()) == pytest.approx(1.0)
        assert CIFLLoss(norm="voxel", center=False, crop=0).terms(maps, maps)["s_same"] == pytest.approx(0.25)

    def test_three_dimensions(self) -> None:
        maps = torch.randn(2, 4, 8, 9, 7)
        flat = maps[..., 2:-2, 2:-2, 2:-2].reshape(2, 4, 20, 3)
        volume, plane = CIFLLoss(crop=2).terms(maps, maps), CIFLLoss(crop=0).terms(flat, flat)
        assert torch.allclose(volume["loss"], plane["loss"])

    @pytest.mark.parametrize("settings", [{"tau_g": 0.0}, {"crop": -1}, {"norm": "x"}], ids=str)
    def test_bad_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            CIFLLoss(**settings)

    def test_nothing_left_after_the_crop(self) -> None:
        with pytest.raises(ImageShapeError, match="crop of 8"):
            crop_border(torch.zeros(1, 1, 16, 40), 8)

    def test_shapes_that_differ(self) -> None:
        with pytest.raises(ImageShapeError, match="make them equal"):
            CIFLLoss().terms(torch.rand(1, 2, 24, 24), torch.rand(1, 2, 24, 26))


def test_objective_of_a_trainer_splits_the_batch() -> None:
    images = torch.randn(4, 3, 20, 20)
    batch = {"image": images}
    terms = CIFLLoss()({"network": torch.nn.Identity()}, batch, torch.Generator())
    assert torch.equal(terms["loss"], CIFLLoss().terms(images[:2], images[2:])["loss"])
    assert torch.equal(batch["pred"], images)
