"""The table of whole heads registered across contrasts: T1 of one person to FLAIR of another.

    ROBUSTMED_DATA=... python tools/results_head_registration.py [--pairs 40] [--features]

``--features``: on the features of the network that ``volumes.json`` of ``cifl`` trains, and on MIND-SSC, in
a table of their own (`heads_features`).

Data: ``heads_2mm`` (16 heads, T1, FLAIR, DLMUSE labels of the T1); nothing was trained on it. The settings
of the method were chosen on four other pairs of the same people, ``chance`` on six pairs of sub-01, 05, 09
and 13, none of them among the 40, and on T1 to FLAIR of sub-01, 02, 09 and 13 themselves. Labels of the
fixed person are carried to the FLAIR by a rigid registration of the two images, since some lie more than a
centimetre apart in their common world. Dice is that of the frame's voxels: mean over CSF, grey and white
matter, and over the 20 largest regions. ``seconds`` are CPU seconds of a pair in the frame: descriptors and
tissues included, alignment (3 s a head, 1 s of the pair) not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.networks.head_registration import HeadRegistration
from robustmed_monai.networks.on_features import load_feature_net
from robustmed_monai.transforms import AlignPaird, LoadCheckedImage
from robustmed_monai.transforms.align_to_template import Placement
from robustmed_monai.transforms.alignment import refine_affine, resample_to
from robustmed_monai.transforms.fields import folding, integrate, warp
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log
from tools.results_heads import classes, rigid, shift, tissues

SOURCE = Path(os.environ.get("ROBUSTMED_DATA", ".")) / "heads_2mm"
FRAME = AlignPaird()
AFFINE = FRAME.frame.affine
REGIONS = 20
FEATURES = "bundles/cifl/models/volumes.pt"
# People whose T1 and FLAIR share one world: less than this apart, mm.
APART = 3.0
Array = Any
Method = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor | None, float]]


@cache
def head(name: str, contrast: str) -> tuple[torch.Tensor, Array]:
    """A head in the frame (1, 1, *S), and the matrix from MNI152 to its world."""
    return _carried(name, contrast, None)


@cache
def placed(moving: str, fixed: str, start: str) -> tuple[torch.Tensor, Array]:
    """A T1 in the frame as ``head`` says, or aligned to a FLAIR there ("pair")."""
    if start == "template":
        return head(moving, "t1")
    t1, flair = (head(name, c)[0][0, 0].numpy() for name, c in ((moving, "t1"), (fixed, "flair")))
    return _carried(moving, "t1", refine_affine(t1, flair, AFFINE.numpy()))


@cache
def _placed(name: str, contrast: str) -> tuple[MetaTensor, Placement]:
    return FRAME.place(LoadCheckedImage(channels=1)(str(SOURCE / contrast / f"{name}.nii.gz")))


def _carried(name: str, contrast: str, between: Array | None) -> tuple[torch.Tensor, Array]:
    carried, to_world = FRAME.carried(*_placed(name, contrast), between)
    return carried.as_tensor()[None].float(), to_world


@cache
def t1_to_flair(name: str) -> Array:
    """Matrix from world points of a person's FLAIR to those of the T1."""
    flair, t1 = (nib.load(SOURCE / contrast / f"{name}.nii.gz") for contrast in ("flair", "t1"))
    return rigid(flair, t1)


@cache
def labels(name: str, contrast: str) -> torch.Tensor:
    """DLMUSE's regions of a person in the frame of the T1 or the FLAIR, (1, 1, *S)."""
    to_world = head(name, contrast)[1]
    return _regions(name, t1_to_flair(name) @ to_world if contrast == "flair" else to_world)


def _regions(name: str, to_world: Array) -> torch.Tensor:
    """DLMUSE's regions (1, 1, *S) on the frame's grid, by a matrix from it to the world of the T1."""
    regions: Any = nib.load(SOURCE / "dlmuse" / f"{name}.nii.gz")
    values, shape = np.asarray(regions.dataobj)[None].astype(np.float32), FRAME.frame.shape
    carried = resample_to(values, regions.affine, shape, AFFINE.numpy(), to_world, order=0)
    return torch.from_numpy(carried)[None].long()


