"""What handlers share that write a folder of results per image file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.files import write_json

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def is_picture(path: str) -> bool:
    """Whether the results of an image file are pictures too (PNG), not NIfTI."""
    return path.lower().endswith(_PICTURES)


def result_folder(output_dir: Path, path: Path, done: Sequence[Mapping[str, Any]]) -> Path:
    """Folder for the results of an image, named like it and unlike those of ``done`` images ("folder")."""
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0] if path.is_file() else path.name
    taken = {d["folder"] for d in done}
    number, unique = 1, name
    while unique in taken:
        number, unique = number + 1, f"{name}-{number + 1}"
    return output_dir / unique


def finish_results(
    engine: Engine, output_dir: Path, done: Sequence[Mapping[str, Any]], failed: Mapping[str, str]
) -> None:
    """Write ``summary.json``, then name the images that could not be used.

    Raises:
        ImageError: when there are such; the results of the others are written by then.
    """
    write_json(output_dir / "summary.json", {"images": list(done), "failed": dict(failed)})
    engine.logger.info(f"{len(done)} images done; results are in {output_dir}")
    if failed:
        reasons = "\n".join(f"  {reason}" for reason in failed.values())
        raise ImageError(f"{len(failed)} of {len(failed) + len(done)} images could not be used:\n{reasons}")
