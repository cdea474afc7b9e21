"""Pictures of every depth and orientation are what a viewer shows, with the value of white of their type."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ImageShapeError

Array = np.ndarray[Any, Any]
ORIENTATION, WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0x0112, 0, 1, 2
_PNG_AND_TIFF = [(suffix, mode) for suffix in (".png", ".tif") for mode in ("1", "L", "I;16", "RGB", "P")]
load = LoadCheckedImage()


def write_tiff(path: Path, samples: Array, bits: int, photometric: int, kind: int = 1, **tags: int) -> Path:
    """A plain TIFF by the specification: samples (rows, columns[, channels]) packed to ``bits`` each."""
    channels = samples.shape[2] if samples.ndim == 3 else 1
    if samples.dtype.kind == "f" or bits in (8, 16, 32, 64):
        content = samples.tobytes()
    else:
        rows = [[(int(v) >> b) & 1 for v in row for b in reversed(range(bits))] for row in samples]
        content = b"".join(np.packbits(row).tobytes() for row in rows)
    shorts = [bits] * channels
    fields = {256: [samples.shape[1]], 257: [samples.shape[0]], 258: shorts, 259: [1], 262: [photometric]}
    fields |= {
        273: [0],
        277: [channels],
        278: [samples.shape[0]],
        279: [len(content)],
        339: [kind] * channels,
    }
    fields |= {int(name.removeprefix("tag")): [value] for name, value in tags.items()}
    start = 8 + 2 + 12 * len(fields) + 4
    beyond, entries = b"", b""
    for tag, values in sorted(fields.items()):
        values = [start + 64] if tag == 273 else values
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", start + len(beyond)), beyond + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    path.write_bytes(head + beyond.ljust(64, b"\0") + content)
    return path


class TestOrientation:
    @pytest.mark.parametrize("turn", range(1, 9))
    @pytest.mark.parametrize(("suffix", "mode"), [*_PNG_AND_TIFF, (".jpg", "L"), (".jpg", "RGB")])
    def test_exif_and_tiff_give_what_a_viewer_shows(
        self, tmp_path: Path, rng: np.random.Generator, turn: int, suffix: str, mode: str
    ) -> None:
        shape = (5, 7, 3) if mode == "RGB" else (5, 7)
        picture = Image.fromarray(
            rng.integers(0, 200, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
        )
        if mode in ("1", "P"):
            picture = picture.convert(mode)
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        picture.save(tmp_path / f"a{suffix}", exif=exif)
        image = load(tmp_path / f"a{suffix}")
        # A JPEG is not kept to the bit.
        stored = Image.open(tmp_path / "a.jpg") if suffix == ".jpg" else picture
        stored.getexif()[ORIENTATION] = turn
        shown = ImageOps.exif_transpose(stored)
        shown = shown.convert("L") if mode == "P" else shown
        expected = np.asarray(shown).T if image.shape[0] == 1 else np.asarray(shown).transpose(2, 1, 0)
        assert image.shape[1:] == ((7, 5) if turn < 5 else (5, 7))
        assert np.array_equal(image if image.shape[0] == 3 else image[0], expected)
        assert image.meta["spatial_shape"].tolist() == list(image.shape[1:])

    def test_eight_turns_are_eight_pictures(self, tmp_path: Path) -> None:
        """Against the definition of the tag itself: where the first pixel of the file is shown."""
        places = [(0, 0), (1, 0), (1, 2), (0, 2), (0, 0), (2, 0), (2, 1), (0, 1)]
        for turn, place in enumerate(places, 1):
            pixels = np.zeros((3, 2), np.uint8)
            pixels[0, 0] = 255
            exif = Image.Exif()
            exif[ORIENTATION] = turn
            Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
            assert tuple(int(i) for i in load(tmp_path / "a.png")[0].nonzero()[0]) == place


class TestWhite:
    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
    @pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
    def test_whole_numbers_of_every_depth(self, tmp_path: Path, bits: int, photometric: int) -> None:
        """Black, a third and white, whatever the bits: pixel over white is the same."""
        top = 2**bits - 1
        dark = 0 if bits == 1 else top // 3
        samples = np.array([[0, dark, top]] * 2)
        stored = top - samples if photometric == WHITE_IS_ZERO else samples
        dtype = np.uint8 if bits <= 8 else np.uint16
        path = write_tiff(tmp_path / "a.tif", stored.astype(dtype), bits, photometric)
        if bits == 12 and photometric == WHITE_IS_ZERO:
            with pytest.raises(
                ImageShapeError, match=r"a\.tif: a TIFF with pixels of a kind that is not read"
            ):
                load(path)
            return
        image = load(path)
        assert image.meta["max_value"] == {1: 1, 12: 4095, 16: 65535}.get(bits, 255)
        assert np.allclose(image[0].T / image.meta["max_value"], samples / top)

    @pytest.mark.parametrize(("pixels", "white"), [(np.bool_, 1.0), (np.uint8, 255.0), (np.uint16, 65535.0)])
    def test_is_that_of_the_type_not_of_the_values(self, tmp_path: Path, pixels: Any, white: float) -> None:
        Image.fromarray(np.eye(4).astype(pixels)).save(tmp_path / "a.png")
        assert load(tmp_path / "a.png").meta["max_value"] == white
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "a.jpg")
        assert load(tmp_path / "a.jpg").meta["max_value"] == 255

    @pytest.mark.parametrize(("values", "white"), [([0.1, 1.0], 1.0), ([0, 1.5], None), ([-0.1, 1], None)])
    @pytest.mark.parametrize("bits", [32, 64])
    def test_of_floats_is_one_in_the_unit_interval(
        self, tmp_path: Path, values: list[float], white: float | None, bits: int
    ) -> None:
        pixels = np.array([values], f"f{bits // 8}")
        if bits == 64:
            # Pillow does not read it; the message says what to do.
            with pytest.raises(ImageShapeError, match="save it as grey of 8 or 16 bits"):
                load(write_tiff(tmp_path / "a.tif", pixels, bits, BLACK_IS_ZERO, 3))
            return
        image = load(write_tiff(tmp_path / "a.tif", pixels, bits, BLACK_IS_ZERO, 3))
        assert image.meta.get("max_value") == white
        assert np.array_equal(image[0, :, 0], pixels[0])
        path = write_tiff(tmp_path / "b.tif", pixels, bits, WHITE_IS_ZERO, 3)
        if white is None:
            with pytest.raises(ImageShapeError, match="white is 0 and no value is black"):
                load(path)
        else:
            assert np.allclose(load(path)[0, :, 0], 1 - pixels[0])

    def test_a_tag_tells_the_bits_of_a_camera(self, tmp_path: Path) -> None:
        samples = np.array([[7, 900]], np.uint16)
        for brightest, white in ((4095, 4095), (900, 65535), (65535, 65535)):
            path = write_tiff(tmp_path / "a.tif", samples, 16, BLACK_IS_ZERO, tag281=brightest)
            assert load(path).meta["max_value"] == white

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32"])
    def test_measured_numbers_keep_their_values_and_have_none(self, tmp_path: Path, dtype: str) -> None:
        limits = np.iinfo(dtype)
        samples = np.array([[limits.min, 5, limits.max]], dtype)
        kind = 1 if dtype[0] == "u" else 2
        path = write_tiff(tmp_path / "a.tif", samples, limits.bits, BLACK_IS_ZERO, kind)
        image = load(path)
        assert np.array_equal(image[0, :, 0].numpy(), samples[0].astype(np.float32))
        assert "max_value" not in image.meta

    def test_pages_have_one_white(self, tmp_path: Path) -> None:
        for name, dtypes in (("a", "BB"), ("b", "HH"), ("c", "ff"), ("d", "BH")):
            (tmp_path / name).mkdir()
            for number, dtype in enumerate(dtypes):
                Image.fromarray(np.full((3, 4), number, dtype)).save(tmp_path / name / f"{number}.tif")
        for name, white in (("a", 255), ("b", 65535), ("c", 1)):
            with pytest.warns(GeometryWarning):
                assert load(tmp_path / name).meta["max_value"] == white
        with pytest.raises(
            ImageShapeError, match=r"white at 255\.0, 65535\.0 in one stack; give them one depth"
        ):
            load(tmp_path / "d")


class TestColours:
    def test_a_palette_is_what_it_shows(self, tmp_path: Path, rng: np.random.Generator) -> None:
        colours = rng.integers(0, 255, (6, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
        for suffix in (".png", ".tif"):
            picture.save(tmp_path / f"a{suffix}")
            shown = np.asarray(picture.convert("RGB")).transpose(2, 1, 0)
            assert np.array_equal(load(tmp_path / f"a{suffix}"), shown)

    def test_a_palette_of_greys_is_grey(self, tmp_path: Path) -> None:
        picture = Image.new("P", (3, 1))
        picture.putdata([0, 1, 2])
        picture.putpalette([9, 9, 9, 200, 200, 200, 40, 40, 40])
        for suffix in (".png", ".tif"):
            picture.save(tmp_path / f"a{suffix}")
            image = load(tmp_path / f"a{suffix}")
            assert image[..., 0].tolist() == [[9, 200, 40]]
            assert image.meta["max_value"] == 255

    def test_a_transparent_colour_is_refused(self, tmp_path: Path) -> None:
        for mode, colour in (("P", 0), ("L", 0), ("RGB", (0, 0, 0))):
            Image.new(mode, (4, 3)).save(tmp_path / "a.png", transparency=colour)
            with pytest.raises(ImageShapeError, match=rf"\({mode}\) has transparent pixels"):
                load(tmp_path / "a.png")
            Image.new(mode, (4, 3)).save(tmp_path / "a.png", transparency=3 if mode != "RGB" else (3, 3, 3))
            assert not load(tmp_path / "a.png").any()

    def test_deep_colour_is_refused(self, tmp_path: Path) -> None:
        write_tiff(tmp_path / "a.tif", np.zeros((4, 4, 3), np.uint16), 16, RGB)
        with pytest.raises(ImageShapeError, match=r"a\.tif: a colour picture of 16 bits is not supported"):
            load(tmp_path / "a.tif")
