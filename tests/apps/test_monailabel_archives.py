"""Archives of a client stay in their folder, within their bounds."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustmed_monai.apps.monailabel.archives import extract
from robustmed_monai.utils.errors import RequestError

ROOM = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where archives go; afterwards nothing lies beside it."""
    inner = tmp_path / "inner"
    inner.mkdir()
    yield inner
    assert {path.name for path in tmp_path.iterdir()} == {"inner", "archive"}


def _tar(place: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    path = place.parent / "archive"
    with tarfile.open(path, mode) as content:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            content.addfile(info, io.BytesIO(data))
    return path


def _zip(place: Path, *members: tuple[str, bytes]) -> Path:
    path = place.parent / "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in members:
            content.writestr(name, data)
    return path


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("link.nii")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_of_a_tar_are_extracted(folder: Path, mode: str) -> None:
    members = [(tarfile.TarInfo(f"series/{n}.dcm"), bytes([n]) * 3000) for n in range(3)]
    extract(_tar(folder, *members, mode=mode), folder, ROOM, 3)
    assert [(folder / "series" / f"{n}.dcm").read_bytes() for n in range(3)] == [m[1] for m in members]


def test_files_of_a_zip_are_extracted(folder: Path) -> None:
    extract(_zip(folder, ("a/b.dcm", b"1"), ("c.nii", b"22")), folder, ROOM, 2)
    assert ((folder / "a" / "b.dcm").read_bytes(), (folder / "c.nii").read_bytes()) == (b"1", b"22")


@pytest.mark.parametrize(
    "name",
    ["../x.nii", "a/../../x.nii", "/tmp/x.nii", "a\\..\\x.nii", "C:x.nii", "datalist.json", "a/D.JSON"],
)
def test_a_member_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    for archive in (_tar(folder, (tarfile.TarInfo(name), b"x")), _zip(folder, (name, b"x"))):
        with pytest.raises(RequestError, match=r"archive: ") as found:
            extract(archive, folder, ROOM, 9)
        assert found.value.status == 400
    assert not list(folder.rglob("*"))


@pytest.mark.parametrize(
    "info",
    [
        _link(tarfile.SYMTYPE, "/etc/passwd"),
        _link(tarfile.SYMTYPE, "other.nii"),
        _link(tarfile.LNKTYPE, "../archive"),
        _link(tarfile.FIFOTYPE, ""),
        _link(tarfile.CHRTYPE, ""),
    ],
)
def test_links_and_devices_are_refused(folder: Path, info: tarfile.TarInfo) -> None:
    with pytest.raises(RequestError, match="neither a file nor a folder"):
        extract(_tar(folder, (info, b"")), folder, ROOM, 9)


def test_what_holds_too_much_is_refused_before_it_is_written(folder: Path) -> None:
    big = b"\0" * (ROOM + 1)
    archives: list[Callable[[], Path]] = [
        lambda: _tar(folder, (tarfile.TarInfo("a.nii"), big), mode="w:gz"),
        lambda: _zip(folder, ("a.nii", big)),
        lambda: _tar(folder, *((tarfile.TarInfo(f"{n}.nii"), b"") for n in range(10))),
        lambda: _zip(folder, *((f"{n}.nii", b"") for n in range(10))),
    ]
    for make in archives:
        with pytest.raises(RequestError, match="archive: holds") as found:
            extract(make(), folder, ROOM, 9)
        assert found.value.status == 413
    assert sum(path.stat().st_size for path in folder.rglob("*")) == 0


def test_a_header_that_claims_gigabytes_is_not_read_to_its_end(folder: Path) -> None:
    """A pax header is kept in memory by tarfile, and zeros compress a thousandfold."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    path = folder.parent / "archive"
    with gzip.open(path, "wb", compresslevel=1) as content:
        content.write(info.tobuf())
        for _ in range(40):
            content.write(b"\0" * (1 << 20))
    with pytest.raises(RequestError, match="takes more room"):
        extract(path, folder, ROOM, 9)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b broken", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_archive_is_refused(folder: Path, content: bytes) -> None:
    (folder.parent / "archive").write_bytes(content)
    if content.startswith(b"PK"):
        extract(folder.parent / "archive", folder, ROOM, 9)
        assert not list(folder.iterdir()), "an empty zip is one"
        return
    with pytest.raises(RequestError, match="not a tar or zip"):
        extract(folder.parent / "archive", folder, ROOM, 9)


def test_a_damaged_member_is_refused(folder: Path) -> None:
    path = _zip(folder, ("a.nii", bytes(range(256)) * 40))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(RequestError, match="not a tar or zip"):
        extract(path, folder, ROOM, 9)
