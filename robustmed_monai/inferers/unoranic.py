"""unORANIC applied: images without their corruptions, how much was removed, and a corruption score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers.inferer import Inferer
from monai.networks.utils import eval_mode
from monai.transforms import MaskIntensityd

from robustmed_monai.inferers.probe import LinearProbe
from robustmed_monai.inferers.slicewise import assessed
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.transforms.volume_slices import filled_slices
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.grids import evenly_spaced, image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODES = {
    "anatomy": ("anatomy",),
    "characteristics": ("characteristics",),
    "both": ("anatomy", "characteristics"),
}


class RestorationInferer(Inferer):
    """Applies a network with an anatomy and a characteristics encoder, such as UNORANIC.

    Args:
        heads: probes of the weights (``load_heads``): task, kind of features, probe. That for "corruption"
            gives the score; without it there is none.
        features: features that the probe looks at: "anatomy", "characteristics" or "both".

    Raises:
        ConfigError: when the weights have probes, but not for these features.
    """

    def __init__(
        self,
        heads: Mapping[str, Mapping[str, LinearProbe]] | None = None,
        features: str = "characteristics",
    ) -> None:
        super().__init__()
        probes = (heads or {}).get("corruption", {})
        if features not in CODES or (probes and features not in probes):
            raise ConfigError(f"features={features!r}: the weights have heads for {sorted(probes or CODES)}.")
        self.probe = probes.get(features)
        self.features = features

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Restore, in evaluation mode.

        Args:
            inputs: images (B, C, X, Y) in [0, 1], see ``unit_range``.
            network: image to anatomy image; with `reconstruct`, `anatomy` and `characteristics`.
            args: not used.
            kwargs: not used.

        Returns:
            "pred", the images without their corruptions, and "full", with them, both in [0, 1]; "change"
            (B,), the root mean square of their difference; with a probe "corruption_score" (B,), the
            probability that an image is corrupted.

        Raises:
            ImageError: when the images are not in [0, 1].
        """
        model: Any = network
        inputs = unit_range(torch.as_tensor(inputs), "RestorationInferer").float()
        with eval_mode(model):
            pred = model(inputs).float().clamp(0, 1)
            full = model.reconstruct(inputs).float().clamp(0, 1)
            result = {"pred": pred, "full": full, "change": (full - pred).square().flatten(1).mean(1).sqrt()}
            if self.probe is not None:
                codes = [getattr(model, name)(inputs).float() for name in CODES[self.features]]
                result["corruption_score"] = self.probe(torch.cat(codes, dim=1))[:, 1]
        return result


def only_assessed(output: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the network made of slices out of distribution: it draws what it was trained on.

    Args:
        output: of a FileEvaluator, after ``OODSlicesd``: stacks `pred` and `full`.

    Returns:
        The output with both 0 there; without them where no slice was assessed.
    """
    if not assessed(output):
        return {key: value for key, value in output.items() if key not in ("pred", "full")}
    masked: Any = MaskIntensityd(["pred", "full"], mask_key="in_distribution")
    made: dict[str, Any] = masked(output)
    return made


def restoration_report(output: Mapping[str, Any]) -> dict[str, Any]:
    """What ``scores.json`` says about an image.

    Args:
        output: of a FileEvaluator with a slicewise RestorationInferer, after ``OODSlicesd``.

    Returns:
        `corruption_score` (None without a probe) and `change`, means over the slices that were `assessed`
        (how many), None where none was; and both of each slice that holds anything.
    """
    kept = assessed(output)
    scores, changes = output.get("corruption_score"), output["change"]
    slices = [
        {
            "slice": i,
            "corruption_score": float(scores[i]) if scores is not None and i in kept else None,
            "change": float(changes[i]) if i in kept else None,
        }
        for i in output["ood_reasons"]
    ]
    return {
        "corruption_score": float(scores[kept].mean()) if scores is not None and kept else None,
        "change": float(changes[kept].mean()) if kept else None,
        "assessed": len(kept),
        "slices": slices,
    }


def restoration_sheet(output: Mapping[str, Any], count: int = 6) -> Figure | None:
    """Evenly spaced slices: input, anatomy image and full reconstruction; None for an empty image.

    Slices that were not assessed are shown, without what was made of them, where all are of that kind.
    """
    space = output["network_space"]
    kept = torch.tensor(assessed(output), dtype=torch.long)
    index = kept if len(kept) else filled_slices(space["image"])
    if not len(index):
        return None
    chosen = evenly_spaced(index, count)
    headings = {"image": "input"}
    if len(kept):
        headings |= {"pred": "anatomy image", "full": "full reconstruction"}
    columns = {
        heading: torch.as_tensor(space[key]).as_subclass(torch.Tensor)[..., chosen].movedim(-1, 0)
        for key, heading in headings.items()
    }
    rows = [f"slice {i}" for i in chosen.tolist()]
    return image_grid(columns, rows, "; ".join(output["warnings"]) or None)
