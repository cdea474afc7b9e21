"""Pictures (PNG, TIFF, JPEG) through Pillow: one is an image, a stack of them a volume."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    Array,
    GeometryWarning,
    check_budget,
    spatial_meta,
)
from robustmed_monai.utils.errors import ImageShapeError

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
PICTURE_SUFFIXES = tuple(_FORMATS)
# Pictures are kept with x to the patient's right and y to the back, the way the package shows axial slices.
_STACK_AFFINE = np.diag([1.0, -1.0, 1.0, 1.0])
# 8192 x 8192; from a third more on, Pillow itself calls a file a decompression bomb.
_MAX_PIXELS = 1 << 26
# LZW, the densest code of the three formats besides JPEG, has 12-bit codes for strings of up to 4 KiB.
_RATIOS = {"PNG": DEFLATE_RATIO, "TIFF": 4096}
_ONE_CHANNEL = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = {"LA": 1, "RGB": 3, "RGBA": 3}


def white_of(source: torch.Tensor) -> float:
    """White of a picture whose largest value is that of ``source``: 255 or 65535."""
    return 255.0 if float(source.max()) <= 255 else 65535.0


def read_picture(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read a grey or RGB picture with the axes of MONAI's ``PILReader``: x to the right, then y downwards.

    Every chunk checksum of a PNG is verified; JPEG and TIFF carry none. Values stay as stored (a 1-bit
    picture gives 0 and 1). Alpha is dropped where it is opaque everywhere. The pages of a TIFF are a volume,
    see :func:`read_stack`.

    Args:
        path: ``.png``, ``.tif``, ``.tiff``, ``.jpg`` or ``.jpeg``; the content must be of that type.

    Returns:
        Pixels (X, Y), (X, Y, 3) or (X, Y, pages) and MONAI's meta data.

    Raises:
        ImageError: a subclass names the reason.
    """
    name = _FORMATS[path.suffix.lower()]
    if name == "PNG":
        _check_png(path)
    with Image.open(path, formats=[name]) as picture:
        _check_size(picture, name, path)
        picture.load()
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and name == "TIFF":
            return _stack([_page(picture, number, path) for number in range(frames)], path)
        if frames > 1:
            raise ImageShapeError(f"{path}: the file holds {frames} pictures, expected one; save each alone.")
        pixels, mode = np.asarray(picture), picture.mode
        meta = {"format": picture.format, "mode": mode, "width": picture.width, "height": picture.height}
    pixels = np.moveaxis(_drop_alpha(pixels, mode, path), 0, 1)
    return pixels, meta | spatial_meta(pixels.shape[:2], None, 2 if pixels.ndim == 3 else None)


def read_stack(folder: Path) -> tuple[Array, dict[str, Any]]:
    """Read a folder of pictures of one size as a volume, in the order of the numbers in their names.

    Pictures say nothing about where they lie: 1 mm voxels with the axes R, P, S are assumed, and a
    ``GeometryWarning`` says so.

    Args:
        folder: holds the pictures directly, and beside them only what a DICOM folder may hold too.

    Returns:
        Pixels (X, Y, pictures) and MONAI's meta data.

    Raises:
        ImageError: a subclass names the reason: a damaged file, different sizes, colours.
    """
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in _FORMATS), key=_by_number)
    return _stack([_grey(read_picture(path)[0], path) for path in paths], folder)


def _by_number(path: Path) -> list[Any]:
    # Text and whole numbers alternate, so that slice10 follows slice9.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", path.name)]


def _page(picture: Image.Image, number: int, path: Path) -> Array:
    picture.seek(number)
    _check_size(picture, "TIFF", path)
    return _grey(np.moveaxis(_drop_alpha(np.asarray(picture), picture.mode, path), 0, 1), path)


def _grey(pixels: Array, path: Path) -> Array:
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3 or (pixels != pixels[..., :1]).any():
        raise ImageShapeError(
            f"{path}: colours or pages in a stack, expected grey pictures; save it as grey."
        )
    return pixels[..., 0]


def _stack(pages: list[Array], path: Path) -> tuple[Array, dict[str, Any]]:
    shapes = sorted({page.shape for page in pages})
    if len(shapes) > 1:
        raise ImageShapeError(f"{path}: pictures of {shapes[:3]} pixels in one stack; give them one size.")
    voxels = np.stack(pages, axis=-1)
    warnings.warn(
        f"{path}: pictures carry no geometry; 1 mm voxels with the axes R, P, S are assumed.",
        GeometryWarning,
        stacklevel=2,
    )
    return voxels, spatial_meta(voxels.shape, _STACK_AFFINE, None)


def _check_png(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(26)
    # Pillow would cut 16-bit colours to 8 bits without a word.
    if start[12:16] == b"IHDR" and len(start) == 26 and start[24] == 16 and start[25] != 0:
        raise ImageShapeError(
            f"{path}: a colour picture of 16 bits is not supported; save it as 16-bit grey."
        )
    with Image.open(path, formats=["PNG"]) as picture:
        picture.verify()


def _check_size(picture: Image.Image, name: str, path: Path) -> None:
    pixels = picture.width * picture.height
    if pixels > _MAX_PIXELS:
        raise ImageShapeError(
            f"{path}: {picture.width} x {picture.height} pixels are more than {_MAX_PIXELS}; crop or shrink "
            "it first."
        )
    if name in _RATIOS:
        check_budget(path, pixels * len(picture.getbands()) // 8, _RATIOS[name])


def _drop_alpha(pixels: Array, mode: str, path: Path) -> Array:
    if mode in _ONE_CHANNEL:
        return pixels
    if mode not in _CHANNELS:
        raise ImageShapeError(f"{path}: colour mode {mode!r} is not supported; save it as grey (L) or RGB.")
    if mode.endswith("A") and pixels[..., -1].min() < 255:
        raise ImageShapeError(
            f"{path}: the picture ({mode}) has transparent pixels, expected grey (L) or RGB; save it without "
            "alpha."
        )
    colours = pixels[..., : _CHANNELS[mode]]
    return colours[..., 0] if mode == "LA" else colours
