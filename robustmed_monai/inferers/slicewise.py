"""2-D networks on stacks of slices: a few slices at a time, empty ones never; 3-D ones on the volume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers.inferer import Inferer, SimpleInferer
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.transforms.align_to_template import frame_heights
from robustmed_monai.transforms.slice_selection import in_distribution
from robustmed_monai.transforms.volume_slices import filled_slices


class SlicewiseInferer(Inferer):
    """Applies the inferer of a 2-D network to the slices of a stack that hold anything.

    Args:
        inferer: called with slices (B, C, X, Y) and the network; it returns a tensor or a dictionary of
            tensors, whose first axis is the slice.
        batch_size: slices that go through the network at once.
        background: value of the air around the head; slices of nothing else are empty.
        spatial_dims: of the network; one of 3 gets the stack whole, as a volume.

    Example:
        >>> stack = torch.zeros(1, 1, 4, 4, 3)
        >>> stack[..., 1] = 1
        >>> SlicewiseInferer()(stack, lambda slices: slices + 1).amax((0, 1, 2, 3))
        tensor([0., 2., 0.])
    """

    def __init__(
        self,
        inferer: Callable[..., Any] | None = None,
        batch_size: int = 16,
        background: float = 0.0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.inferer = inferer or SimpleInferer()
        self.batch_size = batch_size
        self.background = background
        self.spatial_dims = spatial_dims

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Apply the network, in evaluation mode.

        Args:
            inputs: one stack (1, C, X, Y, S) in the range of the network; whole numbers become float32.
            network: of 2-D images, or of volumes.
            args: passed on to the inferer.
            kwargs: passed on to the inferer.

        Returns:
            What the inferer returns, with images as stacks (1, C', X, Y, S) that are 0 in empty slices, and
            values per slice as (1, S, ...) that are NaN there.

        Raises:
            NonFiniteImageError: when the stack holds NaN or infinite values.
        """
        plain = torch.as_tensor(inputs).as_subclass(torch.Tensor)
        plain = plain if plain.is_floating_point() else plain.float()
        modules = [network] if isinstance(network, nn.Module) else []
        if self.spatial_dims == 3:
            with eval_mode(*modules):
                return self.inferer(plain, network, *args, **kwargs)
        slices = plain[0].movedim(-1, 0)
        # One empty slice goes through where all are: the network alone knows what it returns.
        filled = filled_slices(plain[0] - self.background)
        index = filled if len(filled) else torch.tensor([0])
        with eval_mode(*modules):
            parts = [self.inferer(slices[i], network, *args, **kwargs) for i in index.split(self.batch_size)]
        if isinstance(parts[0], Mapping):
            joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            return {key: _placed(v, filled, len(slices)) for key, v in joined.items()}
        return _placed(torch.cat(parts), filled, len(slices))


def _placed(values: torch.Tensor, filled: torch.Tensor, count: int) -> torch.Tensor:
    image = values.ndim == 4
    whole = values.new_full((count, *values.shape[1:]), 0.0 if image else float("nan"))
    if len(filled):
        whole[filled.to(values.device)] = values
    return (whole.movedim(0, -1) if image else whole)[None]


def map_maximum(output: Mapping[str, Any], kept: Sequence[int]) -> float:
    """Highest value of the anomaly map in some slices of a FileEvaluator's output, 0 without any."""
    maps = output["network_space"]["anomaly_map"].as_subclass(torch.Tensor)
    return float(maps[..., list(kept)].max()) if kept else 0.0


def assessed(output: Mapping[str, Any]) -> list[int]:
    """Slices of a FileEvaluator's output that have a verdict, after ``OODSlicesd``."""
    return list(output.get("assessed_slices", in_distribution(output["ood_reasons"])))


def slice_places(output: Mapping[str, Any]) -> Mapping[int, dict[str, float]]:
    """``{"height_mm": ...}`` of each slice of a FileEvaluator's output, empty for stacks in no frame."""
    heights = frame_heights(output["network_space"].get("image")) or []
    places = {i: {"height_mm": round(height, 3)} for i, height in enumerate(heights)}
    return defaultdict(dict, places)


def slice_title(place: Mapping[str, float], index: int) -> str:
    """Name of a slice on a sheet: its height where that is known, else its number.

    Example:
        >>> slice_title({"height_mm": 22.0}, 3), slice_title({}, 3)
        ('+22 mm', 'slice 3')
    """
    return f"{place['height_mm']:+.0f} mm" if place else f"slice {index}"
