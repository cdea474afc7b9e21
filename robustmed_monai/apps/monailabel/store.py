"""MONAI Label's studies and sessions, confined to their folders, one thread at a time."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import LabelNotFoundException
from monailabel.utils.sessions import SessionInfo, Sessions

from robustmed_monai.apps.monailabel.archives import extract
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ImageError, ImageShapeError, RequestError

logger = logging.getLogger(__name__)

# What changes or walks through the studies; a thread that watches the folder does so at any time.
_ONE_AT_A_TIME = (
    "add_image",
    "datalist",
    "get_image_info",
    "get_labeled_images",
    "get_unlabeled_images",
    "json",
    "refresh",
    "remove_image",
    "remove_label",
    "save_label",
    "status",
    "update_image_info",
    "update_label_info",
    "_on_any_event",
    "_on_modify_event",
)


class ConfinedDatastore(LocalDatastore):
    """A folder of studies that reads, writes and removes nothing outside of it, through links neither.

    Args:
        folder: folder of the studies.
        arguments: see ``LocalDatastore``.
    """

    def __init__(self, folder: str, **arguments: Any) -> None:
        self.lock = threading.RLock()
        self.root = os.path.realpath(folder)
        self.archives: tempfile.TemporaryDirectory[str] | None = None
        for name in _ONE_AT_A_TIME:
            setattr(self, name, _one_at_a_time(self.lock, getattr(self, name)))
        super().__init__(folder, **arguments)

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image; empty when there is none of that name.

        Raises:
            ImageError: for a link to outside of the studies, and for what is no file.
        """
        return self._checked(super().get_image_uri(image_id), image_id)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label, as ``get_image_uri``."""
        return self._checked(super().get_label_uri(label_id, label_tag), label_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take an image over, see ``LocalDatastore``."""
        _, suffix = self._to_id(os.path.basename(image_filename))
        with _removed_on_failure(image_filename):
            place = os.path.join(self._datastore.image_path(), self._filename(image_id, suffix))
            self._inside(place, image_id)
            return str(super().add_image(image_id, image_filename, image_info))

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels, see ``LocalDatastore``."""
        self.get_image_uri(image_id)
        for tag in self.get_labels_by_image_id(image_id):
            self.get_label_uri(image_id, tag)
        super().remove_image(image_id)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Take a label over.

        Raises:
            ImageError: for a final label that is no image, or not of the size of its image.
        """
        _, suffix = self._to_id(os.path.basename(label_filename))
        with _removed_on_failure(label_filename):
            place = os.path.join(self._datastore.label_path(label_tag), self._filename(image_id, suffix))
            self._inside(place, image_id)
            image = self.get_image_uri(image_id)
            if image and label_tag == DefaultLabelTag.FINAL:
                _check_label(image, label_filename, image_id)
            return str(super().save_label(image_id, label_filename, label_tag, label_info))

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images and their final labels, see ``LocalDatastore``."""
        for name in self.get_labeled_images():
            self.get_image_uri(name)
            self.get_label_uri(name, DefaultLabelTag.FINAL)
        return list(super().datalist(full_path))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """One zip of the images that have a final label; the next request replaces it."""
        if not self.datalist():
            raise LabelNotFoundException("no image has a final label, so there is nothing to send.")
        self.archives = self.archives or tempfile.TemporaryDirectory(prefix="robustmed-label-")
        archive = Path(self.archives.name) / "dataset.zip"
        os.replace(super().get_dataset_archive(limit_cases), archive)
        return str(archive)

    def has_label(self, image_id: str, tag: str) -> bool:
        """Whether an image has a label of a kind."""
        return os.path.isfile(self.get_label_uri(image_id, tag))

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        found = {}
        for key, name in super()._list_files(path, patterns).items():
            try:
                self._checked(os.path.join(path, name), name)
                found[key] = name
            except ImageError as error:
                logger.warning("not listed: %s", error)
        return found

    def _checked(self, path: str, name: str) -> str:
        if path:
            self._inside(path, name)
            if os.path.lexists(path) and not os.path.isfile(path):
                raise ImageError(f"{name!r}: is no file, or a broken link; put the image itself there.")
        return path

    def _inside(self, path: str, name: str) -> None:
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise ImageError(f"{name!r}: leads out of the folder of studies; put the file itself there.")


def _one_at_a_time(lock: AbstractContextManager[Any], method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*arguments: Any, **named: Any) -> Any:
        with lock:
            return method(*arguments, **named)

    return locked


@contextmanager
def _removed_on_failure(upload: str) -> Iterator[None]:
    """MONAI Label removes what it received after an answer only."""
    try:
        yield
    except Exception:
        Path(upload).unlink(missing_ok=True)
        raise


def _check_label(image: str, label: str, name: str) -> None:
    load = LoadCheckedImage()
    expected, given = (tuple(load(path).shape[1:]) for path in (image, label))
    if expected != given:
        raise ImageShapeError(
            f"label of {name!r}: its size is {given}, that of the image {expected}; draw it on the image."
        )


class ConfinedSessions(Sessions):
    """Uploads that are kept for later requests, each in a folder of its own.

    Args:
        store_path: folder for all; MONAI Label's own when it is empty.
        expiry: seconds after which an upload is removed.
        max_sessions: how many there may be.
        max_bytes: what the files of an archive may take together.
        max_files: how many files an archive may hold.
    """

    def __init__(
        self, store_path: str, expiry: int, max_sessions: int, max_bytes: int, max_files: int
    ) -> None:
        super().__init__(store_path, expiry)
        self.max_sessions = max_sessions
        self.max_bytes = max_bytes
        self.max_files = max_files

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        """A session by its name; None for what is no name that this server gave."""
        return super().get_session(session_id, update_ts, fetch_cache) if _is_session(session_id) else None

    def remove_expired(self) -> int:
        """Remove sessions past their time and those without a description; return how many were."""
        count = 0
        for name in self._names():
            found = self.get_session(name, update_ts=False, fetch_cache=False)
            if found is None or 0 < found.expiry < time.time() - found.last_access_ts:
                self.remove_session(name)
                count += 1
        return count

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Keep an upload.

        Raises:
            RequestError: 429 when there are as many as may be, 400 or 413 for an archive, see ``extract``.
        """
        folder = tempfile.mkdtemp(prefix="robustmed-session-")
        try:
            if len(self._names()) >= self.max_sessions:
                raise RequestError(429, f"{self.max_sessions} sessions are kept; remove one, or wait.")
            if uncompress:
                extract(Path(data_file), Path(folder), self.max_bytes, self.max_files)
            name, info = super().add_session(folder if uncompress else data_file, expiry, False, session_id)
            return str(name), info
        except RequestError:
            # MONAI Label removes what it received after an answer only.
            received = Path(data_file)
            shutil.rmtree(received if received.is_dir() else received.parent, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _names(self) -> list[str]:
        store = Path(self.store_path)
        return [path.name for path in store.iterdir() if _is_session(path.name)] if store.is_dir() else []


def _is_session(name: Any) -> bool:
    try:
        return isinstance(name, str) and str(uuid.UUID(name)) == name
    except ValueError:
        return False
