from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data.meta_tensor import MetaTensor
from monai.handlers.ignite_metric import IgniteMetricHandler
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from robustmed_monai.metrics import LesionMetric, PixelAnomalyMetric, calibrate_thresholds
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError, NonFiniteImageError


def drawn(rng: np.random.Generator, n: int = 6, size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps with a heavy tail near 0, exact zeros outside, and masks with several regions."""
    x, y = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    maps = rng.gamma(0.3, 1.0, (n, size, size)) * rng.gamma(0.5, 1.0, (n, 1, 1)) * 1e-3
    masks = np.zeros((n, size, size))
    for i in range(n - 1):
        for _ in range(3):
            cx, cy, r = *rng.integers(0, size, 2), rng.integers(1, 6)
            masks[i][(x - cx) ** 2 + (y - cy) ** 2 <= r * r] = 1
    maps = np.where(masks > 0, maps * 30, maps)
    maps[:, :4] = 0
    return torch.from_numpy(maps[:, None]).float(), torch.from_numpy(masks[:, None])


def flat(maps: torch.Tensor, masks: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return masks.numpy().ravel().astype(int), maps.numpy().ravel()


def measured(
    maps: torch.Tensor, masks: torch.Tensor, ignore: torch.Tensor | None = None, **kwargs: int
) -> dict[str, float]:
    metric = PixelAnomalyMetric(**kwargs)
    metric(maps, masks, ignore)
    return metric.aggregate()


def brute_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """Mean overlap of each region over the false positive rate, at every distinct value of the maps."""
    regions = [label(m, np.ones((3, 3))) for m in masks]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        over = maps >= t
        overlaps = [over[i][r == k].mean() for i, (r, n) in enumerate(regions) for k in range(1, n + 1)]
        points.append((over[masks == 0].mean(), float(np.mean(overlaps))))
    fpr, pro = np.array(points).T
    grid = np.union1d(np.linspace(0, limit, 10_001), fpr[fpr <= limit])
    values = np.interp(grid, fpr, pro)
    return float((np.diff(grid) * (values[1:] + values[:-1])).sum() / 2 / limit)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_agrees_with_scikit_learn_at_any_scale(rng: np.random.Generator, scale: float) -> None:
    maps, masks = drawn(rng)
    labels, scores = flat(maps * scale, masks)
    result = measured(maps * scale, masks)
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-4)
    assert result["pixel_prevalence"] == pytest.approx(labels.mean())


def test_is_exact_where_values_are_bin_edges(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng)
    maps = (maps * 20_000).round() / 256
    labels, scores = flat(maps, masks)
    result = measured(maps, masks)
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_best_dice_and_its_threshold_are_those_of_all_thresholds(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng, n=3, size=16)
    labels, scores = flat(maps, masks)
    dice = [f1_score(labels, scores >= t) for t in np.unique(scores)]
    result = measured(maps, masks)
    assert result["pixel_best_dice"] == pytest.approx(max(dice), abs=1e-3)
    # The threshold, applied by the caller, gives that very Dice.
    reached = f1_score(labels, scores >= result["pixel_best_dice_threshold"])
    assert reached == pytest.approx(result["pixel_best_dice"], abs=1e-12)


def test_pro_equals_a_loop_over_regions_and_thresholds(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng, n=3, size=24)
    maps = (maps * 1e6).round() / 256
    expected = brute_pro(maps[:, 0].numpy(), masks[:, 0].numpy())
    assert 0.1 < expected < 0.9
    assert measured(maps, masks)["pixel_pro"] == pytest.approx(expected, abs=1e-4)


def test_every_region_weighs_the_same_in_pro() -> None:
    maps, masks = torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)
    masks[0, 0, 2:12, 2:12] = 1
    masks[0, 0, 15, 15] = 1
    maps[0, 0, 15, 15] = 1
    # The single pixel is found before any false positive; the large region goes with the rest, in one tie.
    expected = np.mean([0.5, 0.5 + 0.5 * 0.3])
    assert measured(maps, masks)["pixel_pro"] == pytest.approx(expected)


def test_a_batch_a_list_and_single_images_count_alike(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng)
    whole = measured(maps, masks)
    singles, listed = PixelAnomalyMetric(), PixelAnomalyMetric()
    for i in range(len(maps)):
        singles(MetaTensor(maps[i : i + 1]), masks[i : i + 1].bool())
    listed(list(maps.double()), list(masks.int()))
    assert singles.aggregate() == pytest.approx(whole, rel=1e-12)
    assert listed.aggregate() == pytest.approx(whole, rel=1e-12)


def test_reset_forgets_and_aggregate_can_be_repeated(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng)
    metric = PixelAnomalyMetric()
    metric(1 / (maps + 1), masks)
    metric.reset()
    metric(maps, masks)
    assert metric.aggregate() == metric.aggregate() == measured(maps, masks)


def test_ignored_pixels_are_as_if_cut_off(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng)
    ignore = torch.zeros_like(masks)
    ignore[..., :20] = 1
    assert measured(maps, masks, ignore) == pytest.approx(measured(maps[..., 20:], masks[..., 20:]))


def test_volumes_count_their_connected_regions_in_3d() -> None:
    maps, masks = torch.zeros(1, 1, 6, 6, 6), torch.zeros(1, 1, 6, 6, 6)
    masks[0, 0, 1:3, 1, 1] = masks[0, 0, 5, 5, 3:] = 1
    maps[0, 0, 1:3, 1, 1] = 1
    assert measured(maps, masks)["pixel_pro"] == pytest.approx(np.mean([0.5, 0.65]))


def test_negative_zero_is_zero() -> None:
    masks = torch.tensor([[[[1, 0]]]])
    assert measured(torch.tensor([[[[-0.0, 0.0]]]]), masks)["pixel_auroc"] == 0.5


@pytest.mark.parametrize("value", [0.0, 0.37])
def test_constant_maps_are_chance(value: float) -> None:
    masks = torch.zeros(2, 1, 10, 10)
    masks[0, 0, :2, :5] = 1
    result = measured(torch.full_like(masks, value), masks)
    assert result["pixel_auroc"] == 0.5
    assert result["pixel_ap"] == result["pixel_prevalence"] == 0.05
    assert result["pixel_best_dice"] == pytest.approx(2 * 0.05 / 1.05)
    assert result["pixel_pro"] == pytest.approx(0.15)


def test_all_healthy_is_nan_but_for_the_prevalence() -> None:
    result = measured(torch.rand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    assert result.pop("pixel_prevalence") == 0
    assert np.isnan(list(result.values())).all()


def test_all_anomalous_has_a_dice_only() -> None:
    result = measured(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    assert (result["pixel_prevalence"], result["pixel_best_dice"]) == (1, 1)
    assert np.isnan([result[k] for k in ("pixel_auroc", "pixel_ap", "pixel_pro")]).all()


def test_without_a_pixel_all_is_nan() -> None:
    assert np.isnan(list(PixelAnomalyMetric().aggregate().values())).all()


@pytest.mark.parametrize(
    ("maps", "masks", "error", "message"),
    [
        (torch.full((1, 1, 2, 2), float("nan")), None, NonFiniteImageError, "map 0: 4 pixels are NaN"),
        (torch.full((1, 1, 2, 2), 1e39, dtype=torch.float64), None, NonFiniteImageError, "infinite"),
        (torch.tensor([[[[0.0]]], [[[-0.1]]]]), None, DataError, "map 1: lowest value -0.1"),
        (torch.ones(1, 2, 4, 4), None, ImageShapeError, r"shape \(2, 4, 4\)"),
        (torch.ones(4, 4), None, ImageShapeError, "give"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5), ImageShapeError, r"mask 0: shape \(1, 4, 5\)"),
        (torch.ones(2, 1, 4, 4), torch.ones(1, 1, 4, 4), ImageShapeError, "mask: 1 images, the maps are 2"),
        (torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), 255), DataError, "use 0 and 1 only"),
    ],
)
def test_bad_input_is_refused(
    maps: torch.Tensor, masks: torch.Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PixelAnomalyMetric()(maps, masks)


@pytest.mark.parametrize("arguments", [{"mantissa_bits": 3}, {"mantissa_bits": 17}, {"pro_limit": 0.0}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        PixelAnomalyMetric(**arguments)


def test_runs_in_an_ignite_engine_through_monais_handler(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng)
    engine = Engine(lambda engine, batch: batch)
    IgniteMetricHandler(PixelAnomalyMetric()).attach(engine, "pixels")
    for _ in range(2):
        state = engine.run([(maps[:4], masks[:4]), (list(maps[4:]), list(masks[4:]))])
        assert state.metrics["pixel_ap"] == pytest.approx(measured(maps, masks)["pixel_ap"])
    torch.testing.assert_close(getattr(state, "metric_details")["pixels"], maps.mean(dim=(1, 2, 3)))  # noqa: B009


MEMORY = """
import re
from pathlib import Path
import torch
from robustmed_monai.metrics import PixelAnomalyMetric
torch.set_num_threads(1)
def peak():  # of getrusage, a child would inherit the peak of its parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
imports = peak()
metric, masks = PixelAnomalyMetric(), torch.zeros(8, 1, 256, 256)
masks[:, :, 100:120, 90:130] = 1
maps = (torch.rand(8, 1, 256, 256, generator=torch.Generator().manual_seed(0)) + 0.2 * masks) ** 4
for i in range(125):
    metric(maps * (1 + 0.001 * i), masks)
print(metric.aggregate()["pixel_ap"], peak() - imports)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak of the memory from Linux's /proc"
)
@pytest.mark.slow
def test_a_thousand_images_of_256_pixels_add_under_150_megabytes() -> None:
    command = [sys.executable, "-c", MEMORY]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ap, added = map(float, output.split())
    assert 0.02 < ap < 1
    # On top of the 890 MB that importing torch and MONAI takes, which no metric can change.
    assert 20 < added < 150


