"""Suites: few lines that stand for the same bits everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor

from robustmed_monai.transforms.corruption.core import corrupt
from robustmed_monai.transforms.corruption.geometry import GEOMETRY
from robustmed_monai.transforms.corruption.imagenet_c import IMAGENET_C
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.transforms.corruption.mr import MR_ARTIFACTS
from robustmed_monai.transforms.corruption.suite import (
    Case,
    CorruptedDataset,
    CorruptionSuite,
    detection_set,
)
from robustmed_monai.transforms.corruption.unoranic import UNORANIC, unoranic_chain, unoranic_detection
from robustmed_monai.utils.errors import ConfigError, DataError

NOISE = {"family": "mr", "name": "rician", "severity": [1, 5]}


def _images(count: int, channels: int = 1, size: int = 28) -> Tensor:
    """Made without floating-point functions, so the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    # Four pixels wide blocks and single pixels: something to blur and to code.
    blocks = torch.rand(count, channels, size // 4, size // 4, generator=generator)
    fine = torch.rand(count, channels, size, size, generator=generator)
    return (blocks.repeat_interleave(4, 2).repeat_interleave(4, 3) * 200 + fine * 55).to(torch.uint8)


def suites() -> list[CorruptionSuite]:
    return [
        CorruptionSuite.imagenet_c(),
        CorruptionSuite.mr(),
        CorruptionSuite.geometry(),
        CorruptionSuite.unoranic(),
        *(CorruptionSuite.medmnist_c(dataset) for dataset in MEDMNIST_C),
    ]


def digests() -> dict[str, str]:
    """A sha256 of each corruption's draw and images, and of the detection set, with 1 and 2 threads."""
    found, threads = {}, torch.get_num_threads()
    batches = _images(2), _images(2, 3)
    for count in (1, 2):
        torch.set_num_threads(count)
        for case in _one_of_each():
            suite = CorruptionSuite(
                case.name, 0, [{k: v for k, v in case._asdict().items() if v is not None}]
            )
            images = [suite.apply(batch, case) for batch in batches]
            drawn = [
                case.corruption().sample(batch.shape, torch.Generator().manual_seed(1)) for batch in batches
            ]
            found[f"{case}: images, {count} threads"] = _digest(images)
            found[f"{case}: draw, {count} threads"] = _digest(drawn)
        task = detection_set(_images(40, 3), unoranic_detection())
        found[f"detection: images, {count} threads"] = _digest(list(task))
    torch.set_num_threads(threads)
    return found


def _one_of_each() -> list[Case]:
    graded: list[tuple[str, str, str | None]] = [("imagenet_c", name, None) for name in IMAGENET_C]
    graded += [("mr", name, None) for name in MR_ARTIFACTS] + [("geometry", name, None) for name in GEOMETRY]
    datasets = {name: dataset for dataset, names in MEDMNIST_C.items() for name in names}
    graded += [("medmnist_c", name, dataset) for name, dataset in datasets.items()]
    cases = [Case(family, name, 4, dataset) for family, name, dataset in graded]
    return [*cases, *CorruptionSuite.unoranic().cases]


def _digest(content: Any) -> str:
    """Of tensors in lists and dictionaries."""
    if isinstance(content, Tensor):
        return hashlib.sha256(content.contiguous().numpy().tobytes()).hexdigest()
    values = content.values() if isinstance(content, dict) else content
    return hashlib.sha256("".join(map(_digest, values)).encode()).hexdigest()


@pytest.mark.slow
def test_same_bits_with_other_instructions_and_threads() -> None:
    # Other processors are played by forbidding torch, oneDNN and MKL the newer instructions of this one.
    variants = [
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        },
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ]
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__], env={**os.environ, **more}, stdout=subprocess.PIPE
                )
            )
            for more in variants
        ]
        here = digests()
        said = [child.communicate(timeout=300)[0] for child in children]
    assert len(set(here.values())) > len(here) / 4, "corruptions are all alike"
    assert {name for name in here if here[name] != here[name.replace("2 threads", "1 threads")]} == set()
    for found in map(json.loads, said):
        assert {name for name in here if here[name] != found[name]} == set()


@pytest.mark.parametrize(
    "suite",
    [CorruptionSuite.unoranic(seed=3), CorruptionSuite.imagenet_c((2,))],
    ids=lambda suite: suite.name,
)
def test_batch_size_does_not_matter(suite: CorruptionSuite) -> None:
    images = _images(7, 3)
    for case in suite.cases:
        whole = suite.apply(images, case)
        parts = [suite.apply(images[i : i + 3], case, first_index=i) for i in range(0, 7, 3)]
        assert torch.equal(torch.cat(parts), whole), case


