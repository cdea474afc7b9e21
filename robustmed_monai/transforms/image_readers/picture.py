"""Pictures (PNG, TIFF, JPEG) through Pillow: one is an image, a stack of them a volume."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    Array,
    GeometryWarning,
    check_budget,
    check_voxels,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, ImageShapeError

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
PICTURE_SUFFIXES = tuple(_FORMATS)
# Text of a PNG whose white is that of the volume that it was cut from; ``data_prep`` writes it.
SCALED_AS_VOLUME = ("Scaling", "white is the volume's")
# Pictures are kept with x to the patient's right and y to the back, the way the package shows axial slices.
_STACK_AFFINE = np.diag([1.0, -1.0, 1.0, 1.0])
# 8192 x 8192; from a third more on, Pillow itself calls a file a decompression bomb.
_MAX_PIXELS = 1 << 26
# LZW, the densest code of the three formats besides JPEG, has 12-bit codes for strings of up to 4 KiB.
_RATIOS = {"PNG": DEFLATE_RATIO, "TIFF": 4096}
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_COLOUR = ("RGB", "RGBA", "LA", "P", "PA")
_BITS, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT = 258, 262, 281, 339
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _RGB, _SIGNED = 0, 2, 2


def read_picture(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a grey or RGB picture as viewers show it, with the axes of ``PILReader``: x, then y downwards.

    The orientation of EXIF and TIFF is applied, WhiteIsZero is turned to black is zero, palettes become their
    colours (one channel where all of them are grey), alpha is dropped where it is opaque everywhere; else
    values stay as stored (a 1-bit picture gives 0 and 1). Every chunk checksum of a PNG is verified; JPEG and
    TIFF carry none. The pages of a TIFF are a volume, see :func:`read_stack`.

    Args:
        path: ``.png``, ``.tif``, ``.tiff``, ``.jpg`` or ``.jpeg``; the content must be of that type.
        max_voxels: larger pictures and stacks are refused.

    Returns:
        Pixels (X, Y), (X, Y, 3) or (X, Y, pages) and MONAI's meta data, with the value of white as
        ``max_value`` where the type has one: 1 (1 bit, or float in [0, 1]), 255, 4095 (a TIFF of 12 bits),
        65535. Signed and 32-bit whole numbers and other floats have none. Pictures that ``data_prep`` cut
        from a volume have ``scaled_as_volume``.

    Raises:
        ImageError: a subclass names the reason.
    """
    name = _FORMATS[path.suffix.lower()]
    if name == "PNG":
        _check_png(path)
    if name == "JPEG":
        _check_jpeg(path)
    with _opened(path, name) as picture:
        frames = getattr(picture, "n_frames", 1)
        _check_size(picture, name, path)
        check_voxels(path, picture.width * picture.height * frames, max_voxels)
        if frames > 1 and name == "TIFF":
            return _stack([_page(picture, number, path) for number in range(frames)], path)
        if frames > 1:
            raise ImageShapeError(f"{path}: the file holds {frames} pictures, expected one; save each alone.")
        meta: dict[str, Any] = {"format": picture.format, "mode": picture.mode}
        if picture.info.get(SCALED_AS_VOLUME[0]) == SCALED_AS_VOLUME[1]:
            meta["scaled_as_volume"] = True
        pixels, max_value = _pixels(picture, path)
    meta |= {"width": pixels.shape[0], "height": pixels.shape[1]}
    channel_dim = 2 if pixels.ndim == 3 else None
    return pixels, meta | spatial_meta(pixels.shape[:2], None, channel_dim, max_value)


