"""The gallery: what is in which place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.figures import to_array
from tools.corruption_gallery import (
    colour_image,
    corruption_gallery,
    every_corruption,
    main,
)

# One row of pictures of 88 pixels, 4 apart, right of 128 pixels of labels and below 22 of headings.
SIDE, STEP, LEFT, TOP = 88, 92, 128, 22


def _picture(figure: np.ndarray, row: int, column: int) -> np.ndarray:
    return figure[TOP + row * STEP :, LEFT + column * STEP :][:SIDE, :SIDE]


def test_rows_are_corruptions_and_columns_severities_upright() -> None:
    image = torch.zeros(1, SIDE, SIDE)
    image[0, 60:, :20] = 1  # right, above, in MONAI's axes (x, y)
    suite = CorruptionSuite(
        "s", 0, [{"family": "geometry", "name": "contrast_inversion", "severity": [1, 5]}]
    )
    figure = to_array(corruption_gallery([(suite, image)]))
    shown = (np.broadcast_to(image[0].numpy().T[..., None], (SIDE, SIDE, 3)) * 255).astype(np.uint8)
    np.testing.assert_array_equal(_picture(figure, 0, 0), shown)
    np.testing.assert_allclose(_picture(figure, 0, 2), 255 - shown, atol=1)
    assert figure.shape == (TOP + STEP, LEFT + 6 * STEP, 3)
    assert (figure[:, :LEFT] < 128).any(), "no label"
    assert (figure[:TOP, LEFT:] < 128).any(), "no headings"


def test_those_without_severities_fill_strips() -> None:
    figure = to_array(corruption_gallery([(CorruptionSuite.unoranic(), colour_image(SIDE))]))
    assert figure.shape[0] == TOP + 2 * STEP
    inverted = _picture(figure, 0, 5)
    expected = (1 - colour_image(SIDE)).permute(2, 1, 0).numpy() * 255
    # The lower part is under the name.
    np.testing.assert_allclose(inverted[:60], expected[:60], atol=1)


@pytest.fixture
def _no_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual subject takes seconds to grow."""
    monkeypatch.setattr("tools.corruption_gallery.brain_image", lambda size=32: torch.zeros(1, size, size))


@pytest.mark.usefixtures("_no_brain")
def test_all_families_are_there() -> None:
    parts = every_corruption(16)
    cases = [case for suite, _ in parts for case in suite.cases]
    assert {case.family for case in cases} == {"imagenet_c", "medmnist_c", "mr", "geometry", "unoranic"}
    names = [case.name for case in cases if case.family == "medmnist_c" and case.severity == 1]
    assert len(names) == len(set(names)) == 21
    colours = [case.name for suite, image in parts if len(image) == 3 for case in suite.cases]
    assert {"saturate", "colour_jitter", "bubble", "stain_deposit"} <= set(colours)


@pytest.mark.usefixtures("_no_brain")
def test_the_command_draws_a_suite_file(tmp_path: Path) -> None:
    from PIL import Image

    path, output = tmp_path / "suite.json", tmp_path / "suite.png"
    CorruptionSuite("s", 0, [{"family": "mr", "name": "rician", "severity": [1, 2]}]).to_json(path)
    main(["--suite", str(path), "--output", str(output)])
    with Image.open(output) as picture:
        assert picture.size == (LEFT + 6 * STEP, TOP + STEP)


def test_images_that_cannot_be_shown_are_told() -> None:
    with pytest.raises(ImageShapeError, match=r"\(2, 8, 8\)"):
        corruption_gallery([(CorruptionSuite.unoranic(), torch.zeros(2, 8, 8))])
