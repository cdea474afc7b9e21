"""The objectives of RA and of its relatives SI-VAE, VAE and AE, one named function per term.

Notation of the papers: x image, z latent, x_r = D(z) reconstruction, x_f = D(n) image made from noise n, s =
1 / (C X Y). All sums run in float32, also inside autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn import functional as F

from robustmed_monai.networks.ra import Encoding
from robustmed_monai.utils.random import shared_randn

# Beyond these bounds exp() leaves float32 or the posterior is a point; an unbounded logvar is how VAEs turn
# NaN.
LOGVAR_RANGE = (-30.0, 20.0)

Networks = Mapping[str, nn.Module]
Batch = MutableMapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]


@contextmanager
def keep_statistics(networks: Networks, use_running: bool = False) -> Iterator[None]:
    """Within the block BatchNorm does not learn its running statistics; without BatchNorm nothing changes.

    Running means of real, reconstructed and noise-made batches together would fit none of them, and at test
    time all images are real ones.

    Args:
        networks: name to network.
        use_running: normalise by the running statistics instead of those of the batch.
    """
    layers = [
        m for n in networks.values() for m in n.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer.train(layer.training and not use_running)
    try:
        yield
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(training)


def squared_error(target: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """L_r: squared error summed over pixels, per sample: two (B, C, X, Y) to (B,)."""
    return (target.float() - image.float()).square().flatten(1).sum(1)


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) summed over the latent, per sample: two (B, Z) to (B,)."""
    mu, logvar = mu.float(), logvar.float().clamp(*LOGVAR_RANGE)
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def reparameterize(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Sample z = mu + exp(logvar / 2) * noise, all (B, Z)."""
    return mu.float() + (0.5 * logvar.float().clamp(*LOGVAR_RANGE)).exp() * noise


def reversed_embedding_loss(real: list[torch.Tensor], reconstructed: list[torch.Tensor]) -> torch.Tensor:
    """L_Reversed: embeddings of the input and of its own reconstruction must agree at every scale.

    Args:
        real: embeddings e_k of x, each (B, C_k, X_k, Y_k).
        reconstructed: embeddings e'_k of x_r, the same shapes.

    Returns:
        Scalar sum over k of half the mean squared error plus the batch mean of one minus the cosine of the
        flat maps.

    Source: RA (MIDL 2023), multi-scale reversed embedding loss.
    """
    total = torch.zeros((), device=real[0].device)
    for e, e_r in zip(real, reconstructed, strict=True):
        e, e_r = e.float(), e_r.float()
        cosine = F.cosine_similarity(e.flatten(1), e_r.flatten(1), dim=1)
        total = total + 0.5 * F.mse_loss(e_r, e) + (1 - cosine).mean()
    return total


def exp_elbo(
    error: torch.Tensor, kl: torch.Tensor, scale: float, beta_rec: float, beta_neg: float
) -> torch.Tensor:
    """exp(alpha ELBO) with alpha = 2: batch mean of exp(-2 s (beta_rec L_r + beta_neg KL)), in [0, 1].

    Args:
        error: L_r per sample (B,).
        kl: KL per sample (B,).
        scale: s, one over the number of values of an image.
        beta_rec: weight of the error.
        beta_neg: weight of the KL of images that are not real.
    """
    return (-2 * scale * (beta_rec * error + beta_neg * kl)).exp().mean()


class IntrospectiveLoss:
    """Encoder and decoder objectives of RA.

    With ``lambda_emb=0`` they are those of Soft-IntroVAE; a warm-up that lasts all epochs is a VAE, and with
    ``beta_kl=0`` as well an auto-encoder, whose latent is the posterior mean.

    Use ``encoder`` and ``decoder`` as the two objectives of a MultiOptimizerTrainer, in this order: the
    decoder's step takes the latents and the noise of the encoder's step and sees the updated encoder.

    Args:
        beta_rec: weight of reconstruction errors.
        beta_kl: weight of the KL of real images (encoder) and of made images (decoder).
        beta_neg: weight of the KL of made images inside the exponential; None takes the latent's size as
            published.
        gamma_r: weight of the errors of re-encoded images in the decoder's loss.
        lambda_emb: weight of the reversed embedding loss.
        warmup_epochs: epochs that train as a VAE before the introspection starts (0 as published; short
            schedules need a decoder that draws something first, else the encoder wins at once and the
            reconstruction never recovers). Add the loss to the trainer's handlers when it is above 0, so that
            it sees the epochs.
        freeze_norm: after the warm-up BatchNorm normalises by the running statistics of the warm-up.
            Published figures come from statistics frozen at 0 and 1; with batch statistics the weights of a
            short schedule run away from the running ones and the network draws worse in evaluation than in
            training.

    Source: defaults from the MIDL 2023 release; equations of RA and of Soft-IntroVAE (CVPR 2021, eq. 12-13).
    """

    def __init__(
        self,
        beta_rec: float = 0.5,
        beta_kl: float = 1.0,
        beta_neg: float | None = None,
        gamma_r: float = 1e-8,
        lambda_emb: float = 0.005,
        warmup_epochs: int = 0,
        freeze_norm: bool = False,
    ) -> None:
        self.beta_rec = beta_rec
        self.beta_kl = beta_kl
        self.beta_neg = beta_neg
        self.gamma_r = gamma_r
        self.lambda_emb = lambda_emb
        self.warmup_epochs = warmup_epochs
        self.freeze_norm = freeze_norm
        self.warming_up = False

    def attach(self, engine: Engine) -> None:
        """Follow the trainer's epochs, so that the warm-up ends by itself, also after a resume."""

        @engine.on(Events.EPOCH_STARTED)
        def set_phase(engine: Engine) -> None:
            self.warming_up = engine.state.epoch <= self.warmup_epochs

    def encoder(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """L_E: keep the ELBO of real images high, that of made images low, and the embeddings in agreement.

        Args:
            networks: "encoder" (trained) and "decoder" (frozen).
            batch: "image" (B, C, X, Y); receives "pred", "latent" and "noise" for the decoder's step.
            generator: source of all noise.

        Returns:
            "loss" and its named terms, scalars.
        """
        with self._norms(networks):
            return self._encoder_terms(networks, batch, generator)

    def _norms(self, networks: Networks) -> AbstractContextManager[None]:
        frozen = self.freeze_norm and not self.warming_up
        return keep_statistics(networks, use_running=True) if frozen else nullcontext()

    def _encoder_terms(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        encode, decode, x = networks["encoder"], networks["decoder"], batch["image"]
        real: Encoding = encode(x)
        z = _sample(real, generator) if self.beta_kl else real.mu
        x_r = decode(z)
        batch.update(pred=x_r.detach(), latent=z.detach())
        s, kl = _scale(x), kl_divergence(real.mu, real.logvar)
        terms = {
            "reconstruction": s * self.beta_rec * squared_error(x, x_r).mean(),
            "kl": s * self.beta_kl * kl.mean(),
        }
        if self.warming_up:
            return {"loss": _total(terms), **terms}
        noise = batch["noise"] = shared_randn(z, generator)
        # The made images enter the encoder as data, but stay attached where they are the target of the second
        # pass.
        with keep_statistics(networks):
            x_f = decode(noise)
            rec: Encoding = encode(x_r.detach())
            fake: Encoding = encode(x_f.detach())
            x_rr, x_fr = decode(_sample(rec, generator)), decode(_sample(fake, generator))

        beta_neg = self.beta_neg if self.beta_neg is not None else z.shape[1]
        kl_rec, kl_fake = (kl_divergence(e.mu, e.logvar) for e in (rec, fake))
        terms["exp_elbo_rec"] = 0.25 * exp_elbo(squared_error(x_r, x_rr), kl_rec, s, self.beta_rec, beta_neg)
        terms["exp_elbo_fake"] = 0.25 * exp_elbo(
            squared_error(x_f, x_fr), kl_fake, s, self.beta_rec, beta_neg
        )
        if self.lambda_emb:
            terms["embedding"] = self.lambda_emb * reversed_embedding_loss(real.embeddings, rec.embeddings)
        # Logged, not part of the loss: the encoder should find made images less likely than real ones.
        gap = (0.5 * (kl_rec + kl_fake) - kl).mean().detach()
        return {"loss": _total(terms), **terms, "kl_gap": gap}

    def decoder(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """L_D: reconstruct real images and make images that the encoder finds likely.

        Args:
            networks: "encoder" (frozen; the KL terms flow through it) and "decoder" (trained).
            batch: "image", and "latent" and "noise" from the encoder's step.
            generator: source of all noise.

        Returns:
            "loss" and its named terms, scalars.
        """
        with self._norms(networks):
            return self._decoder_terms(networks, batch, generator)

    def _decoder_terms(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        encode, decode, x = networks["encoder"], networks["decoder"], batch["image"]
        s, x_r = _scale(x), decode(batch["latent"])
        terms = {"reconstruction": s * self.beta_rec * squared_error(x, x_r).mean()}
        if self.warming_up:
            return {"loss": _total(terms), **terms}
        with keep_statistics(networks):
            x_f = decode(batch["noise"])
            rec: Encoding = encode(x_r)
            fake: Encoding = encode(x_f)
            x_rr, x_fr = decode(_sample(rec, generator).detach()), decode(_sample(fake, generator).detach())

        again = squared_error(x_r.detach(), x_rr).mean() + squared_error(x_f.detach(), x_fr).mean()
        terms["kl_rec"] = s * 0.5 * self.beta_kl * kl_divergence(rec.mu, rec.logvar).mean()
        terms["kl_fake"] = s * 0.5 * self.beta_kl * kl_divergence(fake.mu, fake.logvar).mean()
        terms["reconstruction_again"] = s * 0.5 * self.gamma_r * self.beta_rec * again
        return {"loss": _total(terms), **terms}


def _total(terms: Terms) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def _scale(x: torch.Tensor) -> float:
    return 1.0 / x[0].numel()


def _sample(posterior: Encoding, generator: torch.Generator) -> torch.Tensor:
    return reparameterize(posterior.mu, posterior.logvar, shared_randn(posterior.mu, generator))