def _share(rank: int, folder: Path, results: Any, maps: torch.Tensor, masks: torch.Tensor) -> None:
    idist.set_local_rank(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = slice(0, 2) if rank == 0 else slice(2, None)
    pixels, lesions = PixelAnomalyMetric(), LesionMetric(threshold=1e-3)
    pixels(maps[own], masks[own])
    lesions(maps[own], masks[own])
    results.put([pixels.aggregate(), pixels.aggregate(), lesions.aggregate(), calibrate_thresholds(pixels)])
    dist.destroy_process_group()


def test_two_processes_add_up_to_one(rng: np.random.Generator, tmp_path: Path) -> None:
    maps, masks = drawn(rng)
    # Forked, because two fresh interpreters would spend ten seconds on imports.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_share, args=(r, tmp_path, results, maps, masks)) for r in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for child in children:
            child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(timeout=60)
    pixels, lesions = PixelAnomalyMetric(), LesionMetric(threshold=1e-3)
    pixels(maps, masks)
    lesions(maps, masks)
    for first, second, third, calibration in found:
        assert first == pytest.approx(pixels.aggregate(), rel=1e-12)
        assert second == first
        assert third == pytest.approx(lesions.aggregate(), rel=1e-12, nan_ok=True)
        assert calibration == calibrate_thresholds(pixels)