@cache
def largest(names: tuple[str, ...]) -> list[int]:
    """The regions with the most voxels over all people."""
    counts = sum(np.bincount(labels(name, "t1").flatten().numpy(), minlength=256) for name in names)
    return [int(k) for k in np.argsort(-np.asarray(counts)[1:])[:REGIONS] + 1]


def dice(found: Array, true: Array, classes: list[int]) -> float:
    """Mean Dice over classes."""
    pairs = [(found == k, true == k) for k in classes]
    return float(np.mean([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]))


def measure(method: Method, moving: str, fixed: str, regions: list[int], start: str) -> dict[str, float]:
    """Figures of one pair, T1 of one person to FLAIR of another.

    ``start``: where the T1 lies at first, in the world of the "scanner", aligned to the "template", or to the
    FLAIR there ("pair").
    """
    target, to_fixed = head(fixed, "flair")
    if start == "scanner":
        source, to_moving = target, to_fixed
    else:
        source, to_moving = placed(moving, fixed, start)
    ddf, seconds = method(source, target)
    field = torch.zeros(1, 3, *FRAME.frame.shape) if ddf is None else ddf
    found = warp(_regions(moving, to_moving), field, "nearest").numpy()
    true = labels(fixed, "flair").numpy()
    of_found, of_true = (tissues(classes(values)) for values in (found, true))
    return {
        "dice_regions": dice(found, true, regions),
        "dice_tissues": dice(of_found, of_true, [1, 2, 3]),
        "folds_percent": 100 * float(folding(field)[0]),
        "seconds": seconds,
    }


def same_person(method: Method, name: str, start: str) -> dict[str, float]:
    """How far the brain of one person moves from T1 to FLAIR, in mm of the world, and as the frames lie."""
    (moving, of_moving), (fixed, of_fixed) = placed(name, name, start), head(name, "flair")
    ddf, _ = method(moving, fixed)
    field = np.zeros((3, *FRAME.frame.shape)) if ddf is None else ddf[0].numpy().astype(float)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in FRAME.frame.shape], indexing="ij"))
    brain = labels(name, "flair")[0, 0].numpy() > 0
    places = (_mapped(of_fixed @ AFFINE.numpy(), voxels), _mapped(of_moving @ AFFINE.numpy(), voxels + field))
    rigidly = _mapped(t1_to_flair(name), places[0])
    return {
        "moved_mm": float(np.linalg.norm(places[1] - places[0], axis=0)[brain].mean()),
        "from_rigid_mm": float(np.linalg.norm(places[1] - rigidly, axis=0)[brain].mean()),
        "rigid_mm": float(np.linalg.norm(rigidly - places[0], axis=0)[brain].mean()),
    }


def _mapped(matrix: Array, points: Array) -> Array:
    moved = np.einsum("ij,j...->i...", matrix[:3, :3], points)
    return moved + matrix[:3, 3].reshape(3, 1, 1, 1)


