"""What is done to the images: the same bits from a file, by any batch, and labels that go along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flip, Rotate90

from robustmed_monai.apps.stress import StressData, make_suite, tensor_data
from robustmed_monai.apps.stress.suites import CLEAN, SUITES, condition_text, explain, stressed
from robustmed_monai.apps.stress.views import read_views
from robustmed_monai.transforms.corruption.orientation import (
    ORIENTATION,
    orientation,
    orientation_affine,
)
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.errors import ConfigError


def _volumes(count: int = 2) -> StressData:
    images = torch.rand(count, 1, 12, 12, 9, generator=torch.Generator().manual_seed(1))
    labels = (images > 0.5).long() + (images > 0.8).long() + (images > 0.9).long()
    return tensor_data(images, labels, "volumes", num_classes=4)


def test_severity_0_and_clean_change_no_bit(data: StressData) -> None:
    (views,) = data.batches(100)
    for family, name in (("imagenet_c", "fog"), ("acquisition", "zoom_in"), ("mr", "motion")):
        suite = CorruptionSuite("zero", 0, [{"family": family, "name": name, "severity": 0}])
        assert torch.equal(stressed(suite, suite.cases[0], views).images, views.images)
    assert stressed(suite, CLEAN, views) is views


def test_a_file_and_any_batch_give_the_same_bits(
    squares: StressData, suite: CorruptionSuite, tmp_path: Path
) -> None:
    suite.to_json(tmp_path / "suite.json")
    again = make_suite([str(tmp_path / "suite.json")], squares)
    for case in suite.cases:
        (whole,) = [stressed(suite, case, views) for views in squares.batches(100)]
        parts = [stressed(again, case, views) for views in squares.batches(5)]
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.truth, torch.cat([part.truth for part in parts]))
        assert not torch.equal(whole.images, squares.sample.images)


def test_an_image_of_8_bits_has_the_same_bits_beside_one_of_16(suite: CorruptionSuite) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), np.uint8))
    given = [
        MetaTensor(pixels[0], meta={"max_value": 255}),
        MetaTensor(pixels[1].float(), meta={"max_value": 4095}),
    ]
    mixed = StressData(
        name="mixed",
        task="classification",
        names=["8 bits", "16 bits"],
        subjects=["8 bits", "16 bits"],
        num_classes=2,
        read=lambda index: (given[index], torch.tensor(index)),
        sha256="",
    )
    for case in suite.cases:
        (alone, _), together = mixed.batches(1), next(iter(mixed.batches(2)))
        bits = stressed(suite, case, together).images[0]
        assert torch.equal(bits, stressed(suite, case, alone).images[0])


@pytest.mark.parametrize("name", ["zoom_in", "zoom_out", "cut_off"])
def test_labels_follow_the_anatomy(squares: StressData, name: str) -> None:
    suite = CorruptionSuite("move", 0, [{"family": "acquisition", "name": name, "severity": 4}])
    (views,) = squares.batches(100)
    moved = stressed(suite, suite.cases[0], views)
    assert not torch.equal(moved.truth, views.truth)
    agree = (moved.images > 0.5) == (moved.truth > 0)
    assert float(agree.double().mean()) > 0.97


def test_labels_follow_rotations_and_flips(squares: StressData) -> None:
    for suite in (CorruptionSuite.geometry([4]), make_suite(["orientation"], squares)):
        for case in suite.cases:
            (views,) = squares.batches(100)
            moved = stressed(suite, case, views)
            if case.name == "contrast_inversion":
                assert torch.equal(moved.truth, views.truth)
            else:
                assert not torch.equal(moved.truth, views.truth)
                assert float(((moved.images > 0.5) == (moved.truth > 0)).double().mean()) > 0.99


@pytest.mark.parametrize("thick", [1, 4])
@pytest.mark.parametrize("name", ORIENTATION)
def test_true_affines_are_monais(name: str, thick: int) -> None:
    affine = torch.tensor(
        [[0, -2.0, 0, 5], [1.5, 0, 0.1, -3], [0, 0.2, 4, 7], [0, 0, 0, 1]], dtype=torch.float64
    )
    image = MetaTensor(torch.rand(1, 6, 9, thick), affine=affine)
    kind, _, what = name.partition("_")
    # MONAI turns from the first axis to the second; as seen, with y downwards, that is clockwise.
    turn: Any = Flip("xyz".index(what)) if kind == "flip" else Rotate90(-(int(what) // 90) % 4)
    theirs: Any = turn(image)
    ours = orientation(name).apply(image.as_tensor()[None], {})[0]
    assert torch.equal(ours, theirs.as_tensor())
    found = orientation_affine(name, affine.numpy(), (6, 9, thick))
    np.testing.assert_allclose(found, theirs.affine.numpy(), atol=1e-9)


def test_headers_lie_or_tell(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 8, 8, 5) * 1000, affine=affine)
    views = read_views(image, torch.zeros(1, 8, 8, 5, dtype=torch.uint8), 0)
    torch.testing.assert_close(views.as_read(0).as_tensor(), image.as_tensor(), atol=1e-3, rtol=0)
    suite = CorruptionSuite(
        "both", 0, [{"family": f, "name": "flip_z"} for f in ("orientation", "orientation_true")]
    )
    lies, tells = (stressed(suite, case, views).as_read(0) for case in suite.cases)
    assert torch.equal(lies.as_tensor(), tells.as_tensor())
    torch.testing.assert_close(lies.affine, affine)
    assert float(tells.affine[2, 2]) == -3
    assert float(tells.affine[2, 3]) == 12


def test_a_quarter_turn_swaps_sides_and_the_header_tells() -> None:
    image = MetaTensor(torch.rand(1, 8, 6, 5), affine=torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0])))
    views = read_views(image, torch.arange(240, dtype=torch.uint8).view(1, 8, 6, 5), 0)
    rows = [{"family": f, "name": "turn_90"} for f in ("orientation", "orientation_true")]
    suite = CorruptionSuite("both", 0, rows)
    lies, tells = (stressed(suite, case, views) for case in suite.cases)
    for turned in (lies, tells):
        assert turned.images.shape == turned.truth.shape == (1, 1, 6, 8, 5)
        assert turned.as_read(0).meta["spatial_shape"].tolist() == [6, 8, 5]
    assert lies.spacing() == [2, 1, 3]
    assert tells.spacing() == [1, 2, 3]


def test_all_suites_can_be_done_to_volumes_with_tissue() -> None:
    volumes = _volumes(1)
    suite = make_suite([name for name in SUITES if name not in ("imagenet_c", "unoranic")], volumes, [5])
    families = {case.family for case in suite.cases}
    assert families == {"mr", "geometry", "acquisition", "orientation", "orientation_true", "labelled"}
    (views,) = volumes.batches(1)
    for case in suite.cases:
        shown = stressed(suite, case, views)
        assert shown.images.shape == views.images.shape
        assert not torch.equal(shown.images, views.images)


def test_what_does_not_fit_is_left_out(squares: StressData) -> None:
    names = {case.name for case in make_suite(["orientation", "acquisition"], squares).cases}
    assert "flip_z" not in names
    assert "thick_slices" not in names
    with pytest.raises(ConfigError, match="nothing of them can be done"):
        make_suite(["labelled"], squares)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["imagenetc"], "Did you mean 'imagenet_c'"),
        (["medmnist_c"], "say of which data set"),
        (["mr", "suite.json"], "a file stands alone"),
    ],
)
def test_unknown_suites_are_refused(squares: StressData, names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_suite(names, squares)


def test_labelled_contrasts_need_labels() -> None:
    suite = CorruptionSuite.labelled([3])
    with pytest.raises(ConfigError, match="is made from labels"):
        suite.apply(torch.rand(2, 1, 8, 8), suite.cases[0])


def test_words(suite: CorruptionSuite) -> None:
    assert condition_text(Case("orientation", "flip_x")).startswith("flip x (stored the wrong way round")
    text = explain(CorruptionSuite.geometry([3]), Case("geometry", "rotation", 3), (1, 8, 8), 0)
    assert "degrees" in text
    assert "20" in text