def test_index_and_seed_choose_the_draw_and_severity_does_not() -> None:
    suite, other = (CorruptionSuite("noise", seed, [NOISE]) for seed in (0, 1))
    weak, strong = suite.cases
    image = torch.full((1, 1, 28, 28), 0.5)
    first = suite.apply(image, weak, eight_bit=False)
    assert not torch.equal(first, suite.apply(image, weak, first_index=1, eight_bit=False))
    assert not torch.equal(first, other.apply(image, weak, eight_bit=False))
    stronger = suite.apply(image, strong, eight_bit=False)
    both = torch.stack([(first - 0.5).flatten(), (stronger - 0.5).flatten()])
    assert both.corrcoef()[0, 1] > 0.95


def test_results_are_whole_grey_levels_unless_asked_otherwise() -> None:
    suite = CorruptionSuite("noise", 0, [NOISE])
    images = _images(2)
    levels = suite.apply(images, suite.cases[1]) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    exact = suite.apply(images, suite.cases[1], eight_bit=False)
    assert exact.dtype == torch.float32
    assert (exact * 255 - levels).abs().max() < 0.51
    assert (exact * 255 - levels).abs().max() > 0.4


def test_bytes_and_floats_give_the_same() -> None:
    images = _images(2, 3)
    for suite in (CorruptionSuite.unoranic(), CorruptionSuite.mr((3,))):
        for case in suite.cases:
            assert torch.equal(suite.apply(images, case), suite.apply(images / 255, case)), case


def test_a_suite_is_a_file_of_a_few_lines(tmp_path: Path) -> None:
    for suite in suites():
        path = tmp_path / f"{suite.name}.json"
        suite.to_json(path)
        again = CorruptionSuite.from_json(path)
        assert again == suite
        assert again.cases == suite.cases
        assert len(path.read_text().splitlines()) < 45


def test_lists_stand_for_every_pair_in_order() -> None:
    rows: list[dict[str, Any]] = [
        {"family": "mr", "name": ["gibbs", "rician"], "severity": [5, 1]},
        {"family": "medmnist_c", "dataset": "bloodmnist", "name": "bubble", "severity": 2},
        {"family": "unoranic", "name": "invert"},
    ]
    assert list(map(str, CorruptionSuite("mixed", 0, rows).cases)) == [
        "mr/gibbs/5",
        "mr/gibbs/1",
        "mr/rician/5",
        "mr/rician/1",
        "medmnist_c/bloodmnist/bubble/2",
        "unoranic/invert",
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"family": "mri", "name": "gibbs", "severity": 1}, "'mri' is not one of the families"),
        ({"family": "mr", "name": "gibs", "severity": 1}, "gibbs"),
        ({"family": "mr", "name": "gibbs", "severity": 6}, "6"),
        ({"family": "mr", "name": "gibbs", "severity": True}, "whole number"),
        ({"family": "mr", "name": "gibbs", "severity": "1"}, "whole number"),
        ({"family": "mr", "name": "gibbs"}, "no severity"),
        ({"family": "mr", "name": ["gibbs", 3], "severity": 1}, "give texts"),
        ({"family": "mr", "name": [], "severity": 1}, "at least one"),
        ({"family": "mr", "name": "gibbs", "severity": 1, "dataset": "bloodmnist"}, "dataset 'bloodmnist'"),
        ({"family": "medmnist_c", "name": "bubble", "severity": 1}, "dataset None"),
        ({"family": "medmnist_c", "name": "bubble", "severity": 1, "dataset": "blodmnist"}, "bloodmnist"),
        ({"family": "unoranic", "name": "invert", "severity": 1}, "unoranic has none"),
        ({"family": "mr", "nam": "gibbs", "severity": 1}, "mapping with the keys"),
        ({"family": "mr"}, "mapping with the keys"),
        ("gibbs", "mapping with the keys"),
    ],
)
def test_damaged_and_unknown_rows_are_told(row: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"name": "mine", "seed": 0, "rows": [NOISE, row]}))
    with pytest.raises(ConfigError, match=r"suite\.json: mine, row 1: ") as raised:
        CorruptionSuite.from_json(path)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"name": "x", "seed": 0},
        {"name": "x", "seed": 0, "rows": [NOISE], "more": 1},
        {"name": "x", "seed": 0.5, "rows": [NOISE]},
        {"name": 1, "seed": 0, "rows": [NOISE]},
        {"name": "x", "seed": 0, "rows": []},
    ],
)
def test_what_is_no_suite_is_told(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"suite\.json: "):
        CorruptionSuite.from_json(path)


