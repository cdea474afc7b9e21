from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from robustmed_monai.visualize import save_png, to_array
from robustmed_monai.visualize.figures import new_figure


def drawn() -> Figure:
    figure = new_figure(2.0, 1.0)
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_png_and_array_are_the_same_picture(tmp_path: Path) -> None:
    path = save_png(drawn(), tmp_path / "deep" / "picture.png")
    array = to_array(drawn())
    assert array.shape == (120, 240, 3)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), array)


def test_figures_drawn_alike_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_png(drawn(), tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_former_picture(tmp_path: Path) -> None:
    path = save_png(new_figure(1.0, 1.0), tmp_path / "picture.png")
    before = path.read_bytes()
    broken = new_figure(1.0, 1.0)
    broken.add_artist(type("Faulty", (type(broken.patch),), {"draw": None})((0, 0), 1, 1))
    with pytest.raises(TypeError):
        save_png(broken, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_figures_stay_out_of_pyplots_global_state() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    to_array(new_figure(1.0, 1.0))
    assert pyplot.get_fignums() == before
