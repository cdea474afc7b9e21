"""unORANIC's objective against a transcription of the formulas, and what BatchNorm sees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.losses.unoranic import ReconstructionLoss, UNORANICLoss, consistency, image_error
from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.utils.errors import ConfigError

Array = np.ndarray


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return dict(UNORANIC(1, 28, (4, 4, 4, 8)).named_children())


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., torch.Tensor] = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    return {
        "image": draw(5, 1, 28, 28),
        "corrupted": draw(4 * 5, 1, 28, 28),
    }


def _call(loss: Any, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = loss(networks, batch, torch.Generator())
    return found


def _image_error(target: Array, image: Array, norm: str) -> float:
    difference = (target - image).astype(np.float64)
    if norm == "mse":
        return float((difference**2).mean())
    return float(np.mean([np.linalg.norm(d) / (28 * 28) for d in difference]))


def _consistency(codes: list[Array], norm: str) -> float:
    pairs = list(combinations(codes, 2))
    if norm == "mse":
        return float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))
    return float(
        np.mean([np.mean([np.linalg.norm(p - q) for p, q in zip(a, b, strict=True)]) for a, b in pairs])
    )


@pytest.mark.parametrize("norm", ["mse", "l2"])
def test_terms_are_the_formulas(
    networks: dict[str, nn.Module], batch: dict[str, torch.Tensor], norm: str
) -> None:
    for network in networks.values():
        network.eval()
    terms = _call(UNORANICLoss(norm, lambda_rec=2.0, lambda_cons=3.0), networks, batch)
    with torch.no_grad():
        views, image = batch["corrupted"].split(5), batch["image"].numpy()
        s, codes = views[0], [networks["anatomy_encoder"](v) for v in views]
        anatomy = networks["anatomy_decoder"](codes[0]).numpy()
        both = torch.cat([codes[0], networks["characteristic_encoder"](s)], dim=1)
        full = networks["image_decoder"](both).numpy()
    expected = {
        "anatomy": 2 * _image_error(image, anatomy, norm),
        "image": 2 * _image_error(s.numpy(), full, norm),
        "consistency": 3 * _consistency([c.flatten(1).numpy() for c in codes], norm),
    }
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert terms["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)
    torch.testing.assert_close(batch["pred"], torch.from_numpy(anatomy), atol=1e-5, rtol=1e-4)


def test_characteristics_learn_from_the_full_image_only(
    networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
) -> None:
    terms = _call(UNORANICLoss(), networks, batch)
    (terms["anatomy"] + terms["consistency"]).backward(retain_graph=True)
    assert all(
        p.grad is None for k in ("characteristic_encoder", "image_decoder") for p in networks[k].parameters()
    )
    terms["image"].backward()
    for name, network in networks.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters()), name


@pytest.mark.parametrize("norm", ["mse", "l2"])
def test_equal_images_have_no_error_and_a_finite_gradient(norm: str) -> None:
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    error = image_error(x.detach(), x, norm)
    error.backward()
    assert float(error.detach()) == pytest.approx(0, abs=1e-18)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    codes = torch.ones(3, 2, 5)
    assert float(consistency(codes, norm)) == pytest.approx(0, abs=1e-18)


class TestViews:
    def _norm(self, networks: dict[str, nn.Module]) -> nn.BatchNorm2d:
        return next(m for m in networks["anatomy_encoder"].modules() if isinstance(m, nn.BatchNorm2d))

    def test_at_once_is_one_step_of_the_running_statistics(
        self, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
    ) -> None:
        _call(UNORANICLoss(), networks, batch)
        assert int(self._norm(networks).num_batches_tracked or 0) == 1

    def test_one_by_one_is_one_step_per_view_and_one_for_the_reconstruction(
        self, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
    ) -> None:
        _call(UNORANICLoss(views_at_once=False), networks, batch)
        assert int(self._norm(networks).num_batches_tracked or 0) == 5

    def test_statistics_are_those_of_all_views_together(
        self, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
    ) -> None:
        norm = self._norm(networks)
        norm.momentum = None
        first = next(m for m in networks["anatomy_encoder"].modules() if isinstance(m, nn.Conv2d))
        _call(UNORANICLoss(), networks, batch)
        with torch.no_grad():
            x = first(batch["corrupted"])
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))

    def test_both_ways_agree_without_batch_statistics(
        self, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
    ) -> None:
        for network in networks.values():
            network.eval()
        found = [_call(UNORANICLoss(views_at_once=v), networks, dict(batch)) for v in (True, False)]
        for name in found[0]:
            torch.testing.assert_close(found[0][name], found[1][name], atol=1e-6, rtol=1e-4)

    def test_equal_views_give_equal_statistics_both_ways(
        self, networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
    ) -> None:
        same = {**batch, "corrupted": batch["corrupted"][:5].repeat(4, 1, 1, 1)}
        found = [_call(UNORANICLoss(views_at_once=v), networks, dict(same)) for v in (True, False)]
        torch.testing.assert_close(found[0]["anatomy"], found[1]["anatomy"], atol=1e-5, rtol=1e-4)
        assert found[0]["consistency"].item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("target", ["corrupted", "image"])
def test_auto_encoder_aims_at_its_target(batch: dict[str, torch.Tensor], target: str) -> None:
    network = AutoEncoder(1, 28, (4, 4, 4, 8)).eval()
    parts = dict(network.named_children())
    terms = _call(ReconstructionLoss(target), parts, batch)
    with torch.no_grad():
        expected = ((network(batch["corrupted"][:5]) - batch[target][:5]) ** 2).mean()
    torch.testing.assert_close(terms["loss"].detach(), expected)
    assert torch.equal(terms["loss"], terms["image"])


def test_gates_are_told_by_the_characteristics_alone(
    networks: dict[str, nn.Module], batch: dict[str, torch.Tensor]
) -> None:
    head = nn.Linear(8, 12)
    gates = (torch.rand(5, 12, generator=torch.Generator().manual_seed(1)) < 0.25).float()
    terms = _call(UNORANICLoss(lambda_gates=0.5), {**networks, "gate_head": head}, {**batch, "gates": gates})
    with torch.no_grad():
        characteristics = networks["characteristic_encoder"](batch["corrupted"][:5])
        told = head(characteristics.flatten(1)).sigmoid().double().numpy()
    wanted = gates.numpy()
    entropy = -(wanted * np.log(told) + (1 - wanted) * np.log(1 - told)).mean()
    assert terms["gates"].item() == pytest.approx(0.5 * entropy, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(
        sum(v.item() for k, v in terms.items() if k != "loss"), rel=1e-5
    )
    terms["gates"].backward()
    assert all(p.grad is None for p in networks["anatomy_encoder"].parameters())
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in networks["characteristic_encoder"].parameters()
    )


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="norm='l1' is unknown"):
        UNORANICLoss(norm="l1")
    with pytest.raises(ConfigError, match="target='clean'"):
        ReconstructionLoss(target="clean")
