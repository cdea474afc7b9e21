from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import NrrdReader

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageError, ImageShapeError

Array = np.ndarray[Any, Any]
DIRECTION = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]])
AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.3, 2.1, 5], [0, 0, 0, 1]])
load = LoadCheckedImage()


def write(path: Path, voxels: Array, compressed: bool = False, vector: bool = False) -> Path:
    """Voxels (Z, Y, X[, C]) with a rotated, anisotropic grid."""
    image = SimpleITK.GetImageFromArray(voxels, isVector=vector)
    if image.GetDimension() == 3:
        image.SetDirection(DIRECTION.ravel().tolist())
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetOrigin((4.0, 5.0, -6.0))
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("compressed", [False, True])
def test_values_and_place(tmp_path: Path, rng: np.random.Generator, dtype: str, compressed: bool) -> None:
    voxels = rng.integers(0, 100, (5, 4, 3)).astype(dtype)
    image = load(write(tmp_path / "a.mha", voxels, compressed))
    assert np.array_equal(image[0], voxels.T)
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = DIRECTION * [1, 2, 3], [4, 5, -6]
    assert np.allclose(image.affine, np.diag([-1, -1, 1, 1]) @ expected)
    assert "max_value" not in image.meta


def test_channels_and_two_dimensions(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((5, 4, 3, 2)).astype(np.float32)
    assert np.array_equal(load(write(tmp_path / "a.mha", voxels, vector=True)), voxels.transpose(3, 2, 1, 0))
    flat = load(write(tmp_path / "b.mha", voxels[0, ..., 0]))
    assert np.array_equal(flat[0, :, :, 0], voxels[0, ..., 0].T)
    with pytest.raises(ImageShapeError, match=r"c\.mha: the image has 4 dimensions"):
        load(write(tmp_path / "c.mha", voxels))


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_refused(tmp_path: Path, rng: np.random.Generator, compressed: bool) -> None:
    path = write(tmp_path / "a.mha", rng.integers(0, 9, (12, 12, 12)).astype(np.int16), compressed)
    content, expected = path.read_bytes(), load(path)
    for keep in (len(content) - 1, len(content) - 200, 300, 40):
        path.write_bytes(content[:keep])
        with pytest.raises(CorruptImageError, match=r"a\.mha: .*; "):
            load(path)
    start = content.index(b"LOCAL") + 6
    for place in rng.integers(start * 8, len(content) * 8, 200 if compressed else 0):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            image = load(path)
        except ImageError:
            continue
        assert np.array_equal(image, expected), "the stream has a checksum"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ElementDataFile = LOCAL", b"ElementDataFile = a.raw", "in another file; save it as one .mha"),
        (b"BinaryData = True", b"BinaryData = False", "voxels as text"),
        (b"DimSize = 3 4 5", b"DimSize = 3 4 999999999", "cannot hold them"),
        (b"DimSize = 3 4 5", b"DimSize = 3 4 4", "the header speaks of 96 bytes of voxels, the file holds"),
        (b"ElementType = MET_SHORT", b"ElementType = MET_STRANGE", "not readable by SimpleITK"),
    ],
)
def test_refusals_are_named(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = write(tmp_path / "a.mha", np.ones((5, 4, 3), np.int16))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new) + bytes(9999 if "4 4" in str(new) else 0))
    with pytest.raises(CorruptImageError, match=rf"a\.mha: .*{message}"):
        load(path)


def test_a_header_without_axes_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha", np.ones((5, 4, 3), np.int16))
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(b"TransformMatrix")))
    with pytest.warns(GeometryWarning, match="does not say where the axes point; R, A and S are assumed"):
        assert load(path).affine.diagonal().tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize("name", [b"Rotation", b"Orientation"])
