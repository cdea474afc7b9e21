"""The files of an official download, whether it was unpacked to a folder or is still the tar."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import DataError

_TAR_END = 1024  # zeros at the end of every tar


class Download:
    """Gives each file of a download by name; of a tar, no path but the last part of a name is ever used.

    Args:
        source: folder, or uncompressed tar. A tar that is cut off gives what it holds; ``damage`` says so.

    Raises:
        DataError: when there is neither, or the tar cannot be read at all.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.damage = ""
        self._members: dict[str, tarfile.TarInfo] = {}
        if source.is_dir():
            self.names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        elif source.is_file():
            self._read_members()
            self.names = sorted(self._members)
        else:
            raise DataError(f"{source}: no such file or folder; give the official tar or what it held.")

    def path(self, name: str) -> Path:
        """File on the disk that holds ``name``: itself, or the tar."""
        return self.source if self._members else self.source / name

    def stamp(self, name: str) -> Any:
        """What tells a member of a tar from another; None in a folder, where the file itself does."""
        member = self._members.get(name)
        return None if member is None else [name, member.size, member.mtime]

    def named(self, name: str) -> str:
        """How a problem with ``name`` is reported."""
        return f"{self.source}:{name}" if self._members else str(self.source / name)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """The file ``name`` on the disk; from a tar a copy that is gone afterwards.

        Raises:
            DataError: when the tar cannot give it.
        """
        if not self._members:
            yield self.source / name
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(name).name
            try:
                with tarfile.open(self.source, "r:") as tar, path.open("wb") as target:
                    stream = tar.extractfile(self._members[name])
                    if stream is None:
                        raise DataError(f"{self.named(name)}: is no file.")
                    shutil.copyfileobj(stream, target)
            except tarfile.TarError as error:
                raise DataError(f"{self.named(name)}: cannot be unpacked ({error}).") from error
            yield path

    def _read_members(self) -> None:
        try:
            with tarfile.open(self.source, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        self._members[member.name] = member
            with self.source.open("rb") as stream:
                stream.seek(-min(_TAR_END, self.source.stat().st_size), os.SEEK_END)
                # Cut off between two members a tar reads well; only its end is missing.
                if any(stream.read()):
                    raise tarfile.ReadError("unexpected end")
        except tarfile.TarError as error:
            self.damage = f"the archive is damaged or incomplete ({error}); download it again"
        if not self._members:
            raise DataError(f"{self.source}: is no tar with files in it; {self.damage or 'look at it'}.")
