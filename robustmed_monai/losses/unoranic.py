"""The objective of unORANIC and those of the auto-encoders beside it.

Notation of the paper: I clean image, S = A_S(I) corrupted image, v_i further corruptions of I, V all of them
with S; E_A, E_C encoders, D_A, D decoders. All sums run in float32, also inside autocast.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.nn import functional as F

from robustmed_monai.utils.errors import ConfigError

CORRUPTED, GATES = "corrupted", "gates"
NORMS = ("mse", "l2")

Networks = Mapping[str, nn.Module]
Batch = MutableMapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]


def image_error(target: torch.Tensor, image: torch.Tensor, norm: str = "mse") -> torch.Tensor:
    """How far images are from their targets, a scalar.

    Args:
        target: (B, C, X, Y).
        image: (B, C, X, Y).
        norm: "mse", the mean squared error over all values (the code's), or "l2", the Euclidean norm of each
            image's difference divided by its number of pixels, averaged over the batch (Eq. 3 and 4).

    Example:
        >>> image_error(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5), "l2")
        tensor(0.1250)
    """
    difference = image.float() - target.float()
    if norm == "mse":
        return difference.square().mean()
    # The norm has no gradient at 0; the smallest float keeps 0 / 0 out of it.
    length = difference.square().flatten(1).sum(1).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return length.mean() / (image.shape[-1] * image.shape[-2])


def consistency(codes: torch.Tensor, norm: str = "mse") -> torch.Tensor:
    """L_C: how far the anatomy codes of one image's views are from each other, a scalar (Eq. 2).

    Args:
        codes: (V, B, latent), one code per view; V at least 2.
        norm: "mse", the mean squared difference (the code's), or "l2", the Euclidean norm of the difference
            (the paper's); averaged over the V (V - 1) / 2 pairs and the batch.
    """
    i, j = torch.triu_indices(len(codes), len(codes), 1, device=codes.device)
    squares = (codes.float()[i] - codes.float()[j]).square()
    if norm == "mse":
        return squares.mean()
    return squares.sum(2).clamp_min(torch.finfo(torch.float32).tiny).sqrt().mean()


def gate_error(gates: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of what a head says of each corruption, a scalar.

    Args:
        gates: (B, K), 1 where the corruption was applied.
        told: (B, K) logits.
    """
    return F.binary_cross_entropy_with_logits(told.float(), gates.float())


class UNORANICLoss:
    """lambda_rec (L_RI + L_RS) + lambda_cons L_C, as the one objective of a MultiOptimizerTrainer.

    The three terms come back with their weights, so that they add up to the loss.

    Args:
        norm: "mse" (the authors' code) or "l2" (the paper); see ``image_error`` and ``consistency``.
        lambda_rec: weight of both reconstruction errors; the paper names none, the code's are 1.
        lambda_cons: weight of the consistency.
        views_at_once: send all views of a batch through E_A in one pass, which is faster. BatchNorm then
            normalises by the statistics of all views together, and its running statistics take one step per
            batch. All views come from one distribution, so what changes is the noise of the statistics, less
            of it the more views there are. False sends each view alone, and S once more for the
            consistency, as the authors' code does: statistics per view, one step of the running ones each.
        lambda_gates: weight of a term that neither paper nor code has: a linear "gate_head" on E_C(S) tells
            which corruptions S was given. The draw is known, so it needs no label. 0 leaves it out.

    Raises:
        ConfigError: for an unknown norm.

    Source: Doerrich et al., *unORANIC*, MLMI at MICCAI 2023, Eq. 2 to 5. Eq. 3 is printed with E_A(I); text
        and figure feed E_A(S), and so does this.
    """

    def __init__(
        self,
        norm: str = "mse",
        lambda_rec: float = 1.0,
        lambda_cons: float = 1.0,
        views_at_once: bool = True,
        lambda_gates: float = 0.0,
    ) -> None:
        _check_norm(norm)
        self.lambda_gates = lambda_gates
        self.norm = norm
        self.lambda_rec = lambda_rec
        self.lambda_cons = lambda_cons
        self.views_at_once = views_at_once

    def __call__(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """Terms of one batch.

        Args:
            networks: "anatomy_encoder", "characteristic_encoder", "anatomy_decoder", "image_decoder", and
                with ``lambda_gates`` "gate_head".
            batch: "image" I (B, C, X, Y) and "corrupted" V (V B, C, X, Y), view after view, S first, as
                ``CorruptedViews`` makes them. The anatomy image is left as "pred".
            generator: not used; nothing is drawn here.

        Returns:
            "loss", "anatomy" (L_RI), "image" (L_RS), "consistency" (L_C) and with ``lambda_gates`` "gates",
            scalars.
        """
        corrupted = batch[CORRUPTED][: len(batch[Keys.IMAGE])]
        code, codes = self._codes(networks["anatomy_encoder"], batch[CORRUPTED], len(corrupted))
        characteristics = networks["characteristic_encoder"](corrupted)
        anatomy = networks["anatomy_decoder"](code)
        full = networks["image_decoder"](torch.cat([code, characteristics], dim=1))
        batch[Keys.PRED] = anatomy.detach()
        terms = {
            "anatomy": self.lambda_rec * image_error(batch[Keys.IMAGE], anatomy, self.norm),
            "image": self.lambda_rec * image_error(corrupted, full, self.norm),
            "consistency": self.lambda_cons * consistency(codes, self.norm),
        }
        if self.lambda_gates:
            told = networks["gate_head"](characteristics.flatten(1))
            terms["gates"] = self.lambda_gates * gate_error(batch[GATES], told)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _codes(self, encoder: nn.Module, views: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E_A(S), and the flat codes of all views (V, B, latent)."""
        if self.views_at_once:
            codes: torch.Tensor = encoder(views)
            return codes[:rows], codes.flatten(1).unflatten(0, (-1, rows))
        code: torch.Tensor = encoder(views[:rows])
        return code, torch.stack([encoder(view).flatten(1) for view in views.split(rows)])


class ReconstructionLoss:
    """The objective of an auto-encoder on corrupted images.

    Args:
        target: "corrupted" reproduces what is given (the paper's AE), "image" the clean image behind it (a
            denoising auto-encoder).
        norm: "mse" or "l2", see ``image_error``.

    Raises:
        ConfigError: for an unknown target or norm.
    """

    def __init__(self, target: str = CORRUPTED, norm: str = "mse") -> None:
        if target not in (CORRUPTED, Keys.IMAGE):
            raise ConfigError(f"target={target!r}: use 'corrupted' (AE) or 'image' (denoising AE).")
        _check_norm(norm)
        self.target = target
        self.norm = norm

    def __call__(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """Terms of one batch.

        Args:
            networks: "encoder" and "decoder".
            batch: "image" (B, C, X, Y) and "corrupted", of which the first view counts. The reconstruction is
                left as "pred".
            generator: not used; nothing is drawn here.

        Returns:
            "loss" and "image" (the same), scalars.
        """
        corrupted = batch[CORRUPTED][: len(batch[Keys.IMAGE])]
        image = networks["decoder"](networks["encoder"](corrupted))
        batch[Keys.PRED] = image.detach()
        error = image_error(corrupted if self.target == CORRUPTED else batch[Keys.IMAGE], image, self.norm)
        return {"loss": error, "image": error}


def _check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ConfigError(f"norm={norm!r} is unknown; use 'mse' (the code's) or 'l2' (the paper's).")
