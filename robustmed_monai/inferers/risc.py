"""Finds the rotation of an image, undoes it and lets any classifier see the image upright."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers.inferer import Inferer
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.inferers.risc_inputs import (
    AXES,
    OUTPUTS,
    CheckedImages,
    ValueRange,
    check_images,
    class_probabilities,
    for_rotnet,
)
from robustmed_monai.transforms.rotation import all_rotations, check_rotations
from robustmed_monai.utils.errors import ConfigError

log = logging.getLogger(__name__)

CORRECTIONS = ("hard", "soft", "average", "none")
Network = Callable[..., torch.Tensor]


class RotationCorrectionInferer(Inferer):
    """Rotation correction around a classifier that was trained on upright images.

    Args:
        rotnet: image to rotation logits (B, K); None for "average" and "none", which do not need one. It sees
            the images in its own size and channels, see ``for_rotnet``.
        num_rotations: K, 4 or 8; None takes that of RotNet, or 4.
        correction: "hard" undoes the most likely rotation (the paper); "soft" averages the class
            probabilities over all rotations, weighted by how likely they are; "average" weights them
            alike; "none" leaves the image as it is.
        rotation_set: ask RotNet about all rotations of the image and let it agree with itself. It costs K
            times RotNet, and makes the whole independent of how the image comes in (exactly for K = 4).
        min_confidence: below this probability of the most likely rotation, in [0, 1], the correction
            abstains: it averages over all rotations and says so.
        temperature: RotNet's logits are divided by it, see ``fit_temperature``; None: RotNet's own, or 1.
        min_weight: rotations less likely than this are not looked at in "soft", which saves most of its cost.
        pool: all images of a call are rotated alike, as the slices of a volume are, and are asked together.
        mode: see ``rotate``.
        batch_size: images that go through a network at once.
        amp: run the networks in bfloat16 autocast.
        axes: order of the last two axes of the images. "XY" is MONAI's and this package's: x to the right,
            then y downwards. "YX" is (row, column), as arrays of MedMNIST's npz files, numpy, PIL and
            torchvision are. The wrong one shows RotNet mirror images, whose rotation it finds wrongly, and
            with confidence. None: "XY", with a warning for images that MONAI did not read.
        value_range: black and white of floating images, a number each or one for each channel; None: 0
            and 1. The classifier sees the range that was given.
        outputs: what the classifier gives: "logits" (one column: of two classes), "multilabel" (logits, any
            number of classes at once) or "probabilities"; None: logits, unless all lie in [0, 1] as
            probabilities do, which is refused.
        exported_from: the RotNet that ``rotnet`` was exported from, for its rotations and temperature, which
            an export does not hold; None: ``rotnet`` itself.

    Raises:
        ConfigError: when an argument is out of range.

    Source: RISC (MethodsX 2024), stage 5, for "hard".
    """

    def __init__(
        self,
        rotnet: Network | None = None,
        num_rotations: int | None = None,
        correction: str = "hard",
        rotation_set: bool = False,
        min_confidence: float = 0.0,
        temperature: float | None = None,
        min_weight: float = 1e-3,
        pool: bool = False,
        mode: str = "isotropic",
        batch_size: int = 256,
        amp: bool = False,
        axes: str | None = None,
        value_range: ValueRange | None = None,
        outputs: str | None = None,
        exported_from: Network | None = None,
    ) -> None:
        super().__init__()
        count: int = num_rotations or getattr(exported_from or rotnet, "num_rotations", None) or 4
        check_rotations(count, mode)
        for name, value, choices in (
            ("correction", correction, CORRECTIONS),
            ("axes", axes, (None, *AXES)),
            ("outputs", outputs, (None, *OUTPUTS)),
        ):
            if value not in choices:
                listed = ", ".join(str(choice) for choice in choices)
                raise ConfigError(f"{name}={value!r}; choose one of {listed}.")
        if rotnet is None and (correction in ("hard", "soft") or min_confidence > 0):
            raise ConfigError(f"correction={correction!r} needs a RotNet; give rotnet.")
        if not (
            0 <= min_confidence <= 1
            and (temperature is None or temperature > 0)
            and 0 <= min_weight < 1 / count
        ):
            raise ConfigError(
                f"min_confidence={min_confidence} must lie in [0, 1], temperature={temperature} above 0, "
                f"min_weight={min_weight} in [0, {1 / count})."
            )
        self.rotnet = rotnet
        self.num_rotations = count
        self.correction = correction
        self.rotation_set = rotation_set
        self.min_confidence = min_confidence
        self.temperature = temperature or getattr(exported_from, "temperature", None)
        self.min_weight = min_weight
        self.pool = pool
        self.mode = mode
        self.batch_size = batch_size
        self.amp = amp
        self.axes = axes
        self.value_range = value_range
        self.outputs = outputs
        self._warned = False

    def __call__(
        self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Classify images however they are rotated, in evaluation mode.

        Args:
            inputs: images (B, C, X, Y), X and Y equal and of any size, in ``value_range``; or uint8 or
                uint16, which the classifier sees as [0, 1]. With ``axes="YX"`` (B, C, rows, columns).
            network: classifier, image to (B, classes), see ``outputs``. It sees the images in their own size,
                range and axes.
            args: passed on to the classifier.
            kwargs: passed on to the classifier.

        Returns:
            "pred": class probabilities (B, classes), or of the one class (B, 1). With a RotNet also
            "posterior" (B, K), "rotation": the most likely rotation class (B,), "angle": its degrees,
            counter-clockwise as the picture is seen (B,), "confidence": its probability (B,), "abstained"
            (B,) bool, and "corrected": the images rotated back (B, C, X, Y).

        Raises:
            ConfigError: when the range of the images or the outputs of a network are not what was said.
            ImageShapeError: when the images are not square or have other channels than RotNet takes.
            NonFiniteImageError: when they hold NaN or infinite values.
        """
        if self.correction == "none" and self.rotnet is None:
            outputs = self._run(network, inputs.as_subclass(torch.Tensor), *args, **kwargs)
            return {"pred": class_probabilities(outputs, self.outputs)}
        checked = self._checked(inputs)
        rows = torch.arange(len(inputs), device=inputs.device)
        found: dict[str, torch.Tensor] = {}
        if self.rotnet is not None:
            posterior = self._posterior(checked.unit)
            confidence, rotation = posterior.max(1)
            found = {
                "posterior": posterior,
                "rotation": rotation,
                "angle": rotation * (360.0 / self.num_rotations),
                "confidence": confidence,
                "abstained": confidence < self.min_confidence,
                "corrected": self._rotated(checked, rows, -rotation),
            }
        if self.correction == "none":
            outputs = self._run(network, self._in_order(checked.given), *args, **kwargs)
            return {"pred": class_probabilities(outputs, self.outputs), **found}
        return {
            "pred": self._mixed(checked, self._weights(checked.unit, found), network, *args, **kwargs),
            **found,
        }

    def posterior(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, K) of the rotations that images may have, given as to the inferer."""
        return self._posterior(self._checked(images).unit)

    def _checked(self, images: torch.Tensor) -> CheckedImages:
        if self.axes is None and not isinstance(images, MetaTensor) and not self._warned:
            self._warned = True
            log.warning(
                "RotationCorrectionInferer: images without meta data are taken for (B, C, X, Y); say "
                "axes='XY', or axes='YX' for (B, C, rows, columns), as numpy, PIL and MedMNIST have them."
            )
        plain = images.as_subclass(torch.Tensor)
        return check_images(self._in_order(plain), self.value_range)

    def _in_order(self, images: torch.Tensor) -> torch.Tensor:
        """From the order of the axes that the user has to (X, Y), or back."""
        return images.transpose(-1, -2) if self.axes == "YX" else images

    def _rotated(self, images: CheckedImages, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return self._in_order(images.rotated(rows, index, self.num_rotations, self.mode))

    def _posterior(self, unit: torch.Tensor) -> torch.Tensor:
        if self.rotnet is None:
            raise ConfigError("there is no RotNet to ask; give rotnet.")
        scores = self._scores(self.rotnet, for_rotnet(unit, self.rotnet))
        if self.pool:
            scores = scores.mean(0, keepdim=True).expand_as(scores)
        return scores.softmax(1)

    def _scores(self, rotnet: Network, images: torch.Tensor) -> torch.Tensor:
        """Logarithms of the probabilities of the rotations, but for a constant, (B, K)."""
        own: Any = getattr(rotnet, "temperature", 1.0)
        temperature = self.temperature or float(own)
        views = all_rotations(images, self.num_rotations, self.mode) if self.rotation_set else images
        logits = self._run(rotnet, views)
        if logits.shape[1:] != (self.num_rotations,):
            raise ConfigError(
                f"RotNet gives outputs of shape {tuple(logits.shape)}, num_rotations={self.num_rotations}; "
                "give the number that it was trained with."
            )
        scores = (logits / temperature).log_softmax(1)
        if not self.rotation_set:
            return scores
        scores = scores.unflatten(0, (-1, self.num_rotations))
        # Rotated by j more, an image at rotation k is seen at k + j.
        steps = torch.arange(self.num_rotations, device=images.device)
        seen = (steps[:, None] + steps[None]) % self.num_rotations
        agreed: torch.Tensor = scores.gather(2, seen.expand(len(scores), -1, -1)).mean(1)
        return agreed

    def _weights(self, unit: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        """Share of each rotation's view in the answer, (B, K)."""
        uniform = unit.new_full((len(unit), self.num_rotations), 1 / self.num_rotations)
        if self.correction == "average":
            return uniform
        posterior = found["posterior"].to(uniform.dtype)
        if self.correction == "hard":
            weights = torch.zeros_like(posterior).scatter(1, found["rotation"][:, None], 1)
        else:
            kept = posterior * (posterior >= self.min_weight)
            weights = kept / kept.sum(1, keepdim=True)
        return torch.where(found["abstained"][:, None], uniform, weights)

    def _mixed(
        self, images: CheckedImages, weights: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        # Only views that count are made: one per image in "hard", hardly more in "soft".
        rows, turns = weights.nonzero(as_tuple=True)
        outputs = self._run(network, self._rotated(images, rows, -turns), *args, **kwargs)
        shares = class_probabilities(outputs, self.outputs) * weights[rows, turns][:, None]
        return shares.new_zeros(len(weights), shares.shape[1]).index_add(0, rows, shares)

    def _run(self, network: Network, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Outputs for all images, some at a time, in float32."""
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp)
        modules = [network] if isinstance(network, nn.Module) else []
        with torch.no_grad(), autocast, eval_mode(*modules):
            parts = [network(part, *args, **kwargs) for part in images.split(self.batch_size)]
        if not all(isinstance(part, torch.Tensor) for part in parts):
            raise ConfigError(f"a network gives {type(parts[0]).__name__}, expected a tensor (B, classes).")
        return torch.cat([part.float() for part in parts])


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
