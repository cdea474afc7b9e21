"""Checks of anomaly maps and masks, shared by the pixel metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from monai.utils.type_conversion import convert_to_tensor

from robustmed_monai.utils.errors import DataError, ImageShapeError, NonFiniteImageError

Images = torch.Tensor | Sequence[torch.Tensor]


def checked_images(
    maps: Images, **masks: Images | None
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Yield one map and its masks after the other, checked, on the CPU.

    Args:
        maps: anomaly maps (B, 1, X, Y[, Z]) or a list of (1, X, Y[, Z]), finite and >= 0.
        masks: by name, masks of the same layout with values 0 and 1; None stands for all 0.

    Yields:
        The map as float32 (1, X, Y[, Z]) and the masks as booleans.

    Raises:
        ImageShapeError: for shapes that do not fit.
        NonFiniteImageError: for NaN or infinite values in a map.
        DataError: for negative values in a map, or values other than 0 and 1 in a mask.
    """
    items = _images(maps)
    named = {name: _images(m) for name, m in masks.items() if m is not None}
    for name, images in named.items():
        if len(images) != len(items):
            raise ImageShapeError(
                f"{name}: {len(images)} images, the maps are {len(items)}; give one for each map."
            )
    for i, item in enumerate(items):
        found = _checked_map(item, i)
        given = {name: _checked_mask(images[i], found, f"{name} {i}") for name, images in named.items()}
        yield found, {name: given.get(name, torch.zeros_like(found, dtype=torch.bool)) for name in masks}


def _images(data: Images) -> list[torch.Tensor]:
    if isinstance(data, torch.Tensor):
        return list(convert_to_tensor(data.detach(), device=torch.device("cpu"), track_meta=False))
    return [image for item in data for image in _images(item[None])]


def _checked_map(image: torch.Tensor, index: int) -> torch.Tensor:
    if image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ImageShapeError(f"anomaly map {index}: shape {tuple(image.shape)}; give (B, 1, X, Y[, Z]).")
    image = image.to(torch.float32)
    bad = int((~torch.isfinite(image)).sum())
    if bad:
        raise NonFiniteImageError(
            f"anomaly map {index}: {bad} pixels are NaN or infinite in float32; look at its image."
        )
    if (image < 0).any():
        raise DataError(
            f"anomaly map {index}: lowest value {float(image.min())}; a map is >= 0, take absolute residuals."
        )
    return image


def _checked_mask(mask: torch.Tensor, image: torch.Tensor, name: str) -> torch.Tensor:
    if mask.shape != image.shape:
        raise ImageShapeError(
            f"{name}: shape {tuple(mask.shape)}, its map has {tuple(image.shape)}; make them equal."
        )
    found = mask.bool()
    if (mask != found).any():
        raise DataError(f"{name}: values from {float(mask.min())} to {float(mask.max())}; use 0 and 1 only.")
    return found
