"""Files are written atomically and identified by their sha256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import DataError

_MAX_JSON = 1 << 26  # bytes; a list of a million images has about as many

# Read once: the umask can only be read by setting it, and another thread may make a file in between.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
# A list of numbers that json.dumps broke into lines; no text has a line break.
_NUMBERS = re.compile(r"\[\n\s*([-+.\deE]+(?:,\n\s*[-+.\deE]+)*)\n\s*\]")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name only when the block ends without an error.

    The content is on disk (fsync) before the rename, so a crash at any moment leaves the previous file or the
    new one, never a torn one. The final file is readable by group and others as the umask at import allows.

    Args:
        path: final path; its folder is made when missing.

    Yields:
        Path of the temporary file (same suffixes, so that writers which look at them work).
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=".tmp-", suffix="".join(final.suffixes[-2:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, final)
        _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write ``content`` as indented JSON, numbers of a list on one line, atomically and return the path."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a file whole. A pipe or a device would never end, a sparse file fills the memory.

    Args:
        path: a regular file.
        limit: bytes that it may have.

    Raises:
        OSError: when it is no regular file, is larger, or cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"{status.st_size} bytes, more than the {limit} that are read", str(path))
    return Path(path).read_bytes()


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        DataError: when the file is missing, not JSON or larger than 64 MiB; the message names it.
    """
    try:
        return json.loads(read_file(path, _MAX_JSON).decode("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    # Nesting too deep is a RecursionError; text and numbers that are none are ValueErrors.
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as JSON ({reason}); write it again.") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
