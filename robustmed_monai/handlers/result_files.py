"""What handlers share that write a folder of results per image file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.files import write_json

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def is_picture(path: str) -> bool:
    """Whether the results of an image file are pictures too (PNG), not NIfTI."""
    return path.lower().endswith(_PICTURES)


class ResultFileWriter(ABC):
    """Base of ignite handlers for an evaluator that goes through image files one by one.

    The engine's output holds "path", and "error" where the image could not be used. A subclass says what is
    written (``save``).

    Args:
        output_dir: folder to write into.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.output_dir = Path(output_dir)
        self.done: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Write after every image, and ``summary.json`` at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    @abstractmethod
    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write the results of one image into a folder and return what the summary keeps of them."""

    def _write(self, engine: Engine) -> None:
        output: Any = engine.state.output
        if "error" in output:
            self.failed[output["path"]] = output["error"]
            engine.logger.error(output["error"])
            return
        folder = result_folder(self.output_dir, Path(output["path"]), self.done)
        self.done.append({**self.save(output, folder), "folder": folder.name})

    def _finish(self, engine: Engine) -> None:
        write_json(self.output_dir / "summary.json", {"images": self.done, "failed": self.failed})
        engine.logger.info(f"{len(self.done)} images done; results are in {self.output_dir}")
        if self.failed:
            reasons = "\n".join(f"  {reason}" for reason in self.failed.values())
            total = len(self.failed) + len(self.done)
            raise ImageError(f"{len(self.failed)} of {total} images could not be used:\n{reasons}")


def result_folder(output_dir: Path, path: Path, done: Sequence[Mapping[str, Any]]) -> Path:
    """Folder for the results of an image, named like it and unlike those of ``done`` images ("folder")."""
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0] if path.is_file() else path.name
    taken = {d["folder"] for d in done}
    number, unique = 1, name
    while unique in taken:
        number, unique = number + 1, f"{name}-{number + 1}"
    return output_dir / unique
