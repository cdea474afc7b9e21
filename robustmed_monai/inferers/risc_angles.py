"""RISC for images that lie at any angle, not only at the rotations that RotNet tells apart."""

from __future__ import annotations

from typing import Any

import torch

from robustmed_monai.inferers.risc import Network, RotationCorrectionInferer
from robustmed_monai.inferers.risc_inputs import for_rotnet
from robustmed_monai.transforms.rotation import degrees, rotate_by
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.utils.errors import ConfigError


class AnyAngleInferer(RotationCorrectionInferer):
    """Rotation correction that also looks between the rotations which RotNet knows.

    The image is turned back by some angles smaller than one rotation, RotNet is asked about each, and the one
    at which it is surest of its answer is kept; the rotation that it finds there is undone as ever. No
    training is needed. It costs ``fine`` times RotNet.

    Args:
        rotnet: image to rotation logits (B, K).
        fine: angles that are tried within one rotation, 0 among them; with 6 and four rotations, every 15
            degrees.
        settings: see ``RotationCorrectionInferer``.

    Raises:
        ConfigError: when an argument is out of range.

    Source: ours; the paper undoes multiples of 90 or 45 degrees only.
    """

    def __init__(self, rotnet: Network, fine: int = 6, **settings: Any) -> None:
        if fine < 1:
            raise ConfigError(f"fine={fine}; give 1 (the rotations alone) or more angles.")
        super().__init__(rotnet, **settings)
        self.fine = fine

    def __call__(
        self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Classify images however they are rotated; see ``RotationCorrectionInferer``.

        Returns:
            As there; "angle" (B,) is the whole angle, of which "rotation" (B,) is what was left after the
            smaller one had been undone.
        """
        checked = self._checked(inputs)
        steps = [degrees(1, self.num_rotations) * number / self.fine for number in range(self.fine)]
        # Four rotations resample nothing, and such a RotNet has seen plain resampling in its augmentation.
        mode = "bilinear" if self.num_rotations == 4 else self.mode
        chosen = self._surest(checked.unit, steps, mode)
        aligned = checked.given.clone()
        for number, step in enumerate(steps[1:], 1):
            rows = chosen == number
            if bool(rows.any()):
                turned = rotate_by(checked.unit[rows], -step, mode) * checked.span + checked.low
                aligned[rows] = turned.to(aligned.dtype)
        found = super().__call__(placed_like(self._in_order(aligned), inputs), network, *args, **kwargs)
        if self.correction in ("none", "average"):
            # These look at the image as it is; RotNet's findings are of the aligned one.
            found["pred"] = super().__call__(inputs, network, *args, **kwargs)["pred"]
        return {**found, "angle": (found["angle"] + torch.tensor(steps).to(chosen.device)[chosen]) % 360}

    def _surest(self, unit: torch.Tensor, steps: list[float], mode: str) -> torch.Tensor:
        """Which of the steps (B,) lets RotNet be surest; where several do, the smallest."""
        rotnet = self.rotnet
        if rotnet is None:
            raise ConfigError("there is no RotNet to ask; give rotnet.")
        sure = []
        for step in steps:
            view = rotate_by(unit, -step, mode) if step else unit
            scores = self._scores(rotnet, for_rotnet(view, rotnet))
            scores = scores.mean(0, keepdim=True).expand_as(scores) if self.pool else scores
            sure.append(scores.log_softmax(1).amax(1))
        return torch.stack(sure, 1).argmax(1)
