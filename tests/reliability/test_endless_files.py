"""Pipes, devices, 20 GB of nothing and headers without an end are refused by name at once, wherever read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from robustmed_monai.data.image_list import list_images
from robustmed_monai.transforms.load import LoadCheckedImage, read_npz_arrays
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import load_weights

# How files of these types begin, so that a reader goes on.
STARTS = {
    ".nii": b"\x5c\x01\0\0" + bytes(340) + b"n+1\0",
    ".nii.gz": b"\x1f\x8b\x08" + bytes(7),
    ".mgh": b"\0\0\0\x01",
    ".mgz": b"\x1f\x8b\x08" + bytes(7),
    ".nrrd": b"NRRD0005\ntype: short\n",
    ".mha": b"ObjectType = Image\nNDims = 3\n",
    ".png": b"\x89PNG\r\n\x1a\n",
    ".tif": b"II*\0\x08\0\0\0",
    ".jpg": b"\xff\xd8\xff\xe0\0\x04\0\0",
    ".dcm": bytes(128) + b"DICM",
    "": bytes(128) + b"DICM",
}
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{f"image{suffix}": (f"file{suffix}", LoadCheckedImage()) for suffix in STARTS},
    "arrays": ("file.npz", read_npz_arrays),
    "JSON": ("file.json", read_json),
    "datalist": ("file.json", list_images),
    "weights": ("model.pt", lambda path: load_weights(path, allow_unverified=True)),
    "JSON beside weights": ("model.json", lambda path: load_weights(path.with_suffix(".pt"))),
}
MADE: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse": lambda path: _write(path, b"", 20 << 30),
    "lines": lambda path: _write(path, b"# a comment\n" * 700_000),
}


def _write(path: Path, content: bytes, size: int = 0) -> None:
    """A file that begins as its name says, goes on with the content and is made as long as is asked for."""
    with path.open("wb") as stream:
        stream.write(STARTS.get("".join(path.suffixes[-2:]), b"PK\3\4" if path.suffix != ".json" else b"{"))
        stream.write(content)
        stream.truncate(size or None)


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("reader", READERS)
def test_what_never_ends_is_refused_at_once(
    reader: str, made: str, tmp_path: Path, in_time: Callable[[int], AbstractContextManager[None]]
) -> None:
    name, read = READERS[reader]
    (tmp_path / "model.pt").write_bytes(b"PK") if name == "model.json" else None
    MADE[made](tmp_path / name)
    start = time.process_time()
    with in_time(20), pytest.raises(RobustMedError, match=name.removesuffix(".gz")):
        read(tmp_path / name)
    assert time.process_time() - start < 2
