"""Eq. 9 term by term against independent formulas, whom each term teaches, and the linear sanity test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from robustmed_monai.losses.pchvae import (
    HierarchicalLoss,
    QuantizedLoss,
    code_cost,
    negative_log_likelihood,
)
from robustmed_monai.networks.pchvae import (
    HierarchicalVAE,
    Posterior,
    Quantized,
    chvae,
    components,
    high_vae,
    low_vae,
    pchvae,
)
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.utils.errors import ConfigError

SMALL = (4, 6, 6, 8)
TERMS = ("primary", "full", "zero", "kl_high", "kl_low")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def parts(network: nn.Module) -> dict[str, nn.Module]:
    return dict(network.named_children())


def terms_of(loss: Any, network: nn.Module, image: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(5)) if image is None else image
    found: dict[str, torch.Tensor] = loss(parts(network), {"image": x}, torch.Generator().manual_seed(1))
    return found


def taught(loss: HierarchicalLoss, network: nn.Module, term: str) -> set[str]:
    """Names of the parts that a term gives a gradient."""
    network.zero_grad(set_to_none=True)
    terms_of(loss, network)[term].backward()
    return {
        name
        for name, part in network.named_children()
        if any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    }


def test_nll_and_kl_agree_with_torch_distributions() -> None:
    x, y = torch.randn(2, 3, 1, 4, 4)
    variance = 0.3
    exact = -Normal(y, variance**0.5).log_prob(x).flatten(1).sum(1)
    constant = -Normal(torch.zeros(16), variance**0.5).log_prob(torch.zeros(16)).sum()
    torch.testing.assert_close(negative_log_likelihood(x, y, variance), exact - constant)
    mean, logvar = torch.randn(2, 3, 2, 4, 4)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(code_cost(Posterior(mean, logvar)), expected)
    torch.testing.assert_close(
        code_cost(Quantized(mean, logvar)), 0.25 * (mean - logvar).square().mean((1, 2, 3))
    )


def test_terms_and_weights() -> None:
    network = pchvae(channels=SMALL)
    terms = terms_of(HierarchicalLoss(), network)
    assert tuple(terms) == ("loss", *TERMS)
    torch.testing.assert_close(terms["loss"], sum(terms[k] for k in TERMS))
    loss = HierarchicalLoss(
        lambda_primary=2.0, lambda_full=3.0, lambda_kl_high=0.5, lambda_kl_low=0.1, variance=0.5
    )
    weighted = terms_of(loss, network)
    factors = {"primary": 2 / 0.5, "full": 3 / 0.5, "zero": 3 / 0.5, "kl_high": 0.5, "kl_low": 0.1}
    for name, factor in factors.items():
        torch.testing.assert_close(weighted[name], factor * terms[name])
    assert terms_of(HierarchicalLoss(lambda_zero=0.0), network)["zero"] == 0


def test_terms_are_those_of_the_means_when_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustmed_monai.losses.pchvae.shared_randn", lambda like, g: torch.zeros_like(like))
    network = pchvae(channels=SMALL)
    x = torch.randn(2, 1, 16, 16)
    terms = terms_of(HierarchicalLoss(), network, x)
    found = network.components(x)
    assert found.high is not None
    assert found.low is not None
    second = network.components(found.low).high
    assert second is not None
    half = {"primary": x - found.high, "full": x - found.total, "zero": second}
    for name, residual in half.items():
        torch.testing.assert_close(terms[name], residual.square().sum() / 2 / len(x))


def test_same_generator_same_bits_and_pred() -> None:
    network, batch = pchvae(channels=SMALL), {"image": torch.randn(2, 1, 16, 16)}
    runs = [
        HierarchicalLoss()(parts(network), batch, torch.Generator().manual_seed(s))["loss"] for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert batch["pred"].shape == (2, 1, 16, 16)
    assert not batch["pred"].requires_grad


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (chvae(channels=SMALL), {"full", "kl_high", "kl_low"}),
        (high_vae(channels=SMALL), {"primary", "kl_high"}),
        (low_vae(channels=SMALL[:2], depth=1), {"full", "kl_low"}),
    ],
    ids=["chVAE", "High VAE", "Low VAE"],
)
def test_models_have_the_terms_of_their_parts(network: HierarchicalVAE, names: set[str]) -> None:
    assert set(terms_of(HierarchicalLoss(), network)) == {"loss"} | names


HIGH = {"trunk", "high_encoder", "coarse_decoder", "fine_decoder"}
LOW = {"low_encoder", "low_decoder"}


class TestGradientRouting:
    @pytest.mark.parametrize(
        ("term", "parts_taught"),
        [
            ("primary", HIGH),
            ("full", HIGH | LOW),
            ("zero", HIGH | LOW),
            ("kl_high", {"trunk", "high_encoder"}),
            # z2 is conditioned on z1, so its KL reaches the high-level encoder too.
            ("kl_low", {"trunk", "high_encoder", "coarse_decoder", "low_encoder"}),
        ],
    )
    def test_default_stops_no_gradient(self, term: str, parts_taught: set[str]) -> None:
        assert taught(HierarchicalLoss(), pchvae(channels=SMALL), term) == parts_taught

    def test_detach_high_in_sum(self) -> None:
        loss = HierarchicalLoss(detach_high_in_sum=True)
        network = pchvae(channels=SMALL)
        assert taught(loss, network, "full") == HIGH - {"fine_decoder"} | LOW
        assert taught(loss, network, "primary") == HIGH
        plain = terms_of(HierarchicalLoss(), network)
        torch.testing.assert_close(terms_of(loss, network), plain)

    def test_freeze_high_in_zero(self) -> None:
        network = pchvae(channels=SMALL)
        loss = HierarchicalLoss(freeze_high_in_zero=True)
        # What is left to trunk, encoder and coarse decoder comes through the making of x_low.
        assert taught(loss, network, "zero") == HIGH - {"fine_decoder"} | LOW
        assert all(p.requires_grad for p in network.parameters())
        torch.testing.assert_close(terms_of(loss, network), terms_of(HierarchicalLoss(), network))

    def test_gradient_of_the_second_pass_alone_is_what_is_frozen(self) -> None:
        network = pchvae(channels=SMALL)

        def gradient(freeze: bool) -> torch.Tensor:
            network.zero_grad(set_to_none=True)
            terms_of(HierarchicalLoss(freeze_high_in_zero=freeze), network)["zero"].backward()
            return torch.cat([p.grad.flatten() for p in network.low_decoder.parameters()])  # type: ignore[union-attr]

        torch.testing.assert_close(gradient(False), gradient(True))

    def test_without_the_zero_term(self) -> None:
        terms = terms_of(HierarchicalLoss(zero_term=False), pchvae(channels=SMALL))
        assert set(terms) == {"loss", *TERMS} - {"zero"}


class Certain(nn.Module):
    """A linear encoder whose codes have no spread."""

    def __init__(self, inputs: int, codes: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(inputs, codes, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.linear(x)
        return torch.cat([mean, torch.full_like(mean, -60.0)], dim=1)


def test_batch_norm_keeps_the_statistics_of_images_alone() -> None:
    kept = []
    for zero_term in (True, False):
        torch.manual_seed(0)
        network = pchvae(channels=SMALL, norm="batch").train()
        terms_of(HierarchicalLoss(zero_term=zero_term), network)
        kept.append([b.clone() for n, b in network.named_buffers() if "running" in n])
    assert len(kept[0]) > 4
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_linear_networks_find_the_principal_components_in_turn() -> None:
    """Eq. 2 on toy data: w1 spans the leading components, w2 the next ones, and the zero term goes to 0."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    spread = np.array([3.0, 2.5, 1.5, 1.2, 0.3, 0.2])
    data = rng.normal(size=(120, 6)) * spread @ basis.T
    x = torch.from_numpy(data - data.mean(0)).float()[:, :, None, None]
    network = HierarchicalVAE(
        {
            "trunk": nn.Identity(),
            "high_encoder": Certain(6, 2),
            "coarse_decoder": nn.Identity(),
            "fine_decoder": nn.Conv2d(2, 6, 1, bias=False),
            "low_encoder": Certain(8, 2),
            "low_decoder": nn.Conv2d(4, 6, 1, bias=False),
        }
    )
    loss = HierarchicalLoss(lambda_kl_high=0.0, lambda_kl_low=0.0)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    named, generator = parts(network), torch.Generator().manual_seed(0)
    history = []
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 400)
        optimizer.zero_grad()
        terms = loss(named, {"image": x}, generator)
        terms["loss"].backward()
        optimizer.step()
        history.append(terms["zero"].item())
    _, values, vectors = np.linalg.svd(x[:, :, 0, 0].numpy(), full_matrices=False)
    drawn = components(named, x)
    assert drawn.high is not None
    assert drawn.low is not None
    high, low = (np.linalg.svd(i[:, :, 0, 0].detach().numpy())[2][:2] for i in (drawn.high, drawn.low))
    assert np.linalg.svd(high @ vectors[:2].T)[1].min() > 0.999, "high draws components 1 and 2"
    assert np.linalg.svd(low @ vectors[2:4].T)[1].min() > 0.99, "low draws components 3 and 4"
    assert history[-1] < 1e-3 < history[0], "the high-level auto-encoder sees nothing in the low component"
    best = (values[4:] ** 2).sum() / 2 / len(x)
    assert terms["full"].item() == pytest.approx(best, rel=0.05)


