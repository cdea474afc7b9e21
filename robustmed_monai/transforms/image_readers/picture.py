"""Two-dimensional pictures (PNG, TIFF, JPEG) through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustmed_monai.transforms.image_checks import DEFLATE_RATIO, Array, check_budget, spatial_meta
from robustmed_monai.utils.errors import ImageShapeError

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
# 8192 x 8192; from a third more on, Pillow itself calls a file a decompression bomb.
_MAX_PIXELS = 1 << 26
# LZW, the densest code of the three formats besides JPEG, has 12-bit codes for strings of up to 4 KiB.
_RATIOS = {"PNG": DEFLATE_RATIO, "TIFF": 4096}
_ONE_CHANNEL = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = {"LA": 1, "RGB": 3, "RGBA": 3}


def read_picture(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read a grey or RGB picture with the axes of MONAI's ``PILReader``: x to the right, then y downwards.

    Every chunk checksum of a PNG is verified; JPEG and TIFF carry none. Values stay as stored (a 1-bit
    picture gives 0 and 1). Alpha is dropped where it is opaque everywhere.

    Args:
        path: ``.png``, ``.tif``, ``.tiff``, ``.jpg`` or ``.jpeg``; the content must be of that type.

    Returns:
        Pixels (X, Y) or (X, Y, 3) and MONAI's meta data.

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
        if frames > 1:
            raise ImageShapeError(f"{path}: the file holds {frames} pictures, expected one; save each alone.")
        pixels, mode = np.asarray(picture), picture.mode
        meta = {"format": picture.format, "mode": mode, "width": picture.width, "height": picture.height}
    pixels = np.moveaxis(_drop_alpha(pixels, mode, path), 0, 1)
    return pixels, meta | spatial_meta(pixels.shape[:2], None, 2 if pixels.ndim == 3 else None)


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
