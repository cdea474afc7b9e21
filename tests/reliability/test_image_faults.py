"""I1, I2 and I8: damaged and malformed files never give wrong voxels and only ever raise ImageError."""

from __future__ import annotations

import gzip
import io
import os
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from robustmed_monai.transforms.load import GeometryWarning, LoadCheckedImage, read_npz_arrays
from robustmed_monai.utils.errors import CorruptImageError, ImageError, ImageShapeError

Array = np.ndarray[Any, Any]
load = LoadCheckedImage()


def nifti_bytes(voxels: Array) -> bytes:
    content: bytes = nib.Nifti1Image(voxels, np.diag([1.0, 1, 2, 1])).to_bytes()
    return content


def brain_like(rng: np.random.Generator, side: int) -> Array:
    x = np.linspace(-1, 1, side)
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    voxels: Array = (np.clip(1 - radius, 0, 1) * 900 + rng.normal(0, 9, radius.shape)).astype(np.int16)
    return voxels


def make(kind: str, rng: np.random.Generator) -> bytes:
    if kind == "float":
        return gzip.compress(nifti_bytes(rng.random((32, 32, 32), dtype=np.float32)))
    voxels = brain_like(rng, 64)
    return gzip.compress(nifti_bytes(voxels if kind == "int16" else (voxels > 300).astype(np.uint8)))


def outcome(path: Path, expected: MetaTensor) -> str:
    try:
        image = load(path)
    except CorruptImageError as error:
        return "refused" if path.name in str(error) else "unnamed"
    same = torch.equal(image.as_tensor(), expected.as_tensor()) and torch.equal(image.affine, expected.affine)
    return "harmless" if same else "silently wrong"