def test_synonyms_of_the_direction_are_read_alike(tmp_path: Path, name: bytes) -> None:
    path = write(tmp_path / "a.mha", np.ones((5, 4, 3), np.int16))
    expected = load(path).affine
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix", name))
    assert torch.equal(load(path).affine, expected)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_nrrd_equals_monai(tmp_path: Path, rng: np.random.Generator, encoding: str, space: str) -> None:
    voxels = rng.integers(-9, 99, (4, 5, 6)).astype(np.int16)
    header = {"space": space, "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header | {"encoding": encoding})
    reader: Any = NrrdReader()
    expected, meta = reader.get_data(reader.read(str(tmp_path / "a.nrrd")))
    image = LoadCheckedImage()(tmp_path / "a.nrrd")
    assert np.array_equal(image[0].numpy(), expected)
    # MONAI leaves the affine of other spaces than LPS as it is: RAS already.
    assert np.allclose(image.affine.numpy(), meta["affine"], atol=1e-12)


def test_nrrd_channels_and_missing_geometry(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((2, 4, 5, 6)).astype(np.float32)
    nan = np.full(3, np.nan)
    header = {"space": "RAS", "space directions": np.vstack([nan, np.eye(3) * 2]), "space origin": [1, 2, 3]}
    header["kinds"] = ["vector", "domain", "domain", "domain"]
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header)
    image = LoadCheckedImage()(tmp_path / "a.nrrd")
    assert np.array_equal(image.numpy(), voxels)
    assert image.affine.diagonal().tolist() == [2, 2, 2, 1]
    nrrd.write(str(tmp_path / "b.nrrd"), voxels[0], {"spacings": [1.0, 2.0, 3.0]})
    with pytest.warns(GeometryWarning, match="does not say where the axes point"):
        image = LoadCheckedImage()(tmp_path / "b.nrrd")
    assert image.affine.diagonal().tolist() == [1, 2, 3, 1]


def test_nrrd_refusals_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    good = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: LPS\nsizes: 2 2 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    cases: list[tuple[str, str, type[Exception], str]] = [
        ("NRRD0004", "NRDD", CorruptImageError, "not readable by SimpleITK"),
        ("type: uint8", "type: block", CorruptImageError, "type is block"),
        ("sizes: 2 2 2", "sizes: 2 2", CorruptImageError, "parsed 2 values"),
        ("sizes: 2 2 2", "sizes: 2 0 2", CorruptImageError, "size is zero"),
        ("sizes: 2 2 2", "sizes: 999999 99999 99999", CorruptImageError, "cannot hold them"),
        ("dimension: 3\n", "dimension: 5\n", CorruptImageError, "dimension is 5"),
        ("encoding: raw", "encoding: bzip2", CorruptImageError, "encoding 'bzip2'"),
        ("encoding: raw", "encoding: raw\nendian: middle", CorruptImageError, "couldn't parse endian"),
        ("encoding: raw", "encoding: raw\ndata file: b.raw", CorruptImageError, "another file"),
        ("encoding: raw", "encoding: raw\nbyte skip: 4", CorruptImageError, "skipped"),
        ("(0,0,1)", "(0,1,0)", GeometryError, "singular"),
        ("(0,0,1)", "(0,0,x)", CorruptImageError, "parsed 2 values"),
        ("(0,0,1)", "(0,0,nan)", CorruptImageError, "must be consistent"),
        (" (0,0,1)", "", CorruptImageError, "before seeing"),
        ("origin: (0,0,0)", "origin: (0,0)", CorruptImageError, "parsed 2 values"),
        ("space: LPS", "space: scanner-xyz", GeometryError, "not supported"),
    ]
    path.write_bytes(good.encode() + bytes(8))
    assert LoadCheckedImage()(path).shape == (1, 2, 2, 2)
    for old, new, error, message in cases:
        assert old in good
        path.write_bytes(good.replace(old, new).encode() + bytes(8))
        with pytest.raises(error, match=rf"a\.nrrd: .*{message}.*; "):
            LoadCheckedImage()(path)


def test_nrrd_of_unusual_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    head = "NRRD0004\ntype: uint8\nencoding: raw\n"
    path.write_bytes((head + "dimension: 5\nsizes: 1 1 1 1 1\n\n").encode() + bytes(1))
    with pytest.raises(ImageShapeError, match="5 dimensions"):
        LoadCheckedImage()(path)
    path.write_bytes((head + "dimension: 4\nsizes: 1 1 1 1\n\n").encode() + bytes(1))
    with pytest.raises(ImageShapeError, match="4 dimensions"):
        LoadCheckedImage()(path)
    path.write_bytes((head + "dimension: 2\nsizes: 1 1\nspacings: a b\n\n").encode() + bytes(1))
    with pytest.raises(CorruptImageError, match="spacings"):
        LoadCheckedImage()(path)
    directions = "dimension: 2\nsizes: 1 1\nspace dimension: 2\nspace directions: (2,0) (0,3)\n\n"
    path.write_bytes((head + directions).encode() + bytes(1))
    with pytest.warns(GeometryWarning, match="names no space"):
        assert LoadCheckedImage()(path).affine.diagonal().tolist() == [-2, -3, 1, 1]
