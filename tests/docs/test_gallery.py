"""The gallery's scripts run and draw something; the notebooks are what the scripts are."""

from __future__ import annotations

import base64
import io
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
METHODS = sorted(path.stem for path in (DOCS / "gallery").glob("*.py"))


@pytest.fixture(scope="module")
def notebooks() -> dict[str, Any]:
    """What docs/notebooks.py defines."""
    return runpy.run_path(str(DOCS / "notebooks.py"))


def test_every_method_has_one() -> None:
    bundles = {path.name for path in (DOCS.parent / "bundles").iterdir() if path.is_dir()}
    # What stands on the features of CIFL belongs to it; whole heads are the overlays of two bundles.
    assert set(METHODS) == {name for name in bundles if not name.startswith("cifl_")} | {"whole_heads"}
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{name}\n" in page for name in METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_script_draws(
    name: str, notebooks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    drawn = notebooks["run_script"](DOCS / "gallery" / f"{name}.py")
    plt.close("all")
    assert drawn == tmp_path / f"{name}.png"
    panels = _grey(drawn.read_bytes())
    # No quarter of the picture is blank.
    half = np.array(panels.shape) // 2
    for rows in (slice(None, half[0]), slice(half[0], None)):
        for columns in (slice(None, half[1]), slice(half[1], None)):
            assert panels[rows, columns].std() > 20
    assert {path.name for path in tmp_path.iterdir()} <= {f"{name}.png", "out"}


@pytest.mark.parametrize("name", METHODS)
def test_notebook_is_the_script(name: str, notebooks: dict[str, Any]) -> None:
    path = DOCS / "notebooks" / f"{name}.ipynb"
    made = json.loads(path.read_text(encoding="utf-8"))
    (picture,) = [output["data"]["image/png"] for cell in made["cells"] for output in cell.get("outputs", [])]
    again = notebooks["notebook_of"](DOCS / "gallery" / f"{name}.py", base64.b64decode(picture))
    assert made == again, f"the script has changed: python docs/notebooks.py {name}"
    assert made["cells"][0]["source"][0].startswith("# "), "a page needs a title"
    assert path.stat().st_size < 200_000
    assert _grey(base64.b64decode(picture)).std() > 20


def _grey(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"), dtype=float)