@pytest.mark.parametrize("kind", ["float", "int16", "label"])
def test_i1_bit_flips_in_gzip(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    content = make(kind, rng)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    expected = load(path)
    counts: Counter[str] = Counter()
    for place in rng.integers(0, len(content) * 8, 300):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        counts[outcome(path, expected)] += 1
    # Harmless are the flips in gzip's own header (date, name) and unused bits of the stream.
    assert counts["refused"] + counts["harmless"] == 300, counts
    assert counts["refused"] > 250


@pytest.mark.parametrize("kind", ["float", "int16", "label"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_i1_truncation(tmp_path: Path, rng: np.random.Generator, kind: str, suffix: str) -> None:
    content = make(kind, rng)
    content = content if suffix == ".nii.gz" else gzip.decompress(content)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    load(path)
    size = len(content)
    for keep in (size - 1, size - 8, size // 2, size // 10, 352, 348, 100, 10, 2, 0):
        path.write_bytes(content[:keep])
        with pytest.raises(CorruptImageError, match=r"a\.nii"):
            load(path)


def test_i1_damage_in_a_header_is_called_damage(tmp_path: Path, rng: np.random.Generator) -> None:
    """The inflated header is checked before the checksum can be; the message still names the stream."""
    content = bytearray(nifti_bytes(rng.random((4, 4, 4), dtype=np.float32)))
    good = gzip.compress(bytes(content))
    content[42] = 0
    bad_checksum = gzip.compress(bytes(content))[:-8] + good[-8:]
    (tmp_path / "a.nii.gz").write_bytes(bad_checksum)
    with pytest.raises(CorruptImageError, match="compressed data are damaged"):
        load(tmp_path / "a.nii.gz")


def test_i1_several_gzip_members_are_one_stream(tmp_path: Path, rng: np.random.Generator) -> None:
    content = nifti_bytes(rng.random((8, 8, 8), dtype=np.float32))
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    assert torch.equal(load(tmp_path / "a.nii.gz").as_tensor(), load(tmp_path / "a.nii").as_tensor())


@pytest.mark.parametrize("suffix", [".png", ".mgz", ".nrrd"])
def test_i1_bit_flips_in_other_checked_files(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    voxels = rng.integers(0, 255, (12, 12, 12), dtype=np.uint8)
    if suffix == ".png":
        Image.fromarray(voxels[0]).save(path)
        start = 0
    elif suffix == ".mgz":
        path.write_bytes(gzip.compress(nib.MGHImage(voxels, np.eye(4)).to_bytes()))
        start = 0
    else:
        head = b"NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: 12 12 12\n"
        head += b"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: gzip\n\n"
        path.write_bytes(head + gzip.compress(voxels.tobytes()))
        # The text header of NRRD carries no checksum.
        start = len(head)
    content = path.read_bytes()
    expected = load(path)
    counts: Counter[str] = Counter()
    for place in rng.integers(start * 8, len(content) * 8, 300):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            counts[outcome(path, expected)] += 1
        except ImageError:
            counts["refused"] += 1
    assert counts["refused"] + counts["harmless"] == 300, counts


def patched(content: bytes, form: str, offset: int, *values: Any) -> bytes:
    buffer = bytearray(content)
    struct.pack_into(form, buffer, offset, *values)
    return bytes(buffer)


# Offsets of NIfTI-1: dim 40, datatype 70, bitpix 72, pixdim 76, vox_offset 108, slope 112, inter 116,
# qform_code 252, sform_code 254, quatern 256, srow 280, magic 344.
HEADER_FAULTS: dict[str, tuple[str, int, tuple[Any, ...]]] = {
    "zero dimension": ("<h", 44, (0,)),
    "negative dimension": ("<h", 44, (-5,)),
    "huge dimensions": ("<4h", 40, (3, 32767, 32767, 32767)),
    "no dimensions": ("<h", 40, (0,)),
    "eight dimensions": ("<h", 40, (8,)),
    "one dimension": ("<h", 40, (1,)),
    "smaller than its data": ("<h", 46, (1,)),
    "unknown voxel type": ("<h", 70, (77,)),
    "binary voxel type": ("<2h", 70, (1, 1)),
    "wrong bits": ("<h", 72, (8,)),
    "bad magic": ("<4s", 344, (b"nope",)),
    "pair magic": ("<4s", 344, (b"ni1",)),
    "bad header size": ("<i", 0, (349,)),
    "offset past the end": ("<f", 108, (1e9,)),
    "offset in the header": ("<f", 108, (100.0,)),
    "negative offset": ("<f", 108, (-352.0,)),
    "offset NaN": ("<f", 108, (float("nan"),)),
    "offset infinite": ("<f", 108, (float("inf"),)),
    "intercept NaN": ("<f", 116, (float("nan"),)),
    "unknown sform code": ("<h", 254, (77,)),
    "unknown qform code": ("<h", 252, (-1,)),
    "sform NaN": ("<f", 284, (float("nan"),)),
    "sform singular": ("<4f", 280, (0.0, 0.0, 0.0, 0.0)),
    "qform NaN": ("<2h2f", 252, (1, 0, float("nan"), 0.0)),
    "qform no rotation": ("<2h3f", 252, (1, 0, 3.0, 3.0, 3.0)),
    "no form and no sizes": ("<2h", 252, (0, 0)),
}


@pytest.fixture
def memory() -> Iterator[None]:
    """Fail when the process grows by more than 512 MB at any moment of the test."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(clear, os.W_OK):
        pytest.skip("peak memory is measured through /proc/self/clear_refs, which is not here")

    def high_water() -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    clear.write_text("5")
    before = high_water()
    yield
    assert high_water() - before < 512 * 1024


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_i2_malformed_headers(tmp_path: Path, rng: np.random.Generator, fault: str, suffix: str) -> None:
    content = nifti_bytes(rng.random((12, 12, 12), dtype=np.float32))
    if fault == "no form and no sizes":
        content = patched(content, "<3f", 80, 0.0, -1.0, float("nan"))
    content = patched(content, HEADER_FAULTS[fault][0], HEADER_FAULTS[fault][1], *HEADER_FAULTS[fault][2])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"a\.nii.*[;,]") as caught:
        load(path)
    # The last resort of the reader is for libraries' errors; what is listed here has a message of its own.
    assert "cannot be read as the type" not in str(caught.value)
    assert time.perf_counter() - start < 1


@pytest.mark.usefixtures("memory")
def test_i2_huge_claims_of_other_types(tmp_path: Path) -> None:
    mgh = bytearray(nib.MGHImage(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())
    struct.pack_into(">3i", mgh, 4, 60000, 60000, 60000)
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    png = bytearray(buffer.getvalue())
    for side in (9000, 60000):
        struct.pack_into(">2I", png, 16, side, side)
        struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
        (tmp_path / "a.png").write_bytes(png)
        with pytest.raises(ImageError, match=r"a\.png"):
            load(tmp_path / "a.png")
    # A real picture that is small as a file only.
    buffer = io.BytesIO()
    Image.new("1", (8_500, 8_000)).save(buffer, "TIFF", compression="group4")
    (tmp_path / "a.tif").write_bytes(buffer.getvalue())
    with pytest.raises(ImageShapeError, match="are more than"):
        load(tmp_path / "a.tif")
    for name, content in (("a.mgh", bytes(mgh)), ("a.mgz", gzip.compress(bytes(mgh)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptImageError, match="cannot hold them"):
            load(tmp_path / name)


@pytest.mark.usefixtures("memory")
def test_i2_a_bomb_is_not_unpacked(tmp_path: Path, rng: np.random.Generator) -> None:
    content = nifti_bytes(rng.random((4, 4, 4), dtype=np.float32))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(300 << 20), 1))
    start = time.perf_counter()
    with pytest.raises(CorruptImageError, match="more than 4096 bytes follow"):
        load(tmp_path / "a.nii.gz")
    assert time.perf_counter() - start < 1


def test_i2_voxels_right_behind_the_header(tmp_path: Path, rng: np.random.Generator) -> None:
    """Offset 0 is common in the wild and means byte 352."""
    content = nifti_bytes(rng.random((4, 4, 4), dtype=np.float32))
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "b.nii").write_bytes(patched(content, "<f", 108, 0.0))
    assert torch.equal(load(tmp_path / "a.nii").as_tensor(), load(tmp_path / "b.nii").as_tensor())


def test_i2_malformed_mgh_headers(tmp_path: Path) -> None:
    content = nib.MGHImage(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes()
    for form, offset, value, message in (
        (">i", 0, 2, "Unknown MGH format version"),
        (">i", 4, 0, "not all positive"),
    ):
        (tmp_path / "a.mgh").write_bytes(patched(content, form, offset, value))
        with pytest.raises(CorruptImageError, match=message):
            load(tmp_path / "a.mgh")
    (tmp_path / "a.mgh").write_bytes(patched(content, ">i", 20, 7))
    with pytest.raises(CorruptImageError, match=r"not an MGH header that is known \(7\); check"):
        load(tmp_path / "a.mgh")


def test_i2_wrong_types_and_places(tmp_path: Path, rng: np.random.Generator) -> None:
    nifti = nifti_bytes(rng.random((4, 4, 4), dtype=np.float32))
    png, jpg = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8)).save(png, "PNG")
    Image.new("L", (8, 8)).save(jpg, "JPEG")
    text = b"This is not an image.\n" * 50
    names = ("a.nii", "a.nii.gz", "a.png", "a.tif", "a.jpg", "a.mgz", "a.mgh", "a.nrrd")
    wrong: dict[str, tuple[bytes, ...]] = {name: (text, b"", text[:3]) for name in names}
    wrong["a.nii"] += (png.getvalue(), gzip.compress(nifti))
    wrong["a.nii.gz"] += (nifti, png.getvalue(), gzip.compress(text), gzip.compress(b""))
    wrong["a.png"] += (nifti, jpg.getvalue(), png.getvalue()[:-12], png.getvalue()[:20])
    wrong["a.jpg"] += (png.getvalue(), jpg.getvalue()[: len(jpg.getvalue()) // 2])
    wrong["a.txt"] = (text,)
    wrong["a.hdr"] = (nifti,)
    for name, contents in wrong.items():
        for content in contents:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CorruptImageError, match=name):
                load(tmp_path / name)
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    (tmp_path / "lost.nii").symlink_to(tmp_path / "nowhere.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "inner").mkdir(parents=True)
    (tmp_path / "folder.nii.gz").mkdir()
    for name in (
        "loop.nii",
        "lost.nii",
        "pipe.nii",
        "empty",
        "nested",
        "folder.nii.gz",
        "none.nii",
        "a\0b.nii",
    ):
        with pytest.raises(CorruptImageError, match=name):
            load(tmp_path / name)


def test_i2_voxels_that_are_not_one_real_number(tmp_path: Path) -> None:
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    cases: list[tuple[Array, str]] = [
        (np.zeros((3, 3, 3), np.complex64), "complex"),
        (rgb, "RGB"),
        (np.zeros((3, 3, 3, 1, 3), np.float32), "5 dimensions"),
    ]
    for voxels, message in cases:
        (tmp_path / "a.nii").write_bytes(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
        with pytest.raises(ImageShapeError, match=rf"a\.nii: .*{message}.*, expected .*; save"):
            load(tmp_path / "a.nii")


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, cut, insert or repeat a few bytes, with half of the places in the first 400 bytes."""
    buffer = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, min(len(buffer), 400) if rng.random() < 0.5 else len(buffer)))
        kind = rng.integers(0, 6)
        if kind <= 1:
            buffer[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            buffer[place : place + 4] = rng.bytes(4)
        elif kind == 3:
            buffer[place : place + 2] = [b"\xff\xff", b"\x00\x00", b"\x7f\xff", b"\x80\x00"][
                rng.integers(0, 4)
            ]
        elif kind == 4:
            buffer[place:place] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del buffer[place : place + int(rng.integers(1, max(2, len(buffer) // 4)))]
        if not buffer:
            return b""
    return bytes(buffer)


def corpus(rng: np.random.Generator) -> dict[str, bytes]:
    nifti = nifti_bytes(rng.integers(0, 255, (5, 4, 3)).astype(np.int16))
    png, rgb, npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (9, 8), dtype=np.uint8)).save(png, "PNG")
    Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(rgb, "PNG")
    np.savez_compressed(npz, a=rng.random((4, 5)), b=np.arange(6))
    return {
        "plain.nii": nifti,
        "flipped.nii.gz": gzip.compress(nifti),
        # Mutated before compression: the checksum is right, the content is not.
        "content.nii.gz": nifti,
        "grey.png": png.getvalue(),
        "rgb.png": rgb.getvalue(),
        "arrays.npz": npz.getvalue(),
    }


def rewrite(handle: BinaryIO, content: bytes) -> None:
    """Replace the content of an open file; emptying it first would take most of the test's time."""
    handle.seek(0)
    handle.write(content)
    handle.flush()
    handle.truncate(len(content))


def read(path: Path) -> list[Array]:
    if path.suffix == ".npz":
        return list(read_npz_arrays(path, ["a", "b"]).values())
    return [load(path).numpy()]


def test_i8_fuzz(tmp_path: Path, rng: np.random.Generator) -> None:
    """10,000 mutated files: no crash, hang or foreign exception; no wrong voxel where there is a checksum."""
    files = corpus(rng)
    checked = {"flipped.nii.gz", "grey.png", "rgb.png", "arrays.npz"}
    counts: Counter[str] = Counter()
    expected = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(gzip.compress(content) if name.startswith("content") else content)
        expected[name] = read(tmp_path / name)
    handles = {name: (tmp_path / name).open("rb+") for name in files}
    slowest = 0.0
    with warnings.catch_warnings():
        # A mutated pixdim is told as a warning, not refused.
        warnings.simplefilter("ignore", GeometryWarning)
        for index in range(10_000):
            name = list(files)[index % len(files)]
            content = mutate(files[name], rng)
            rewrite(handles[name], gzip.compress(content, 1) if name.startswith("content") else content)
            start = time.perf_counter()
            try:
                arrays = read(tmp_path / name)
            except ImageError:
                counts["refused"] += 1
            else:
                same = all(np.array_equal(*pair) for pair in zip(arrays, expected[name], strict=True))
                counts["same" if same else "wrong" if name in checked else "changed"] += 1
            slowest = max(slowest, time.perf_counter() - start)
    for handle in handles.values():
        handle.close()
    assert counts["wrong"] == 0, counts
    assert counts["refused"] > 5000
    assert slowest < 5