def test_a_short_overfit_divides_the_work() -> None:
    network = pchvae(channels=(4, 8, 8, 8), high_channels=2)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]
    stripes = (torch.arange(16) % 2 - 0.5).expand(1, 1, 16, 16)
    x = sign + 0.6 * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None, None, None] * stripes
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    named, generator = parts(network), torch.Generator().manual_seed(0)
    loss = HierarchicalLoss(variance=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss(named, {"image": x}, generator)["loss"].backward()
        optimizer.step()
    found = network.components(x)
    assert found.high is not None
    assert found.low is not None
    zero = network.components(found.low).high
    assert zero is not None
    assert (x - found.total).square().mean() < (x - found.high).square().mean()
    assert zero.square().mean() < 0.2 * found.high.square().mean()


def test_quantized_loss() -> None:
    network = VQVAE2(channels=8, residual_channels=4, book_size=16, book_width=4).eval()
    x = torch.randn(2, 1, 16, 16)
    terms = terms_of(QuantizedLoss(), network, x)
    found = network.components(x)
    torch.testing.assert_close(terms["reconstruction"], (x - found.total).square().mean())
    diff = sum((code[0] - code[1]).square().mean() for code in found.codes.values())
    torch.testing.assert_close(terms["commitment"], 0.25 * torch.as_tensor(diff))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["commitment"])
    with pytest.raises(ConfigError, match="must be at least 0, variance=0"):
        HierarchicalLoss(variance=0)
