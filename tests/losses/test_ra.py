"""Every term against an independent NumPy transcription of the sheet, and the gradient flow of section 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.losses.ra import (
    IntrospectiveLoss,
    exp_elbo,
    kl_divergence,
    reparameterize,
    reversed_embedding_loss,
    squared_error,
)
from robustmed_monai.networks.ra import ReversedAutoEncoder

Z = 6


@pytest.fixture
def network() -> ReversedAutoEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ReversedAutoEncoder(image_size=16, channels=(4, 8), latent_size=Z)


def networks(network: ReversedAutoEncoder) -> dict[str, nn.Module]:
    return {"encoder": network.encoder, "decoder": network.decoder}


def images(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(5))


def freeze(module: nn.Module, frozen: bool) -> None:
    for p in module.parameters():
        p.requires_grad_(not frozen)
        p.grad = None


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def np_terms(network: ReversedAutoEncoder, x: torch.Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Both losses written out from the sheet with NumPy, drawing the same noise in the same order."""
    g = generator()

    def enc(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        out = network.encoder(image)
        return out.mu.numpy(), out.logvar.numpy(), [e.numpy() for e in out.embeddings]

    def dec(z: np.ndarray) -> np.ndarray:
        out: np.ndarray = network.decoder(torch.from_numpy(z.astype("f4"))).numpy()
        return out

    def draw() -> np.ndarray:
        return torch.randn(len(x), Z, generator=g).numpy()

    def kl(mu: np.ndarray, lv: np.ndarray) -> np.ndarray:
        return np.asarray(-0.5 * (1 + lv - mu**2 - np.exp(lv)).sum(1))

    def rec(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(((a - b) ** 2).reshape(len(a), -1).sum(1))

    s = 1 / x[0].numel()
    with torch.no_grad():
        xn = x.numpy()
        mu, lv, e = enc(x)
        z = mu + np.exp(lv / 2) * draw()
        n = draw()
        x_r, x_f = dec(z), dec(n)
        mu_r, lv_r, e_r = enc(torch.from_numpy(x_r))
        mu_f, lv_f, _ = enc(torch.from_numpy(x_f))
        x_rr, x_fr = dec(mu_r + np.exp(lv_r / 2) * draw()), dec(mu_f + np.exp(lv_f / 2) * draw())
        emb = 0.0
        for a, b in zip(e, e_r, strict=True):
            fa, fb = a.reshape(len(a), -1), b.reshape(len(b), -1)
            cos = (fa * fb).sum(1) / np.linalg.norm(fa, axis=1) / np.linalg.norm(fb, axis=1)
            emb += 0.5 * ((a - b) ** 2).mean() + (1 - cos).mean()
        encoder = {
            "reconstruction": s * 0.5 * rec(xn, x_r).mean(),
            "kl": s * kl(mu, lv).mean(),
            "exp_elbo_rec": 0.25 * np.exp(-2 * s * (0.5 * rec(x_r, x_rr) + Z * kl(mu_r, lv_r))).mean(),
            "exp_elbo_fake": 0.25 * np.exp(-2 * s * (0.5 * rec(x_f, x_fr) + Z * kl(mu_f, lv_f))).mean(),
            "embedding": 0.005 * emb,
        }
        x_rr, x_fr = dec(mu_r + np.exp(lv_r / 2) * draw()), dec(mu_f + np.exp(lv_f / 2) * draw())
        decoder = {
            "reconstruction": s * 0.5 * rec(xn, x_r).mean(),
            "kl_rec": s * 0.5 * kl(mu_r, lv_r).mean(),
            "kl_fake": s * 0.5 * kl(mu_f, lv_f).mean(),
            "reconstruction_again": s * 0.5 * 1e-8 * 0.5 * (rec(x_r, x_rr).mean() + rec(x_f, x_fr).mean()),
        }
    return encoder, decoder


def test_both_losses_equal_an_independent_transcription(network: ReversedAutoEncoder) -> None:
    x, g, loss = images(), generator(), IntrospectiveLoss()
    batch: dict[str, Any] = {"image": x}
    encoder = loss.encoder(networks(network), batch, g)
    decoder = loss.decoder(networks(network), batch, g)
    for ours, oracle in zip((encoder, decoder), np_terms(network, x), strict=True):
        assert set(oracle) == set(ours) - {"loss", "kl_gap"}
        for name, value in oracle.items():
            assert float(ours[name].detach()) == pytest.approx(value, rel=2e-5, abs=1e-12), name
        assert float(ours["loss"].detach()) == pytest.approx(sum(oracle.values()), rel=1e-5)


def test_encoder_step_reaches_the_encoder_only(network: ReversedAutoEncoder) -> None:
    freeze(network.encoder, False)
    freeze(network.decoder, True)
    IntrospectiveLoss().encoder(networks(network), {"image": images()}, generator())["loss"].backward()
    assert all(p.grad is not None for p in network.encoder.parameters())
    assert all(p.grad is None for p in network.decoder.parameters())


def test_decoder_step_reaches_the_decoder_only_also_through_the_frozen_encoder(
    network: ReversedAutoEncoder,
) -> None:
    loss, batch, g = IntrospectiveLoss(), {"image": images()}, generator()
    with torch.no_grad():
        loss.encoder(networks(network), batch, g)
    freeze(network.encoder, True)
    freeze(network.decoder, False)
    terms = loss.decoder(networks(network), batch, g)
    terms["kl_fake"].backward(retain_graph=True)
    assert sum(float(p.grad.abs().sum()) for p in network.decoder.parameters() if p.grad is not None) > 0
    terms["loss"].backward()
    assert all(p.grad is None for p in network.encoder.parameters())


class Probe(nn.Module):
    """Remembers what it was called with and what it returned."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.inputs: list[torch.Tensor] = []
        self.outputs: list[Any] = []

    def forward(self, x: torch.Tensor) -> Any:
        self.inputs.append(x)
        self.outputs.append(self.inner(x))
        return self.outputs[-1]


def test_made_images_enter_the_second_pass_detached_in_the_encoder_step_only(
    network: ReversedAutoEncoder,
) -> None:
    encoder, decoder = Probe(network.encoder), Probe(network.decoder)
    freeze(network.decoder, True)
    batch = {"image": images()}
    loss = IntrospectiveLoss()
    g = generator()
    loss.encoder({"encoder": encoder, "decoder": decoder}, batch, g)
    _, rec_input, fake_input = encoder.inputs
    assert not rec_input.requires_grad
    assert not fake_input.requires_grad
    x_r = decoder.outputs[0]
    assert x_r.requires_grad, "as a target x_r stays attached: its gradient reaches the encoder through D(z)"
    assert torch.equal(x_r, rec_input)
    # The latents of made images carry gradient in the encoder's step and none in the decoder's.
    assert decoder.inputs[2].requires_grad
    assert decoder.inputs[3].requires_grad
    freeze(network.encoder, True)
    freeze(network.decoder, False)
    encoder.inputs.clear()
    decoder.inputs.clear()
    loss.decoder({"encoder": encoder, "decoder": decoder}, batch, g)
    assert all(i.requires_grad for i in encoder.inputs)
    assert not any(z.requires_grad for z in decoder.inputs)


def test_embedding_loss_is_zero_for_equal_and_positive_for_other_embeddings() -> None:
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    assert float(reversed_embedding_loss(maps, maps)) == pytest.approx(0, abs=1e-6)
    opposite = float(reversed_embedding_loss(maps, [-m for m in maps]))
    assert opposite == pytest.approx(sum(0.5 * float((2 * m).square().mean()) + 2 for m in maps), rel=1e-5)


def test_embedding_gradient_reaches_teacher_and_student(network: ReversedAutoEncoder) -> None:
    a, b = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    reversed_embedding_loss([a], [b]).backward()
    assert a.grad is not None
    assert b.grad is not None


def test_without_embedding_and_with_its_betas_it_is_soft_intro_vae(network: ReversedAutoEncoder) -> None:
    x = images()
    soft = IntrospectiveLoss(beta_rec=1, beta_kl=1, beta_neg=256, lambda_emb=0)
    terms = soft.encoder(networks(network), {"image": x}, generator())
    assert "embedding" not in terms
    g = generator()
    with torch.no_grad():
        e = network.encoder(x)
        z = reparameterize(e.mu, e.logvar, torch.randn(3, Z, generator=g))
        x_r = network.decoder(z)
        x_f = network.decoder(torch.randn(3, Z, generator=g))
        total = torch.zeros(())
        scale = 1 / 256
        total = total + scale * (
            (x - x_r).square().sum((1, 2, 3)).mean() + kl_divergence(e.mu, e.logvar).mean()
        )
        for made in (x_r, x_f):
            q = network.encoder(made)
            again = network.decoder(reparameterize(q.mu, q.logvar, torch.randn(3, Z, generator=g)))
            elbo = (made - again).square().sum((1, 2, 3)) + 256 * kl_divergence(q.mu, q.logvar)
            total = total + 0.25 * (-2 * scale * elbo).exp().mean()
    torch.testing.assert_close(terms["loss"].detach(), total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logvar", [-50.0, 0.0, 50.0])
def test_terms_stay_finite_at_extreme_posteriors(dtype: torch.dtype, logvar: float) -> None:
    mu, lv = torch.full((2, 4), 3.0, dtype=dtype), torch.full((2, 4), logvar, dtype=dtype)
    kl = kl_divergence(mu, lv)
    assert torch.isfinite(kl).all()
    assert (kl >= 0).all()
    assert torch.isfinite(reparameterize(mu, lv, torch.randn(2, 4))).all()
    value = exp_elbo(
        squared_error(torch.ones(2, 1, 8, 8, dtype=dtype), torch.zeros(2, 1, 8, 8, dtype=dtype)),
        kl,
        1 / 64,
        0.5,
        128,
    )
    assert 0 <= float(value) <= 1


def test_exp_elbo_is_one_at_perfection_and_falls_with_each_term() -> None:
    zero = torch.zeros(2)
    assert float(exp_elbo(zero, zero, 0.1, 0.5, 1.0)) == 1
    values = [float(exp_elbo(zero, zero + kl, 0.1, 0.5, 1.0)) for kl in (0, 1, 5, 50)]
    assert values == sorted(values, reverse=True)
    assert values[1] == pytest.approx(math.exp(-0.2))


def test_kl_is_that_of_torch_and_zero_for_the_prior() -> None:
    mu, lv = torch.randn(4, Z), torch.randn(4, Z)
    normal = torch.distributions.Normal
    oracle = torch.distributions.kl_divergence(
        normal(mu, (lv / 2).exp()), normal(torch.zeros(4, Z), torch.ones(4, Z))
    ).sum(1)
    torch.testing.assert_close(kl_divergence(mu, lv), oracle, rtol=1e-5, atol=1e-5)
    assert float(kl_divergence(torch.zeros(1, Z), torch.zeros(1, Z))) == 0


def test_warmup_trains_a_vae_first(network: ReversedAutoEncoder) -> None:
    loss = IntrospectiveLoss(warmup_epochs=3)
    loss.warming_up = True
    batch = {"image": images()}
    warm = loss.encoder(networks(network), batch, generator())
    assert set(warm) == {"loss", "reconstruction", "kl"}
    g, x = generator(), images()
    posterior = network.encoder(x)
    x_r = network.decoder(reparameterize(posterior.mu, posterior.logvar, torch.randn(3, Z, generator=g)))
    elbo = 0.5 * squared_error(x, x_r) + kl_divergence(posterior.mu, posterior.logvar)
    torch.testing.assert_close(warm["loss"], elbo.mean() / 256)
    assert set(loss.decoder(networks(network), batch, generator())) == {"loss", "reconstruction"}


def test_without_prior_the_warmup_is_an_auto_encoder_on_the_mean_squared_error(
    network: ReversedAutoEncoder,
) -> None:
    batch = {"image": images()}
    loss = IntrospectiveLoss(beta_rec=1, beta_kl=0, warmup_epochs=1)
    loss.warming_up = True
    terms = loss.encoder(networks(network), batch, generator())
    torch.testing.assert_close(terms["loss"], nn.functional.mse_loss(network(images()), images()))
