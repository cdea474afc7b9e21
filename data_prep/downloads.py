"""The files of an official download, whether it was unpacked to a folder or is still the tar."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import DataError

_TAR_END = 1024  # zeros at the end of every tar


@dataclass(frozen=True)
class DownloadFile:
    """One file of a download; of a tar, no path but the last part of a member's name is ever used.

    Args:
        source: the folder, or the tar.
        name: path of the file in it.
        member: what the tar says of it; None in a folder.
    """

    source: Path
    name: str
    member: tarfile.TarInfo | None = None

    def __str__(self) -> str:
        """How a problem with the file is reported."""
        return f"{self.source}:{self.name}" if self.member else str(self.source / self.name)

    def is_file(self) -> bool:
        """Whether it is there."""
        return self.member is not None or (self.source / self.name).is_file()

    def state(self) -> list[Any]:
        """What changes when the file is another one."""
        if self.member is None:
            return file_state(self.source / self.name)
        return [*file_state(self.source), self.name, self.member.size, self.member.mtime]

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """The file on the disk; from a tar a copy that is gone afterwards.

        Raises:
            DataError: when the tar cannot give it.
        """
        if self.member is None:
            yield self.source / self.name
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(self.name).name
            try:
                with tarfile.open(self.source, "r:") as tar, path.open("wb") as target:
                    stream = tar.extractfile(self.member)
                    if stream is None:
                        raise DataError(f"{self}: is no file.")
                    shutil.copyfileobj(stream, target)
            except tarfile.TarError as error:
                raise DataError(f"{self}: cannot be unpacked ({error}).") from error
            yield path


class Download:
    """Gives each file of a download by name.

    Args:
        source: folder, or uncompressed tar. A tar that is cut off gives what it holds; ``damage`` says so.

    Raises:
        DataError: when there is neither, or the tar cannot be read at all.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.damage = ""
        if source.is_dir():
            names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
            self.files = {name: DownloadFile(source, name) for name in names}
        elif source.is_file():
            self.files = {name: DownloadFile(source, name, one) for name, one in sorted(self._members())}
        else:
            raise DataError(f"{source}: no such file or folder; give the official tar or what it held.")
        if source.is_file() and not self.files:
            raise DataError(f"{source}: is no tar with files in it; {self.damage or 'look at it'}.")

    def file(self, name: str) -> DownloadFile:
        """The file of that name, which may be missing."""
        return self.files.get(name) or DownloadFile(self.source, name)

    def _members(self) -> list[tuple[str, tarfile.TarInfo]]:
        found = []
        try:
            with tarfile.open(self.source, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        found.append((member.name, member))
            with self.source.open("rb") as stream:
                stream.seek(-min(_TAR_END, self.source.stat().st_size), os.SEEK_END)
                # Cut off between two members a tar reads well; only its end is missing.
                if any(stream.read()):
                    raise tarfile.ReadError("unexpected end")
        except tarfile.TarError as error:
            self.damage = f"the archive is damaged or incomplete ({error}); download it again"
        return found


def file_state(path: Path) -> list[Any]:
    """What changes when a file is another one: name, size and time."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
