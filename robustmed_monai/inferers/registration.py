"""A registration network applied to pairs of images, and what is said and shown of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer

from robustmed_monai.transforms.field_files import write_world_field
from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.pair_fields import world
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.visualize.grids import image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fields of a checkerboard along the shorter side, and voxels between the lines that show a field.
_CHECKERS, _LINES = 6, 8


class RegistrationInferer(Inferer):
    """Registers batches whose channels are those of the moving and then those of the fixed image.

    Args:
        represented: they hold what the network's features make of the images.
        amp: run the network in bfloat16 autocast.
    """

    def __init__(self, represented: bool = False, amp: bool = False) -> None:
        super().__init__()
        self.represented = represented
        self.amp = amp

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Register.

        Args:
            inputs: (B, 2 C, *S): moving and fixed, in [0, 1] (``unit_range``) but where ``represented``.
            network: a RegistrationNet.
            args: not used.
            kwargs: not used.

        Returns:
            What the network returns, and `moved` (B, C, *S): moving on fixed. Where one of the two is empty
            there is nothing to register: the fields are 0.

        Raises:
            ImageError: when the images are not in [0, 1].
        """
        inputs = inputs if self.represented else unit_range(inputs, "RegistrationInferer").float()
        moving, fixed = inputs.chunk(2, dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            found: dict[str, torch.Tensor] = network(moving, fixed, represented=self.represented)
        both = (moving.flatten(1).any(1) & fixed.flatten(1).any(1)).view(-1, *[1] * (moving.ndim - 1))
        found = {key: value * both for key, value in found.items()}
        return {**found, "moved": warp(moving, found["ddf"])}


def registration_report(output: Mapping[str, Any]) -> dict[str, Any]:
    """What ``registration.json`` says about a pair.

    Args:
        output: of a FileEvaluator, after ``PairFieldsd``.

    Returns:
        `fixed`; `mean_displacement_mm` and `largest_displacement_mm` over the fixed grid, the alignment
        included; `similarity`, the normalised mutual information of the two images (1 to 2) `before` and
        `after`, as the network saw them; `folds`; `alignment`: None, or its matrix and what it maps.
    """
    length = np.linalg.norm(output["field"], axis=0)
    matrix, (moving, fixed, moved) = output["alignment"], _shown(output)
    alignment = None
    if matrix is not None:
        alignment = {
            "matrix": np.round(matrix, 6).tolist(),
            "from": "world points of the fixed image, mm along R, A, S",
            "to": "world points of the moving image, mm along R, A, S",
        }
    return {
        "fixed": str(output["fixed"].meta["filename_or_obj"]),
        "mean_displacement_mm": round(float(length.mean()), 4),
        "largest_displacement_mm": round(float(length.max()), 4),
        "similarity": {"before": _similarity(moving, fixed), "after": _similarity(moved, fixed)},
        "folds": output["folds"],
        "alignment": alignment,
    }


def write_field(output: Mapping[str, Any], path: Path, key: str = "field", grid: str = "fixed") -> None:
    """Write a field of ``PairFieldsd`` as ITK's displacement field.

    Args:
        output: of a FileEvaluator.
        path: ``.nii.gz``.
        key: `field` or `velocity_field`, on the fixed image's grid, or `inverse_field`, on the moving one's.
        grid: `fixed` or `moving`.
    """
    write_world_field(output[key], world(output[grid]), path)


def registration_sheet(output: Mapping[str, Any], count: int = 4) -> Figure:
    """Slices of the images and the moved one, lines moved by the field, checkerboards before and after.

    Above the checkerboards stands the normalised mutual information (NMI) of ``registration_report``.
    """
    moving, fixed, moved = _shown(output)
    ddf = output["network_space"]["ddf"].as_subclass(torch.Tensor)
    lines = torch.zeros_like(fixed)
    lines[:, :, ::_LINES] = lines[:, :, :, ::_LINES] = 1
    if len(ddf) == 2:
        field = warp(lines, ddf.movedim(-1, 0))
    else:
        field = warp(lines.movedim(0, -1)[None], ddf[None])[0].movedim(-1, 0)
    filled = torch.nonzero(fixed.flatten(1).any(1)).flatten()
    # From the middle half, where there is most to see.
    places = torch.linspace(0.25, 0.75, min(count, len(filled))) if len(filled) > 1 else torch.zeros(1)
    chosen = filled[(places * (len(filled) - 1)).round().long()] if len(filled) else torch.zeros(1).long()
    first, second, third, drawn = (stack[chosen] for stack in (fixed, moving, moved, field))
    return image_grid(
        {
            "fixed": first,
            "moving": second,
            "moved": third,
            "field": drawn,
            f"before, NMI {_similarity(moving, fixed):.3f}": checkerboard(second, first),
            f"after, NMI {_similarity(moved, fixed):.3f}": checkerboard(third, first),
        },
        [f"slice {i}" for i in chosen.tolist()],
        note="; ".join(output.get("warnings", ())) or None,
    )


def checkerboard(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Fields of two images (N, 1, X, Y) in turn: borders run on where they lie on each other."""
    width, height = first.shape[2:]
    size = max(1, min(width, height) // _CHECKERS)
    x, y = torch.arange(width)[:, None] // size, torch.arange(height)[None] // size
    return torch.where((x + y) % 2 == 0, first, second)


def _shown(output: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The moving, the fixed and the moved image as the network saw them, as slices (N, 1, X, Y)."""
    space = output["network_space"]
    image, moved = (space[k].as_subclass(torch.Tensor).movedim(-1, 0) for k in ("image", "moved"))
    return image[:, :1], image[:, 1:], moved


def _similarity(first: torch.Tensor, second: torch.Tensor) -> float:
    from skimage.metrics import normalized_mutual_information

    return round(float(normalized_mutual_information(first.numpy(), second.numpy(), bins=32)), 4)
