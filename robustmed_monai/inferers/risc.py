"""Finds the rotation of an image, undoes it and lets any classifier see the image upright."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.transforms.rotation import all_rotations, check_rotations, rotate
from robustmed_monai.utils.errors import ConfigError

CORRECTIONS = ("hard", "soft", "average", "none")
Network = Callable[..., torch.Tensor]


class RotationCorrectionInferer(Inferer):
    """Canonicalisation around a classifier that was trained on upright images.

    Args:
        rotnet: image to rotation logits (B, K); None for "average" and "none", which do not need one.
        num_rotations: K, 4 or 8.
        correction: "hard" undoes the most likely rotation (the paper); "soft" averages the class
            probabilities over all rotations, weighted by how likely they are; "average" weights them
            alike; "none" leaves the image as it is.
        orbit: ask RotNet about all rotations of the image and let it agree with itself. It costs K times
            RotNet, and makes the whole independent of how the image comes in (exactly for K = 4).
        min_confidence: below this probability of the most likely rotation, in [0, 1], the correction
            abstains: it averages over all rotations and says so.
        temperature: RotNet's logits are divided by it; see ``fit_temperature``.
        floor: rotations less likely than this are not looked at in "soft", which saves most of its cost.
        pool: all images of a call lie turned alike, as the slices of a volume do, and are asked together.
        mode: see ``rotate``.
        batch_size: images that go through a network at once.
        amp: run the networks in bfloat16 autocast.

    Raises:
        ConfigError: when an argument is out of range.

    Source: RISC (MethodsX 2024), stage 5, for "hard".
    """

    def __init__(
        self,
        rotnet: Network | None = None,
        num_rotations: int = 4,
        correction: str = "hard",
        orbit: bool = False,
        min_confidence: float = 0.0,
        temperature: float = 1.0,
        floor: float = 1e-3,
        pool: bool = False,
        mode: str = "isotropic",
        batch_size: int = 256,
        amp: bool = False,
    ) -> None:
        super().__init__()
        check_rotations(num_rotations, mode)
        if correction not in CORRECTIONS:
            raise ConfigError(f"correction={correction!r}; choose one of {', '.join(CORRECTIONS)}.")
        if rotnet is None and (correction in ("hard", "soft") or min_confidence > 0):
            raise ConfigError(f"correction={correction!r} needs a RotNet; give rotnet.")
        if not (0 <= min_confidence <= 1 and temperature > 0 and 0 <= floor < 1 / num_rotations):
            raise ConfigError(
                f"min_confidence={min_confidence} must lie in [0, 1], temperature={temperature} above 0, "
                f"floor={floor} in [0, {1 / num_rotations})."
            )
        self.rotnet = rotnet
        self.num_rotations = num_rotations
        self.correction = correction
        self.orbit = orbit
        self.min_confidence = min_confidence
        self.temperature = temperature
        self.floor = floor
        self.pool = pool
        self.mode = mode
        self.batch_size = batch_size
        self.amp = amp

    def __call__(
        self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Classify images however they are turned, in evaluation mode.

        Args:
            inputs: images (B, C, S, S) in [0, 1].
            network: classifier, image to class logits (B, classes).
            args: passed on to the classifier.
            kwargs: passed on to the classifier.

        Returns:
            "pred": class probabilities (B, classes). With a RotNet also "posterior" (B, K), "rotation": the
            most likely rotation class (B,), "angle": its degrees, counter-clockwise (B,), "confidence": its
            probability (B,), "abstained" (B,) bool, and "corrected": the images turned back (B, C, S, S).
        """
        images = inputs.as_subclass(torch.Tensor)
        found: dict[str, torch.Tensor] = {}
        if self.rotnet is not None:
            posterior = self.posterior(images)
            confidence, rotation = posterior.max(1)
            found = {
                "posterior": posterior,
                "rotation": rotation,
                "angle": rotation * (360.0 / self.num_rotations),
                "confidence": confidence,
                "abstained": confidence < self.min_confidence,
                "corrected": rotate(images, -rotation, self.num_rotations, self.mode),
            }
        if self.correction == "none":
            logits = self._run(network, images, *args, **kwargs)
            return {"pred": logits.softmax(1), **found}
        return {"pred": self._mixed(images, self._weights(images, found), network, *args, **kwargs), **found}

    def posterior(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, K) of the rotations that images (B, C, S, S) may have."""
        if self.rotnet is None:
            raise ConfigError("there is no RotNet to ask; give rotnet.")
        scores = self._scores(self.rotnet, images)
        if self.pool:
            scores = scores.mean(0, keepdim=True).expand_as(scores)
        return scores.softmax(1)

    def _scores(self, rotnet: Network, images: torch.Tensor) -> torch.Tensor:
        """Logarithms of the probabilities of the rotations, but for a constant, (B, K)."""
        if not self.orbit:
            return (self._run(rotnet, images) / self.temperature).log_softmax(1)
        views = all_rotations(images, self.num_rotations, self.mode)
        logits = self._run(rotnet, views) / self.temperature
        scores = logits.log_softmax(1).unflatten(0, (-1, self.num_rotations))
        # Turned by j more, an image that lies at k is seen at k + j.
        steps = torch.arange(self.num_rotations, device=images.device)
        seen = (steps[:, None] + steps[None]) % self.num_rotations
        agreed: torch.Tensor = scores.gather(2, seen.expand(len(scores), -1, -1)).mean(1)
        return agreed

    def _weights(self, images: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        """Share of each rotation's view in the answer, (B, K)."""
        uniform = images.new_full((len(images), self.num_rotations), 1 / self.num_rotations)
        if self.correction == "average":
            return uniform
        posterior = found["posterior"].to(uniform.dtype)
        if self.correction == "hard":
            weights = torch.zeros_like(posterior).scatter(1, found["rotation"][:, None], 1)
        else:
            kept = posterior * (posterior >= self.floor)
            weights = kept / kept.sum(1, keepdim=True)
        return torch.where(found["abstained"][:, None], uniform, weights)

    def _mixed(
        self, images: torch.Tensor, weights: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        # Only views that count are made: one per image in "hard", hardly more in "soft".
        rows, turns = weights.nonzero(as_tuple=True)
        views = rotate(images[rows], -turns, self.num_rotations, self.mode)
        probabilities = self._run(network, views, *args, **kwargs).softmax(1)
        shares = probabilities * weights[rows, turns][:, None]
        return torch.zeros_like(shares[: len(images)]).index_add(0, rows, shares)

    def _run(self, network: Network, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits of all images, some at a time, in float32."""
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp)
        modules = [network] if isinstance(network, nn.Module) else []
        with torch.no_grad(), autocast, eval_mode(*modules):
            parts = [network(part, *args, **kwargs).float() for part in images.split(self.batch_size)]
        return torch.cat(parts)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Temperature that makes held-out logits most likely, so that a confidence is a probability.

    Args:
        logits: (N, K) of held-out images.
        labels: (N,) their classes.

    Returns:
        A number in [0.25, 8].

    Source: Guo et al., ICML 2017; found by a grid, which cannot diverge.

    Example:
        >>> fit_temperature(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
        8.0
    """
    grid = torch.logspace(-2, 3, 101, base=2.0, dtype=torch.float64)
    scaled = logits.double()[None] / grid[:, None, None]
    losses = -scaled.log_softmax(2).gather(2, labels.expand(len(grid), -1)[..., None]).mean((1, 2))
    return float(grid[losses.argmin()])
