"""Reading images and volumes, choosing axial slices, scaling, boxes and masks, PNG.

Arrays are ``(X, Y)``: x to the right, y down, as everywhere in robustmed_monai. Volumes are oriented to
"RPS".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from robustmed_monai.transforms.image_readers.picture import SCALED_AS_VOLUME
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import DataError, GeometryError

Array = NDArray[np.float32]
Box = list[int]


def read_slice(path: Path) -> Array:
    """Read a 2-D image as one grey channel ``(X, Y)`` with its own values.

    Raises:
        ImageError: when the file is damaged or no 2-D image.
    """
    image = LoadCheckedImage(channels=1, spatial_dims=2)(path)
    return np.asarray(torch.as_tensor(image)[0], dtype=np.float32)


def read_volume(path: Path) -> MetaTensor:
    """Read a volume ``(1, X, Y, Z)`` in axcodes "RPS": ``volume[0, :, :, k]`` is axial, nose up, z upwards.

    Raises:
        ImageError: when the file is damaged or no single-channel volume.
    """
    return orient(LoadCheckedImage(channels=1, spatial_dims=3)(path))


def orient(volume: MetaTensor) -> MetaTensor:
    """Turn a volume ``(1, X, Y, Z)`` to axcodes "RPS"."""
    return cast(MetaTensor, Orientation(axcodes="RPS", labels=None)(volume))


def read_mask(path: Path, like: MetaTensor) -> MetaTensor:
    """Read the mask volume of ``like``, both ``(1, X, Y, Z)``, as 0/1 on the same grid.

    Raises:
        GeometryError: when the two grids differ.
    """
    mask = read_volume(path)
    if mask.shape != like.shape or not np.allclose(mask.affine, like.affine, atol=1e-3):
        raise GeometryError(
            f"{path}: the mask's grid {tuple(mask.shape[1:])} is not that of its image "
            f"{tuple(like.shape[1:])}; both must have the same shape and affine."
        )
    return cast(MetaTensor, (mask > 0).float())


def nearest(mask: Array, shape: Sequence[int]) -> Array:
    """Resample a mask ``(X, Y)`` to another size by nearest neighbour and make it 0/1."""
    picture = Image.fromarray((mask > 0).astype(np.uint8).T).resize(
        (shape[0], shape[1]), Image.Resampling.NEAREST
    )
    return np.asarray(picture, dtype=np.float32).T


def percentile_scale(pixels: Array | torch.Tensor, percentile: float) -> Array:
    """Scale so that 0 stays 0 and ``percentile`` of all values becomes 1; clip to [0, 1].

    Args:
        pixels: image or volume of any shape; values below 0 are noise of the reconstruction and become 0.
        percentile: in (0, 100].

    Raises:
        DataError: when the image is empty.

    >>> percentile_scale(np.asarray([0.0, 1.0, 2.0, 4.0], dtype=np.float32), 100).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    values = np.asarray(pixels, dtype=np.float32)
    top = float(np.percentile(values, percentile))
    if top <= 0:
        raise DataError(f"the image is empty: its {percentile}th percentile is {top}; look at the file.")
    scaled: Array = np.clip(values / np.float32(top), 0, 1)
    return scaled


def evenly_spaced(centre: int, count: int, step: int, depth: int) -> list[int]:
    """Return up to ``count`` slice numbers around ``centre``, ``step`` apart, inside ``0..depth - 1``.

    >>> evenly_spaced(10, 3, 4, 20)
    [6, 10, 14]
    """
    wanted = (centre + (index - (count - 1) // 2) * step for index in range(count))
    return [level for level in wanted if 0 <= level < depth]


def voxel_spacing(volume: MetaTensor) -> tuple[float, float, float]:
    """Return the sides of the voxels of a ``(1, X, Y, Z)`` volume in mm."""
    x, y, z = np.linalg.norm(np.asarray(volume.affine)[:3, :3], axis=0).tolist()
    return x, y, z


def square_pixels(pixels: Array, spacing: tuple[float, float], labels: bool = False) -> Array:
    """Resample ``(X, Y)`` so that its pixels are square: the larger spacing becomes the smaller one.

    Args:
        pixels: image, mask or label map.
        spacing: sides of the pixels in mm.
        labels: take the nearest value and mix none.

    >>> square_pixels(np.eye(4, dtype=np.float32), (1.0, 2.0)).shape
    (4, 7)
    """
    side = min(spacing)
    # Less than a thousandth is rounding in the header, and no reason to blur the image.
    if max(spacing) < 1.001 * side:
        return pixels
    image = MetaTensor(pixels[None], affine=torch.diag(torch.tensor([*spacing, 1.0, 1.0])))
    fit = Spacing((side, side), mode="nearest" if labels else "bilinear", padding_mode="border")
    squared: Array = np.asarray(torch.as_tensor(fit(image))[0], dtype=np.float32)
    return squared


def box_mask(boxes: Sequence[Box], shape: Sequence[int]) -> Array:
    """Draw boxes ``[x0, y0, x1, y1]`` (x1, y1 exclusive) as a mask of ``shape`` (X, Y).

    >>> box_mask([[1, 0, 3, 1]], (4, 2)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    mask = np.zeros((shape[0], shape[1]), dtype=np.float32)
    for x0, y0, x1, y1 in boxes:
        mask[x0:x1, y0:y1] = 1
    return mask


def clip_box(x0: float, y0: float, x1: float, y1: float, shape: Sequence[int]) -> Box:
    """Round a box to whole pixels inside an image of ``shape`` (X, Y).

    Raises:
        DataError: when nothing of the box lies inside.
    """
    left, right = max(0, round(x0)), min(int(shape[0]), round(x1))
    top, bottom = max(0, round(y0)), min(int(shape[1]), round(y1))
    if left >= right or top >= bottom:
        raise DataError(
            f"box {[x0, y0, x1, y1]} has no pixel inside the image of {tuple(shape)}; check the labels."
        )
    return [left, top, right, bottom]


def main_kind(boxes: Sequence[Box], kinds: Sequence[str]) -> str:
    """Return the kind whose boxes cover the most pixels together (an image has one kind, a box its own)."""
    area: dict[str, int] = {}
    for (x0, y0, x1, y1), kind in zip(boxes, kinds, strict=True):
        area[kind] = area.get(kind, 0) + (x1 - x0) * (y1 - y0)
    return max(sorted(area), key=lambda kind: area[kind])


def kind_name(label: str) -> str:
    """Return a label as a lower-case name.

    >>> kind_name("Global label: White matter/lesion")
    'white_matter_lesion'
    """
    return re.sub(r"[^a-z0-9]+", "_", label.lower().removeprefix("global label:")).strip("_")


def png_bytes(pixels: Array, of_volume: bool = False) -> bytes:
    """Return ``(X, Y)`` values in [0, 1] as the bytes of an 8-bit grey PNG.

    Args:
        pixels: the picture.
        of_volume: 1 is the white of the volume that it was cut from, and the file says so.
    """
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    stream = BytesIO()
    text = PngInfo()
    if of_volume:
        text.add_text(*SCALED_AS_VOLUME)
    Image.fromarray(levels.T).save(stream, format="PNG", pnginfo=text)
    return stream.getvalue()
