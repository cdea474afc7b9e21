"""Small made-up copies of what the official downloads consist of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
WriteNifti = Callable[..., Path]
WritePng = Callable[[Path, Array], Path]


@pytest.fixture
def write_nifti() -> WriteNifti:
    """Write a volume given in RAS+ (x to the right, y to the front, z up), stored in any orientation."""

    def write(path: Path, volume: Array, spacing: float | Array = 1.0, axcodes: str = "RAS") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(volume, np.diag([*np.broadcast_to(spacing, 3), 1.0]))
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
        nib.save(image.as_reoriented(turn), path)
        return path

    return write


@pytest.fixture
def write_png() -> WritePng:
    """Write an array of (rows, columns)."""

    def write(path: Path, rows: Array) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rows).save(path)
        return path

    return write


@pytest.fixture
def head() -> Callable[[int], Array]:
    """A ball (RAS+, 24 x 28 x 20) on the floor of the volume, with noise that differs by seed."""

    def make(seed: int) -> Array:
        x, y, z = np.ogrid[:24, :28, :20]
        inside = ((x - 12) / 9) ** 2 + ((y - 14) / 11) ** 2 + ((z - 6) / 9) ** 2 < 1
        noise = np.random.default_rng(seed).random((24, 28, 20))
        return (inside * (400 + 200 * noise)).astype(np.int16)

    return make


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.fixture(name="damage")
def damage_fixture() -> Callable[[Path], None]:
    return damage


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[bytes, int, int]]]:
    """Content, time and inode of every file: equal before and after means that nothing was written."""

    def take(folder: Path) -> dict[str, tuple[bytes, int, int]]:
        return {
            str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return take


@pytest.fixture
def load() -> Callable[[Path], Any]:
    """Read a datalist and check what holds for each: files exist with their digest, sections are disjoint."""
    from robustmed_monai.data.datalist import load_datalist

    def read(path: Path) -> Any:
        content = json.loads(path.read_text())
        for section in ("training", "validation", "test"):
            if content[section]:
                assert len(load_datalist(path, section, verify=True)) == len(content[section])
        subjects = [
            {item["subject"] for item in content[section]} for section in ("training", "validation", "test")
        ]
        assert not subjects[0] & subjects[1]
        assert not (subjects[0] | subjects[1]) & subjects[2]
        assert all(content[key] for key in ("name", "license", "description"))
        return content

    return read


@pytest.fixture
def pixels() -> Callable[[Path], Array]:
    """Read a PNG as (rows, columns)."""
    return lambda path: np.asarray(Image.open(path))
