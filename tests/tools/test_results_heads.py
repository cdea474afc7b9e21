"""The table of whole heads: DLMUSE's regions as tissues, Dice, how far two images lie apart, rows."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tools import results_heads


def test_regions_become_tissues() -> None:
    regions = np.array([0, 1, 4, 52, 35, 95, 23, 207, 38, 73, 41])
    classes = results_heads.classes(regions)
    np.testing.assert_array_equal(classes, [0, 1, 4, 4, 7, 3, 2, 2, 5, 5, 6])
    np.testing.assert_array_equal(results_heads.tissues(classes), [0, 1, 1, 1, 3, 3, 2, 2, 2, 2, 3])


def test_dice_of_the_brain_does_not_ask_for_the_tissue() -> None:
    found = results_heads.dice(np.array([0, 1, 2, 3, 3]), np.array([0, 2, 1, 3, 0]))
    assert found == {"brain": pytest.approx(6 / 7), "csf": 0.0, "grey": 0.0, "white": pytest.approx(2 / 3)}


def test_the_shift_between_two_images_is_found() -> None:
    noise = gaussian_filter(np.random.default_rng(0).random((40, 40, 40)), 3)
    image = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    affine, moved = np.diag([4.0, 4.0, 4.0, 1.0]), np.diag([4.0, 4.0, 4.0, 1.0])
    moved[:3, 3] = (3.0, -2.0, 11.0)
    matrix = results_heads.rigid(nib.Nifti1Image(image, affine), nib.Nifti1Image(255 - image, moved))
    np.testing.assert_allclose(matrix[:3, 3], moved[:3, 3], atol=0.6)


def test_rows_hold_the_mean_its_interval_and_the_lowest_brain() -> None:
    people = {"a": {"t1_brain": 0.9, "t1_csf": 0.5}, "b": {"t1_brain": 1.0, "t1_csf": 0.7}}
    made = {row["column"]: row for row in results_heads.rows("x", people)}
    assert list(made) == ["t1_brain", "t1_brain_lowest", "t1_csf"]
    assert made["t1_brain"]["mean"] == pytest.approx(0.95)
    assert made["t1_brain"]["ci95"] == pytest.approx([0.9, 1.0])
    assert made["t1_brain_lowest"]["mean"] == 0.9