def test_torn_and_missing_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    with pytest.raises(DataError, match="no such file"):
        CorruptionSuite.from_json(path)
    CorruptionSuite.mr().to_json(path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(DataError, match=r"suite\.json: cannot be read as JSON"):
        CorruptionSuite.from_json(path)


def test_foreign_cases_and_data_sets_are_told() -> None:
    with pytest.raises(ConfigError, match=r"'mr/gibbs/4' is not one of .* Did you mean 'mr/gibbs/5'"):
        CorruptionSuite.mr((5,)).apply(_images(1), Case("mr", "gibbs", 4))
    with pytest.raises(ConfigError, match="'pneumoniamnist'"):
        CorruptionSuite.medmnist_c("pneumonia")


@pytest.mark.parametrize("workers", [0, 2])
def test_items_of_a_data_set_are_those_of_the_batch(workers: int) -> None:
    images = _images(5, 3)
    suite = CorruptionSuite.unoranic()
    case = suite.cases[4]
    items = [{"image": image, "label": k} for k, image in enumerate(images)]
    loader = DataLoader(CorruptedDataset(Dataset(items), suite, case), batch_size=2, num_workers=workers)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), suite.apply(images, case))
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]


def test_arrays_of_a_data_set_stay_arrays_and_the_last_item_may_be_minus_1() -> None:
    suite = CorruptionSuite.unoranic()
    corrupted = CorruptedDataset([{"image": image.numpy()} for image in _images(3)], suite, suite.cases[0])
    assert isinstance(corrupted[2]["image"], np.ndarray)
    np.testing.assert_array_equal(corrupted[-1]["image"], corrupted[2]["image"])
    assert len(corrupted) == 3


@pytest.mark.parametrize("true", [False, True])
def test_the_header_tells_of_an_orientation_where_the_suite_says_so(true: bool) -> None:
    suite = CorruptionSuite.orientation(true)
    case = next(case for case in suite.cases if case.name == "flip_x")
    image = MetaTensor(torch.rand(1, 6, 5, 4))
    found = CorruptedDataset([{"image": image}], suite, case)[0]["image"]
    assert found.affine[0].tolist() == ([-1, 0, 0, 5] if true else [1, 0, 0, 0])


def test_detection_says_what_was_done() -> None:
    images = _images(300)
    found = detection_set(images, unoranic_detection(), seed=1)
    changed = (found.images - images / 255).abs().flatten(1).amax(1) > 1e-6
    # Corruptions near identity may be lost in rounding, and colour has no meaning in grey; clean stays clean.
    assert not changed[found.labels == 0].any()
    assert changed[found.labels == 1].float().mean() > 0.9
    assert torch.equal(found.which >= 0, found.labels == 1)
    assert found.labels.float().mean().item() == pytest.approx(0.5, abs=0.12)
    assert set(found.which.tolist()) == set(range(-1, len(UNORANIC)))
    inverted = found.which == list(UNORANIC).index("invert")
    torch.testing.assert_close(found.images[inverted], 1 - images[inverted] / 255, rtol=0, atol=1e-6)


def test_detection_is_fixed_for_each_index() -> None:
    images, task = _images(9, 3), unoranic_detection()
    whole = detection_set(images, task)
    parts = [detection_set(images[i : i + 4], task, first_index=i) for i in (0, 4, 8)]
    for name in ("images", "labels", "which"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert not torch.equal(detection_set(images, task, seed=1).images, whole.images)


def test_detection_needs_a_choice() -> None:
    with pytest.raises(ConfigError, match="does not choose one"):
        detection_set(_images(9), unoranic_chain())


def test_no_images_stay_none() -> None:
    suite = CorruptionSuite.unoranic()
    assert suite.apply(_images(0), suite.cases[0]).shape == (0, 1, 28, 28)


def test_cases_make_the_corruptions_of_the_families() -> None:
    case = CorruptionSuite.imagenet_c().cases[-1]
    images = _images(1, 3) / 255
    corruption = case.corruption()
    params = corruption.sample(images.shape, torch.Generator().manual_seed(0))
    assert corruption.name == case.name
    assert corrupt(images, corruption, params).shape == images.shape


if __name__ == "__main__":
    sys.stdout.write(json.dumps(digests()))
