from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.files import atomic_path, read_json, sha256, write_json


def test_a_finished_block_gives_the_file_its_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "new" / "volume.nii.gz"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"voxels")
        assert not final.exists()
    assert final.read_bytes() == b"voxels"
    assert list(final.parent.iterdir()) == [final]


def test_a_failed_block_keeps_the_previous_file(tmp_path: Path) -> None:
    final = tmp_path / "model.pt"
    final.write_bytes(b"previous")

    def interrupted() -> None:
        with atomic_path(final) as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert final.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [final]


def test_the_file_has_the_rights_of_an_ordinary_new_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("x")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"größe": [1, 2.5, None, True], "empty": {}}
    assert read_json(write_json(tmp_path / "a.json", content)) == content


def test_json_with_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe\x00", b"", b"[" * 200_000, b"1" * 10_000],
    ids=["cut", "bytes", "empty", "deep", "digits"],
)
def test_what_is_not_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "datalist.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"datalist\.json: cannot be read as JSON"):
        read_json(path)


def test_missing_json_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"datalist\.json: no such file"):
        read_json(tmp_path / "datalist.json")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights" * 100_000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