def rows(
    row: str, cases: list[dict[str, float]], of: list[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Mean and interval of each figure over the cases; ``cases`` says how many there were.

    ``of``: the two people of each case, whom the resamples draw; with so few that one draws no case there is
    no interval. None: each case is drawn by itself.
    """
    made = [{"row": row, "column": "cases", "mean": float(len(cases)), "std": 0.0, "n": 1}]
    for column in cases[0]:
        values = np.array([case[column] for case in cases])
        entry = {"row": row, "column": column, "mean": float(values.mean()), "std": 0.0, "n": 1}
        ends = bootstrap_mean(values, clusters=of).ci95
        made.append({**entry, "ci95": ends} if np.isfinite(ends).all() else entry)
    return made


def people() -> list[str]:
    """Names of all heads."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (SOURCE / "t1").glob("*.nii.gz"))
    if not names:
        sys.exit(f"{SOURCE}: holds no heads; set ROBUSTMED_DATA to the folder of the real images.")
    return names


def chosen_pairs(names: list[str], count: int) -> list[tuple[str, str]]:
    """The first of all pairs (moving, fixed) in a fixed random order."""
    everybody = [(a, b) for a in names for b in names if a != b]
    order = np.random.default_rng(0).permutation(len(everybody))
    return [everybody[i] for i in order[:count]]


def timed(method: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Method:
    """A method that says how many CPU seconds it took."""

    def register(moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, float]:
        start = time.process_time()
        ddf = method(moving, fixed)
        return ddf, time.process_time() - start

    return register


def gauss_newton(*networks: HeadRegistration) -> list[Method]:
    """Ours, of networks that differ in ``chance`` alone.

    A fixed head, member of several pairs, is represented once, a pair is registered once, and their seconds
    count in each.
    """

    def represented(image: torch.Tensor) -> tuple[torch.Tensor, float]:
        start = time.process_time()
        return networks[0].represent(image), time.process_time() - start

    kept = cache(represented)

    @cache
    @torch.no_grad()
    def found(moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, float]:
        (source, first), (target, second) = represented(moving), kept(fixed)
        start = time.process_time()
        velocity = networks[0].velocity(source, target)
        return velocity, first + second + time.process_time() - start

    def register(network: HeadRegistration) -> Method:
        def of_pair(moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, float]:
            velocity, seconds = found(moving, fixed)
            start = time.process_time()
            ddf = integrate(network.believed(velocity), network.integration_steps)
            return ddf, seconds + time.process_time() - start

        return of_pair

    return [register(network) for network in networks]


def unmoved(moving: torch.Tensor, fixed: torch.Tensor) -> tuple[None, float]:
    """An alignment alone."""
    return None, 0.0


def methods() -> dict[str, tuple[Method, str]]:
    """What is compared, and where it starts."""
    ours, all_believed = gauss_newton(HeadRegistration(), HeadRegistration(chance=0))
    (plain,) = gauss_newton(HeadRegistration(tissue_weight=0))
    return {
        "aligned to the template only": (unmoved, "template"),
        "aligned to each other": (unmoved, "pair"),
        "Gauss-Newton on MIND-SSC and tissues": (ours, "pair"),
        "Gauss-Newton on MIND-SSC and tissues, chance 0": (all_believed, "pair"),
        "Gauss-Newton on MIND-SSC": (plain, "pair"),
    }


def on_features() -> dict[str, tuple[Method, str]]:
    """Features of a network beside the descriptor that nobody had to train."""
    (plain,) = gauss_newton(HeadRegistration(tissue_weight=0))
    (learnt,) = gauss_newton(HeadRegistration(tissue_weight=0, features=load_feature_net(FEATURES)))
    return {
        "aligned to each other": (unmoved, "pair"),
        "Gauss-Newton on MIND-SSC": (plain, "pair"),
        "Gauss-Newton on CIFL's features": (learnt, "pair"),
    }


def main() -> None:
    """Register, measure, write ``heads.json``, or ``heads_features.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("out/cifl_registration/results"))
    parser.add_argument("--features", action="store_true")
    chosen = parser.parse_args()
    # One thread, as the seconds say.
    torch.set_num_threads(1)
    names = people()
    pairs = chosen_pairs(names, chosen.pairs)
    regions, table = largest(tuple(names)), []
    for row, (method, start) in (on_features() if chosen.features else methods()).items():
        cases = []
        for moving, fixed in pairs:
            cases.append(measure(method, moving, fixed, regions, start))
            log.info("%s %s to %s %s", row, moving, fixed, {k: round(v, 4) for k, v in cases[-1].items()})
        table += rows(row, cases, pairs)
        if row.startswith(("aligned", "Gauss-Newton on MIND-SSC and")) and not chosen.features:
            alone = [same_person(method, name, start) for name in names if shift(t1_to_flair(name)) < APART]
            log.info("%s same person %s", row, alone)
            table += rows(f"{row}; same person", alone)
    data = [{"name": "heads_2mm", "sha256": data_digest(SOURCE), "split": "test"}]
    path = chosen.output / ("heads_features.json" if chosen.features else "heads.json")
    keep("cifl_registration", write_results(path, table, provenance(data=data, seeds=[0])))


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
