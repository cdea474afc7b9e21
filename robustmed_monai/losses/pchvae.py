"""The objective of pchVAE (Eq. 9) and, with fewer parts, of chVAE, High VAE and Low VAE; that of VQVAE-2.

Notation of the paper: x image, z1 high-level and z2 low-level code, x_high = g1(z1), x_low = g2(z1, z2),
x_sum = x_high + x_low, x_zero = g1(z_low) with z_low from the high-level encoder's look at x_low. All sums
run in float32, also inside autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from robustmed_monai.losses.ra import keep_statistics, kl_divergence, reparameterize, squared_error
from robustmed_monai.networks.pchvae import Components, Posterior, Quantized, components
from robustmed_monai.networks.vqvae2 import quantized_components
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.random import shared_randn

COMMITMENT = 0.25
HIGH_PARTS = ("trunk", "high_encoder", "coarse_decoder", "fine_decoder")

Networks = Mapping[str, nn.Module]
Batch = MutableMapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]


def negative_log_likelihood(target: torch.Tensor, image: torch.Tensor, variance: float = 1.0) -> torch.Tensor:
    """-log N(target; image, variance) per sample without its constant: two (B, C, X, Y) to (B,).

    The norms of Eq. 9 are this: Eq. 8, which they come from, has normal distributions of constant variance c.

    Example:
        >>> negative_log_likelihood(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), variance=0.5)
        tensor([4.])
    """
    return squared_error(target, image) / (2 * variance)


def code_cost(code: Posterior | Quantized) -> torch.Tensor:
    """What a code costs, per sample (B,).

    Args:
        code: a normal distribution costs KL(N(mean, exp(logvar)) || N(0, 1)), summed over its entries; a
            quantized one 0.25 times the mean squared distance to its vectors.
    """
    if isinstance(code, Posterior):
        return kl_divergence(code.mean.flatten(1), code.logvar.flatten(1))
    distance = code.quantized.detach() - code.encoded
    return COMMITMENT * distance.square().flatten(1).mean(1)


def zero_reconstruction(
    networks: Networks, low: torch.Tensor, generator: torch.Generator, freeze_high: bool = False
) -> torch.Tensor:
    """x_zero: what the high-level auto-encoder makes of the low-level component (third term of Eq. 9).

    Args:
        networks: at least the parts of the high-level auto-encoder.
        low: x_low (B, C, X, Y).
        generator: source of the noise of z_low.
        freeze_high: let the gradient pass to x_low, but not into the weights used here.
    """
    high = {name: networks[name] for name in HIGH_PARTS}
    # BatchNorm keeps the statistics of images: x_low is none.
    with keep_statistics(high), _frozen(high) if freeze_high else nullcontext():
        return components(high, low, partial(_sampled, generator=generator)).total


class HierarchicalLoss:
    """Eq. 9, as the one objective of a MultiOptimizerTrainer; terms whose parts are missing are left out.

    The terms come back with their weights, so that they add up to the loss.

    Args:
        lambda_primary: lambda_1, of ||x - x_high||. The paper names no value; 1 as all others.
        lambda_full: lambda_2, of ||x - x_sum||.
        lambda_zero: lambda_3, of ||0 - x_zero||; None is lambda_2, as the paper chose it.
        lambda_kl_high: lambda_4, of the KL of z1 to N(0, 1).
        lambda_kl_low: lambda_5, of the KL of z2 to N(0, 1).
        variance: c, the constant variance of the images; 1 as in the authors' other brain code.
        detach_high_in_sum: let ||x - x_sum|| teach x_low alone, not the image x_high that it is added to
            (deflation in the strict sense of Eq. 1). z1, which x_low is given, still learns from it.
        freeze_high_in_zero: let the zero term not teach the weights of its second pass, so that the
            high-level auto-encoder cannot learn to draw nothing whatever x_low is.
        zero_term: False leaves the third term out.

    Raises:
        ConfigError: for a negative weight or a variance that is not positive.

    Source: Zimmerer et al., arXiv 1911.12161, Eq. 9. It mentions no stopped gradient: the default stops none.
    """

    def __init__(
        self,
        lambda_primary: float = 1.0,
        lambda_full: float = 1.0,
        lambda_zero: float | None = None,
        lambda_kl_high: float = 1.0,
        lambda_kl_low: float = 1.0,
        variance: float = 1.0,
        detach_high_in_sum: bool = False,
        freeze_high_in_zero: bool = False,
        zero_term: bool = True,
    ) -> None:
        self.weights = {
            "primary": lambda_primary,
            "full": lambda_full,
            "zero": lambda_full if lambda_zero is None else lambda_zero,
            "kl_high": lambda_kl_high,
            "kl_low": lambda_kl_low,
        }
        if min(self.weights.values()) < 0 or not variance > 0:
            raise ConfigError(f"weights {self.weights} must be at least 0, variance={variance} above 0.")
        self.variance = variance
        self.detach_high_in_sum = detach_high_in_sum
        self.freeze_high_in_zero = freeze_high_in_zero
        self.zero_term = zero_term

    def __call__(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """Terms of one batch.

        Args:
            networks: parts of a HierarchicalVAE by name.
            batch: "image" x (B, C, X, Y). x_sum is left as "pred".
            generator: source of the codes' noise.

        Returns:
            "loss" and, as far as the model has them, "primary", "full", "zero", "kl_high", "kl_low", scalars.
        """
        image = batch[Keys.IMAGE]
        found = components(networks, image, partial(_sampled, generator=generator))
        batch[Keys.PRED] = found.total.detach()
        terms = self._reconstruction(image, found)
        if self.zero_term and found.high is not None and found.low is not None:
            zero = zero_reconstruction(networks, found.low, generator, self.freeze_high_in_zero)
            terms["zero"] = self._error(torch.zeros_like(zero), zero)
        terms |= {f"kl_{name}": code_cost(code).mean() for name, code in found.codes.items()}
        terms = {name: self.weights[name] * value for name, value in terms.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _reconstruction(self, image: torch.Tensor, found: Components) -> Terms:
        terms = {}
        if found.high is not None:
            terms["primary"] = self._error(image, found.high)
        if found.low is not None:
            total = found.total
            if self.detach_high_in_sum and found.high is not None:
                total = found.high.detach().float() + found.low.float()
            terms["full"] = self._error(image, total)
        return terms

    def _error(self, target: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(target, image, self.variance).mean()


class QuantizedLoss:
    """The objective of VQVAE-2: mean squared error and 0.25 times the commitment of each level.

    Source: Razavi et al., arXiv 1906.00446, as the PyTorch version that pchVAE is compared with weighs it.
    """

    def __call__(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """Terms of one batch.

        Args:
            networks: the children of a VQVAE2 by name.
            batch: "image" (B, C, X, Y). The reconstruction is left as "pred".
            generator: not used; nothing is drawn here.

        Returns:
            "loss", "reconstruction" and "commitment", scalars.
        """
        image = batch[Keys.IMAGE]
        found = quantized_components(networks, image)
        batch[Keys.PRED] = found.total.detach()
        error = (found.total - image.float()).square().mean()
        commitment = torch.stack([code_cost(code).mean() for code in found.codes.values()]).sum()
        return {"loss": error + commitment, "reconstruction": error, "commitment": commitment}


def _sampled(mean: torch.Tensor, logvar: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return reparameterize(mean, logvar, shared_randn(mean, generator))


@contextmanager
def _frozen(networks: Networks) -> Iterator[None]:
    learning = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
