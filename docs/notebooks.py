"""Makes docs/notebooks/<method>.ipynb of docs/gallery/<method>.py: ``python docs/notebooks.py [METHOD ...]``.

A notebook is the script cell by cell, with the picture that the script draws as the output of its last cell.
"""

from __future__ import annotations

import base64
import io
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GALLERY = Path(__file__).resolve().parent / "gallery"
NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"


def cells_of(script: str) -> list[dict[str, Any]]:
    """Return the notebook cells of a script in percent format, without outputs."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(script.split("# %%")[1:]):
        kind, _, body = part.partition("\n")
        lines = body.strip("\n").splitlines(keepends=True)
        cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}}
        if "[markdown]" in kind:
            text = [line.removeprefix("#").removeprefix(" ") for line in lines]
            cells.append({"cell_type": "markdown", **cell, "source": text})
        else:
            code = {"execution_count": None, "outputs": [], "source": lines}
            cells.append({"cell_type": "code", **cell, **code})
    return cells


def run_script(script: Path) -> Path:
    """Run a script in the working directory and return the picture that it draws there."""
    import matplotlib

    matplotlib.use("Agg")
    runpy.run_path(str(script), run_name="__main__")
    return Path.cwd() / f"{script.stem}.png"


def notebook_of(script: Path, picture: bytes) -> dict[str, Any]:
    """Return the notebook of a script, its picture (PNG) under the last cell."""
    cells = cells_of(script.read_text(encoding="utf-8"))
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["<Figure>"]}
    cells[-1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _small(path: Path) -> bytes:
    """The picture in 64 colours: it lies in the repository, and on a web page."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(names: Sequence[str]) -> None:
    """Make the notebooks of these methods, or of all."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for script in [GALLERY / f"{name}.py" for name in names] or sorted(GALLERY.glob("*.py")):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            notebook = notebook_of(script, _small(run_script(script)))
            os.chdir(GALLERY)
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        (NOTEBOOKS / f"{script.stem}.ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
