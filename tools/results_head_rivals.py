"""The rivals of the table of whole heads registered across contrasts, on the first of the same pairs.

    ROBUSTMED_DATA=... python tools/results_head_rivals.py [--pairs 10] [--long_pairs 2] [--seconds 27]

T1 of one person to FLAIR of another, measured as ``results_head_registration.py`` does. SimpleITK's methods
as its users take them, both heads aligned to the template before, and stopped when they had the CPU seconds
that ours needs; B-splines once more with ten times of that. SimpleITK has no demons of mutual information:
they compare intensities, after those of the T1 were matched to the FLAIR's histogram.
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
)
from tools.results_head_registration import methods as ours

# Coarse to fine: by how much the images are shrunk, intervals of the B-spline grid (32 and 16 mm), and the
# share of the time.
LEVELS = ((4, 7, 0.35), (2, 14, 0.65))
Image = Any


def to_images(*heads: torch.Tensor) -> list[Image]:
    """SimpleITK images of heads (1, 1, *S), whose points are their voxels."""
    return [to_itk(head[0, 0].numpy(), PICTURE_AFFINE) for head in heads]


def to_field(transform: Any, image: Image) -> torch.Tensor:
    """Displacement (1, 3, *S) in voxels of a transform on the grid of an image."""
    import SimpleITK

    field = SimpleITK.TransformToDisplacementField(transform, SimpleITK.sitkVectorFloat64, image.GetSize())
    return torch.from_numpy(SimpleITK.GetArrayFromImage(field).T.astype(np.float32))[None]


def until(end: float, stop: Callable[[], object]) -> Callable[[], None]:
    """What to call at each iteration, to stop when the process has had its CPU seconds."""
    return lambda: stop() and None if time.process_time() > end else None


def b_splines(moving: torch.Tensor, fixed: torch.Tensor, seconds: float) -> torch.Tensor:
    """Mattes' mutual information of all voxels at a quarter and at half of the resolution."""
    import SimpleITK

    source, target = to_images(moving, fixed)
    whole, end = SimpleITK.CompositeTransform(3), time.process_time()
    for shrink, intervals, share in LEVELS:
        end += share * seconds
        method = SimpleITK.ImageRegistrationMethod()
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsGradientDescentLineSearch(5.0, 1000, 1e-5, 5)
        method.SetShrinkFactorsPerLevel([shrink])
        method.SetSmoothingSigmasPerLevel([shrink / 2])
        start = SimpleITK.BSplineTransformInitializer(target, [intervals] * 3, 3)
        method.SetInitialTransform(start, inPlace=False)
        method.AddCommand(SimpleITK.sitkIterationEvent, until(end, method.StopRegistration))
        so_far = SimpleITK.Resample(source, target, whole, SimpleITK.sitkLinear)
        whole.AddTransform(method.Execute(target, so_far))
    return to_field(whole, target)


def demons(moving: torch.Tensor, fixed: torch.Tensor, seconds: float) -> torch.Tensor:
    """Symmetric demons at a quarter and at half of the resolution, after histogram matching."""
    import SimpleITK

    source, target = to_images(moving, fixed)
    source = SimpleITK.HistogramMatching(source, target, 256, 16, True)
    field, end = None, time.process_time()
    for shrink, _, share in LEVELS:
        end += share * seconds
        small = [SimpleITK.Shrink(SimpleITK.SmoothingRecursiveGaussian(image, shrink / 2), [shrink] * 3)
                 for image in (target, source)]  # fmt: skip
        method = SimpleITK.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfThreads(1)
        method.SetNumberOfIterations(200)
        method.SetSmoothDisplacementField(True)
        method.SetStandardDeviations(1.5)
        method.AddCommand(SimpleITK.sitkIterationEvent, until(end, method.Abort))
        if field is not None:
            small.append(SimpleITK.Resample(field, small[0], SimpleITK.Transform(), SimpleITK.sitkLinear))
        field = method.Execute(*small)
    full = SimpleITK.Resample(field, target, SimpleITK.Transform(), SimpleITK.sitkLinear)
    return torch.from_numpy(SimpleITK.GetArrayFromImage(full).T.astype(np.float32).copy())[None]


def methods(pairs: int, long_pairs: int, seconds: float) -> dict[str, tuple[Method | None, int]]:
    """What is compared, and on how many of the pairs; None: the heads as the scanners placed them."""
    splines, long = "B-splines, mutual information (SimpleITK)", 10 * seconds
    return {
        "as the scanners placed them": (None, pairs),
        **{row: (method, pairs) for row, method in ours().items()},
        f"demons, matched intensities (SimpleITK), {seconds:g} s": (
            timed(partial(demons, seconds=seconds)),
            pairs,
        ),
        f"{splines}, {seconds:g} s": (timed(partial(b_splines, seconds=seconds)), pairs),
        f"{splines}, {long:g} s": (timed(partial(b_splines, seconds=long)), long_pairs),
    }


def main() -> None:
    """Register, measure, write ``heads_rivals.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--long_pairs", type=int, default=2, help="of B-splines with ten times the time")
    parser.add_argument("--seconds", type=float, default=27.0, help="CPU seconds of a pair")
    parser.add_argument("--output", type=Path, default=Path("out/cifl_registration/results"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names, table = people(), []
    pairs, regions = chosen_pairs(names, chosen.pairs), largest(tuple(names))
    found: dict[str, list[dict[str, float]]] = {}
    for row, (method, count) in methods(chosen.pairs, chosen.long_pairs, chosen.seconds).items():
        cases = found[row] = []
        for moving, fixed in pairs[:count]:
            cases.append(measure(method, moving, fixed, regions))
            log.info("%s %s to %s %s", row, moving, fixed, {k: round(v, 4) for k, v in cases[-1].items()})
        table += rows(row, cases) if cases else []
    if chosen.long_pairs:
        best = "Gauss-Newton on MIND-SSC and tissues"
        table += rows(f"{best}; the pairs of the row above", found[best][: chosen.long_pairs])
    data = [{"name": "heads_2mm", "sha256": data_digest(SOURCE), "split": "test"}]
    path = write_results(chosen.output / "heads_rivals.json", table, provenance(data=data, seeds=[0]))
    keep("cifl_registration", path)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
