"""Archives of a client: one folder of files, each within the folder, and no more than there may be."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from robustmed_monai.utils.errors import RequestError

# Of each compression that tarfile reads, how a file begins.
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def extract(archive: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    """Extract a tar, also compressed, or a zip.

    Args:
        archive: the file.
        folder: an empty folder.
        max_bytes: what all files together may take.
        max_files: how many members there may be.

    Raises:
        RequestError: 400 for a member that would lie elsewhere or is neither a file nor a folder, for a
            damaged archive and for what is none; 413 for one that holds too much.
    """
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder, max_bytes, max_files)
        else:
            _extract_tar(archive, folder, max_bytes, max_files)
    except tarfile.FilterError as error:
        raise RequestError(400, f"archive: {error}; nothing of it is used.") from error
    except _DAMAGED as error:
        raise RequestError(400, f"archive: not a tar or zip that can be read ({error}).") from error


def _extract_zip(archive: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        _check_sum(sum(member.file_size for member in members), len(members), max_bytes, max_files)
        for member in members:
            _check_name(member.filename)
            if member.flag_bits & 1:
                raise RequestError(400, f"archive: {member.filename!r} is encrypted.")
        for member in members:
            content.extract(member, folder)


def _extract_tar(archive: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    with archive.open("rb") as plain:
        start = plain.read(6)
        opened = next((how for begin, how in _OPENERS.items() if start.startswith(begin)), Path.open)
        # Headers and padding of each member come on top.
        stream = _Bounded(opened(archive, "rb"), max_bytes + 4096 * max_files)
        with stream.source, tarfile.open(fileobj=stream, mode="r|") as content:  # type: ignore[call-overload]
            total = 0
            for count, member in enumerate(content, 1):
                total += member.size
                _check_sum(total, count, max_bytes, max_files)
                _check_name(member.name)
                if not (member.isreg() or member.isdir()):
                    raise RequestError(400, f"archive: {member.name!r} is neither a file nor a folder.")
                content.extract(member, folder, filter="data")


class _Bounded:
    """What tarfile reads from, up to a number of bytes: a header alone can claim gigabytes."""

    def __init__(self, source: IO[bytes], left: int) -> None:
        self.source = source
        self.left = left

    def read(self, size: int) -> bytes:
        found = self.source.read(min(size, self.left + 1))
        self.left -= len(found)
        if self.left < 0:
            raise RequestError(413, "archive: takes more room than an upload may.")
        return found


def _check_sum(size: int, count: int, max_bytes: int, max_files: int) -> None:
    if size > max_bytes:
        raise RequestError(413, f"archive: holds {size} bytes; at most {max_bytes} are taken.")
    if count > max_files:
        raise RequestError(413, f"archive: holds more than {max_files} files.")


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name[:2]:
        raise RequestError(400, f"archive: {name!r} would lie outside of its folder; nothing of it is used.")
    if path.suffix.lower() == ".json":
        raise RequestError(400, f"archive: {name!r} could be a list of other files; send images only.")
