"""Scores against independent formulas, maps against finite differences, batches against singles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from robustmed_monai.inferers.pchvae import MAPS, ElboInferer, gradient_maps, scores
from robustmed_monai.networks.pchvae import HierarchicalVAE, high_vae, low_vae, pchvae
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.utils.errors import ConfigError

SMALL = (4, 6, 6, 8)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network() -> HierarchicalVAE:
    model = pchvae(channels=SMALL, high_channels=4)
    with torch.no_grad():
        # Codes of untrained networks are all the same; these differ by image.
        for name, p in model.named_parameters():
            p.mul_(2.0 if "weight" in name else 1.0)
    return model


def test_scores_are_the_bound_and_its_parts() -> None:
    model, x = network(), torch.randn(3, 1, 32, 32)
    found = model.components(x)
    each = scores(x, found, variance=0.5)
    kl = [
        kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
        for mean, logvar in found.codes.values()
    ]
    assert found.high is not None
    error = (x - found.total).square().flatten(1).sum(1)
    torch.testing.assert_close(each["reconstruction"], error)
    torch.testing.assert_close(each["kl"], kl[0] + kl[1])
    torch.testing.assert_close(each["elbo"], error + kl[0] + kl[1])
    torch.testing.assert_close(each["high"], (x - found.high).square().flatten(1).sum(1) + kl[0])


def test_models_without_a_high_image_have_no_such_score() -> None:
    x = torch.randn(2, 1, 16, 16)
    assert "high" not in scores(x, low_vae(channels=SMALL[:2], depth=1).components(x))
    quantized = VQVAE2(1, 8, 1, 4, 8, 4).eval().components(x)
    each = scores(x, quantized)
    assert "high" not in each
    distance = [(c[0] - c[1]).square().flatten(1).mean(1) for c in quantized.codes.values()]
    torch.testing.assert_close(each["kl"], 0.25 * (distance[0] + distance[1]))
    plain = scores(x, high_vae(channels=SMALL).components(x))
    torch.testing.assert_close(plain["high"], plain["elbo"])


def test_gradient_map_agrees_with_finite_differences() -> None:
    model, x = network().double(), torch.randn(1, 1, 16, 16)

    @torch.no_grad()
    def total(image: torch.Tensor) -> float:
        found = model.components(image.double())
        kl = sum(0.5 * (c[0].square() + c[1].exp() - 1 - c[1]).sum() for c in found.codes.values())
        return float((image.double() - found.total.double()).square().sum() / 2 + kl)

    made = gradient_maps(x.double(), model.components)["gradient"]
    for place in ((3, 4), (8, 8), (15, 0)):
        step = torch.zeros(1, 1, 16, 16, dtype=torch.double)
        step[0, 0, place[0], place[1]] = 1e-2
        slope = (total(x + step) - total(x - step)) / 2e-2
        assert made[0, 0, place[0], place[1]].item() == pytest.approx(abs(slope), rel=0.02, abs=1e-3)


class TestInferer:
    def test_everything_of_pchvae(self) -> None:
        model, x = network(), torch.randn(3, 1, 32, 32).clamp(-1.5, 1.5)
        found = ElboInferer(maps=MAPS, anomaly_map="low")(x, model)
        assert set(found) == {
            "pred", "high", "low", "anomaly_map", *(f"map_{k}" for k in MAPS),
            "score_elbo", "score_reconstruction", "score_kl", "score_high",
        }  # fmt: skip
        torch.testing.assert_close(found["map_residual"], (x - found["pred"]).abs())
        torch.testing.assert_close(found["map_low"], found["low"])
        torch.testing.assert_close(found["anomaly_map"], found["low"].abs())
        assert not any(v.requires_grad for v in found.values())
        assert all(p.grad is None for p in model.parameters())

    def test_a_batch_equals_singles_and_repeats(self) -> None:
        model, x = network(), torch.randn(3, 1, 32, 32).clamp(-1.5, 1.5)
        inferer = ElboInferer(maps=MAPS)
        whole, again = inferer(x, model), inferer(x, model)
        single = [inferer(image[None], model) for image in x]
        for key, value in whole.items():
            assert torch.equal(value, again[key]), "posterior means: nothing is drawn"
            apart = torch.cat([s[key] for s in single])
            # Rounding differs with the size of a batch, by a share of the largest values that were summed.
            torch.testing.assert_close(value, apart, atol=1e-4 * float(value.abs().max()), rtol=1e-4)

    def test_other_models(self) -> None:
        x = torch.randn(2, 1, 16, 16).clamp(-1.5, 1.5)
        low = ElboInferer(maps=MAPS)(x, low_vae(channels=SMALL[:2], depth=1))
        assert "map_low" not in low, "there is no high component that it would be beside"
        quantized = ElboInferer(maps=MAPS)(x, VQVAE2(1, 8, 1, 4, 8, 4))
        assert not {"high", "low", "map_low", "score_high"} & set(quantized)
        assert (quantized["map_gradient"] > 0).any()
        found = ElboInferer(anomaly_map="low")(x, VQVAE2(1, 8, 1, 4, 8, 4))
        assert not found["anomaly_map"].any()

    def test_evaluation_mode_is_given_back(self) -> None:
        model = VQVAE2(1, 8, 1, 4, 8, 4).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        ElboInferer(maps=MAPS)(torch.rand(1, 1, 16, 16), model)
        assert model.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_unknown_map(self) -> None:
        with pytest.raises(ConfigError, match=r"maps: found \['high'\]; choose of \['residual'"):
            ElboInferer(maps=("high",))
