"""The gallery of the synthesis: it is drawn, and in every cell there is something."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.synthesis_gallery import COLUMNS, main, synthesis_gallery


def test_every_cell_shows_something_and_the_seed_decides() -> None:
    figure = synthesis_gallery(40, seed=1)
    assert len(figure.axes) == 7 * COLUMNS
    for axis in figure.axes:
        assert np.asarray(axis.images[0].get_array()).std() > 0.01
    captions = [axis.get_title() for axis in figure.axes[4 * COLUMNS : 5 * COLUMNS]]
    assert captions == ["means alone", "std", "blur", "low_resolution", "bias_std", "gamma_std"]
    first, other = (np.asarray(f.axes[0].images[0].get_array()) for f in (figure, synthesis_gallery(40, 2)))
    assert not np.array_equal(first, other)


def test_file_is_written(tmp_path: Path) -> None:
    main(["--output", str(tmp_path / "gallery.png"), "--size", "40"])
    assert (tmp_path / "gallery.png").read_bytes()[:4] == b"\x89PNG"