def read_stack(folder: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a folder of pictures of one size as a volume, in the order of the numbers in their names.

    Pictures say nothing about where they lie: 1 mm voxels with the axes R, P, S are assumed, and a
    ``GeometryWarning`` says so.

    Args:
        folder: holds the pictures directly, and beside them only what a DICOM folder may hold too.
        max_voxels: larger stacks are refused.

    Returns:
        Pixels (X, Y, pictures) and MONAI's meta data.

    Raises:
        ImageError: a subclass names the reason: a damaged file, different sizes, colours.
    """
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in _FORMATS), key=_by_number)
    pages = []
    for path in paths:
        if not path.is_file():
            raise CorruptImageError(f"{path}: not a regular file; remove it from the folder.")
        pixels, meta = read_picture(path, max_voxels // len(paths))
        pages.append((_grey(pixels, path), meta.get("max_value")))
    return _stack(pages, folder)


def _by_number(path: Path) -> list[Any]:
    # Text and whole numbers alternate, so that slice10 follows slice9.
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", path.name)]


def _page(picture: Image.Image, number: int, path: Path) -> tuple[Array, float | None]:
    picture.seek(number)
    _check_size(picture, "TIFF", path)
    pixels, max_value = _pixels(picture, path)
    return _grey(pixels, path), max_value


def _grey(pixels: Array, path: Path) -> Array:
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3 or (pixels != pixels[..., :1]).any():
        raise ImageShapeError(
            f"{path}: colours or pages in a stack, expected grey pictures; save it as grey."
        )
    return pixels[..., 0]


def _stack(pages: Sequence[tuple[Array, float | None]], path: Path) -> tuple[Array, dict[str, Any]]:
    shapes = sorted({page.shape for page, _ in pages})
    if len(shapes) > 1:
        raise ImageShapeError(f"{path}: pictures of {shapes[:3]} pixels in one stack; give them one size.")
    whites = {str(white) for _, white in pages}
    if len(whites) > 1 and any(page.dtype.kind != "f" for page, _ in pages):
        raise ImageShapeError(
            f"{path}: pictures with white at {', '.join(sorted(whites))} in one stack; give them one depth."
        )
    warnings.warn(
        f"{path}: pictures carry no geometry; 1 mm voxels with the axes R, P, S are assumed.",
        GeometryWarning,
        stacklevel=2,
    )
    voxels = np.stack([page for page, _ in pages], axis=-1)
    return voxels, spatial_meta(voxels.shape, _STACK_AFFINE, None, pages[0][1] if len(whites) == 1 else None)


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


def _check_jpeg(path: Path) -> None:
    """Refuse a JPEG whose segments do not follow each other: Pillow looks for the next one byte by byte."""
    with path.open("rb") as stream:
        start = stream.read(2)
        while start == b"\xff\xd8":
            mark, code = stream.read(1), stream.read(1)
            while code == b"\xff":  # bytes that fill
                code = stream.read(1)
            if code == b"\xda":  # the pixels begin
                return
            length = int.from_bytes(stream.read(2))
            if mark != b"\xff" or length < 2:
                raise CorruptImageError(f"{path}: no intact JPEG (damaged header); get the file again.")
            stream.seek(length - 2, os.SEEK_CUR)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Image.Image]:
    # From a path Pillow maps plain TIFFs into memory, and then mixes the rows of those that lie on a side.
    with path.open("rb") as stream:
        try:
            picture = Image.open(stream, formats=[name])
        except UnidentifiedImageError as error:
            stream.seek(0)
            if name != "TIFF" or stream.read(4) not in _TIFF_MARKS:
                raise
            raise ImageShapeError(
                f"{path}: a TIFF with pixels of a kind that is not read, or damaged; save it as grey of 8 or "
                "16 bits, as 8-bit RGB or as 32-bit float."
            ) from error
        yield picture


def _pixels(picture: Image.Image, path: Path) -> tuple[Array, float | None]:
    """Pixels (X, Y[, 3]) as a viewer shows them, and the value of white."""
    tags = getattr(picture, "tag_v2", {})
    bits, kind = max(tags.get(_BITS, (8,))), tags.get(_SAMPLE_FORMAT, (1,))[0]
    photometric, brightest = tags.get(_PHOTOMETRIC), tags.get(_MAX_SAMPLE, (0,))
    if photometric == _RGB and bits > 8:
        raise ImageShapeError(f"{path}: a colour picture of {bits} bits is not supported; save it as grey.")
    picture.load()
    # Pillow turns a TIFF itself while it loads; then no tag is left here.
    pixels = _plain(ImageOps.exif_transpose(picture), path)
    if kind == _SIGNED and pixels.dtype == np.uint8:
        pixels = pixels.view(np.int8)
    elif bits == 32 and kind == 1 and pixels.dtype == np.int32:
        pixels = pixels.view(np.uint32)
    white = _white(pixels, bits, int(max(np.atleast_1d(brightest))))
    # Pillow inverts up to 8 bits.
    if photometric == _WHITE_IS_ZERO and picture.mode not in ("1", "L"):
        if white is None:
            raise ImageShapeError(f"{path}: white is 0 and no value is black; save it with 0 as black.")
        pixels = (white - pixels).astype(pixels.dtype)
    return np.moveaxis(pixels, 0, 1), white


def _white(pixels: Array, bits: int, brightest: int) -> float | None:
    if pixels.dtype == np.bool_:
        return 1.0
    if pixels.dtype.kind == "f":
        finite = pixels[np.isfinite(pixels)]
        return 1.0 if finite.size and finite.min() >= 0 and finite.max() <= 1 else None
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        return None
    if pixels.dtype.itemsize == 1:
        return 255.0
    # The tag is often a mere maximum; all ones tell a camera's bits (1023, 4095, ...).
    if brightest > 255 and brightest & (brightest + 1) == 0:
        return float(min(brightest, 65535))
    return float(2**bits - 1) if 8 < bits < 16 else 65535.0


def _plain(picture: Image.Image, path: Path) -> Array:
    """Grey or RGB: palettes resolved, alpha dropped where all is opaque."""
    mode, transparent = picture.mode, "transparency" in picture.info
    if mode not in (*_GREY, *_COLOUR) or (transparent and mode in _GREY and mode != "L"):
        raise ImageShapeError(f"{path}: colour mode {mode!r} is not supported; save it as grey (L) or RGB.")
    grey = mode in (*_GREY, "LA")
    if mode in ("P", "PA"):
        palette = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
        grey = bool((palette == palette[:, :1]).all())
    if mode in ("P", "PA") or transparent:
        picture = picture.convert("RGBA")
    pixels = np.asarray(picture)
    if picture.mode in ("LA", "RGBA"):
        if pixels[..., -1].min() < 255:
            raise ImageShapeError(
                f"{path}: the picture ({mode}) has transparent pixels, expected grey (L) or RGB; "
                "save it without alpha."
            )
        pixels = pixels[..., :-1]
    return pixels[..., 0] if grey and pixels.ndim == 3 else pixels
