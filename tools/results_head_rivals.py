"""The rivals of the table of whole heads registered across contrasts, on the first of the same pairs.

    ROBUSTMED_DATA=... python tools/results_head_rivals.py [--pairs 10] [--long_pairs 2] [--seconds 27]

T1 of one person to FLAIR of another, measured as ``results_head_registration.py`` does. SimpleITK's methods
as its users take them, the heads aligned to each other before, and stopped when they had the CPU seconds
that ours needs. B-splines, which would like more, once more with a number of evaluations that is bounded on
each of their two coarse grids, and no clock: about three times the seconds. SimpleITK has no demons of
mutual information: they compare intensities, after those of the T1 were matched to the FLAIR's histogram.
Six pairs and two of the longer row take some 15 CPU minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.transforms.alignment import to_itk
from robustmed_monai.transforms.field_files import PICTURE_AFFINE
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log
from tools.results_head_registration import (
    SOURCE,
    Method,
    chosen_pairs,
    largest,
    measure,
    people,
    rows,
    timed,
    unmoved,
)
from tools.results_head_registration import methods as ours

# What the table says of its intervals: the pairs are too few to draw their people.
INTERVAL = {"interval": "bootstrap interval over pairs, which share people"}
# Coarse to fine: the share of the time, and by how much demons shrink the images.
LEVELS = ((4, 0.35), (2, 0.65))
# B-splines: intervals of the grid (37 and 22 mm) on images shrunk by 4. With finer grids an evaluation takes
# many seconds, since Mattes' measure keeps a histogram for each parameter.
GRIDS, SHRINK = (6, 10), 4
# Evaluations by which the cost of one is known, and those of a grid without a clock (about 0.4 and 1 s each);
# iterations of demons, beyond which they hardly move.
TRIAL, EVALUATIONS, ITERATIONS = 4, 60, 200
Image = Any


def to_images(*heads: torch.Tensor) -> list[Image]:
    """SimpleITK images of heads (1, 1, *S), whose points are their voxels."""
    return [to_itk(head[0, 0].numpy(), PICTURE_AFFINE) for head in heads]


def to_field(transform: Any, image: Image) -> torch.Tensor:
    """Displacement (1, 3, *S) in voxels of a transform on the grid of an image."""
    import SimpleITK

    field = SimpleITK.TransformToDisplacementField(transform, SimpleITK.sitkVectorFloat64, image.GetSize())
    return torch.from_numpy(SimpleITK.GetArrayFromImage(field).T.astype(np.float32))[None]


def b_splines(moving: torch.Tensor, fixed: torch.Tensor, seconds: float | None = None) -> torch.Tensor:
    """Mattes' mutual information of all voxels at a quarter of the resolution, on two grids.

    ``seconds``: CPU seconds of both; None: ``EVALUATIONS`` on each.
    """
    import SimpleITK

    source, target = to_images(moving, fixed)
    whole, end = SimpleITK.CompositeTransform(3), time.process_time()
    for intervals, (_, share) in zip(GRIDS, LEVELS, strict=True):
        so_far = SimpleITK.Resample(source, target, whole, SimpleITK.sitkLinear)
        step = partial(spline_level, target, so_far, intervals)
        end += share * (seconds or 0)
        whole.AddTransform(step(EVALUATIONS if seconds is None else affordable(step, end)))
    return to_field(whole, target)


def affordable(step: Callable[[int], Any], end: float) -> int:
    """How many evaluations fit before the process has had its CPU seconds: L-BFGS-B cannot be stopped."""
    taken = []
    for evaluations in (1, TRIAL):
        start = time.process_time()
        step(evaluations)
        taken.append(time.process_time() - start)
    each = max(taken[1] - taken[0], 1e-3) / (TRIAL - 1)
    return max(1, 1 + int((end - time.process_time() - taken[0]) / each))


def spline_level(target: Image, source: Image, intervals: int, evaluations: int) -> Any:
    """A B-spline transform from L-BFGS-B with a number of evaluations of the measure."""
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(24)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsLBFGSB(1e-5, evaluations, 5, evaluations, 1e7)
    method.SetShrinkFactorsPerLevel([SHRINK])
    method.SetSmoothingSigmasPerLevel([SHRINK / 2])
    start = SimpleITK.BSplineTransformInitializer(target, [intervals] * 3, 3)
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(target, source)


def demons(moving: torch.Tensor, fixed: torch.Tensor, seconds: float) -> torch.Tensor:
    """Symmetric demons at a quarter and at half of the resolution, after histogram matching."""
    import SimpleITK

    source, target = to_images(moving, fixed)
    source = SimpleITK.HistogramMatching(source, target, 256, 16, True)
    field, end = None, time.process_time()
    for shrink, share in LEVELS:
        end += share * seconds
        small = [
            SimpleITK.Shrink(SimpleITK.SmoothingRecursiveGaussian(image, shrink / 2), [shrink] * 3)
            for image in (target, source)
        ]
        method = SimpleITK.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfThreads(1)
        method.SetNumberOfIterations(ITERATIONS)
        method.SetSmoothDisplacementField(True)
        method.SetStandardDeviations(1.5)
        method.AddCommand(SimpleITK.sitkIterationEvent, partial(stop_after, method, end))
        if field is not None:
            small.append(SimpleITK.Resample(field, small[0], SimpleITK.Transform(), SimpleITK.sitkLinear))
        field = method.Execute(*small)
    full = SimpleITK.Resample(field, target, SimpleITK.Transform(), SimpleITK.sitkLinear)
    return torch.from_numpy(SimpleITK.GetArrayFromImage(full).T.astype(np.float32).copy())[None]


def stop_after(filter_: Any, end: float) -> None:
    """End a filter when the process has had its CPU seconds."""
    if time.process_time() > end:
        filter_.StopRegistration()


def methods(pairs: int, long_pairs: int, seconds: float) -> dict[str, tuple[Method, str, int]]:
    """What is compared, where it starts, and on how many of the pairs."""
    splines = "B-splines, mutual information (SimpleITK)"
    short = {
        f"demons, matched intensities (SimpleITK), {seconds:g} s": partial(demons, seconds=seconds),
        f"{splines}, {seconds:g} s": partial(b_splines, seconds=seconds),
    }
    return {
        "as the scanners placed them": (unmoved, "scanner", pairs),
        **{row: (*how, pairs) for row, how in ours().items()},
        **{row: (timed(method), "pair", pairs) for row, method in short.items()},
        f"{splines}, {EVALUATIONS} evaluations a grid": (timed(b_splines), "pair", long_pairs),
    }


def main() -> None:
    """Register, measure, write ``heads_rivals.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--long_pairs", type=int, default=2, help="of B-splines without a clock")
    parser.add_argument("--seconds", type=float, default=27.0, help="CPU seconds of a pair")
    parser.add_argument("--output", type=Path, default=Path("out/cifl_registration/results"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names, table = people(), []
    pairs, regions = chosen_pairs(names, chosen.pairs), largest(tuple(names))
    found: dict[str, list[dict[str, float]]] = {}
    for row, (method, start, count) in methods(chosen.pairs, chosen.long_pairs, chosen.seconds).items():
        cases = found[row] = []
        for moving, fixed in pairs[:count]:
            cases.append(measure(method, moving, fixed, regions, start))
            log.info("%s %s to %s %s", row, moving, fixed, {k: round(v, 4) for k, v in cases[-1].items()})
        table += rows(row, cases) if cases else []
    if chosen.long_pairs:
        best = "Gauss-Newton on MIND-SSC and tissues"
        table += rows(f"{best}; the pairs of the row above", found[best][: chosen.long_pairs])
    data = [{"name": "heads_2mm", "sha256": data_digest(SOURCE), "split": "test"}]
    head = provenance(data=data, seeds=[0]) | INTERVAL
    path = write_results(chosen.output / "heads_rivals.json", table, head)
    keep("cifl_registration", path)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
