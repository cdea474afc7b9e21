"""Whether conformal p-values keep their promise on held-back healthy images: P(p <= a) <= a, site by site.

    ROBUSTMED_DATA=... python tools/results_calibration.py [--datasets ixi oasis heads fastmri]

Of each site some healthy images calibrate the feature memory and others, of other people, are tested; the row
"IXI to oasis" tests the images of one site with the calibration of another, which nothing vouches for. All
images are brought into the frame as at inference, by the overlay `whole_head`. Images that were not assessed
have no p-value and do not count. Of `fastmri` pictures with at most 8 grey values are masks and left out:
four of the 65 hold 0, 254 and 255 alone. The air of the others is grey, so the check of what the weights know
would refuse all of them: they are scored without it. The interval of a share is binomial (Clopper and
Pearson); the chance of the calibration is not in it: with n images a share is spread by about
sqrt(a (1 - a) / n) more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.split import rank_subjects
from robustmed_monai.metrics.conformal import conformal_p_values
from robustmed_monai.utils.files import read_json, write_json
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log, options, run

METHOD = "feature_memory"
SHARES = (0.05, 0.1, 0.2, 0.5)
SITES = ("ixi", "oasis", "heads", "fastmri")
# Of the three slices of each head of OASIS the one nearest to the height of IXI's.
LEVEL = "_slice_22"
# Settings of a site beside those of all.
SETTINGS = {"fastmri": ["--postprocessing#transforms#0#statistics", "null"]}


def images(source: Path, site: str) -> tuple[list[Path], list[Path]]:
    """Healthy images that calibrate, and those that are tested."""
    if site == "ixi":
        train, val = (sorted((source / "ixi_t1_slices" / part).glob("*.png")) for part in ("train", "val"))
        held_back = set(rank_subjects((path.name for path in train), seed=None)[:44])
        return [path for path in train if path.name in held_back], val
    folders = {
        "oasis": "oasis_slices/val/images",
        "fastmri": "fastmri_plus_t1/healthy",
        "heads": "heads_2mm/t1",
    }
    found = [path for path in sorted((source / folders[site]).iterdir()) if path.is_file()]
    if site == "oasis":
        found = [path for path in found if LEVEL in path.name]
    if site == "fastmri":
        found = [path for path in found if is_image(path)]
    order = rank_subjects((path.name for path in found), seed=0)
    first = set(order[: len(order) // 2])
    return [p for p in found if p.name in first], [p for p in found if p.name not in first]


def is_image(path: Path) -> bool:
    """Whether a picture holds more grey values than a mask."""
    from PIL import Image

    return len(np.unique(np.asarray(Image.open(path)))) > 8


def upright(paths: list[Path], folder: Path, site: str) -> list[Path]:
    """The files, or for OASIS, whose noses point to the right, copies that are turned."""
    if site != "oasis":
        return paths
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    turned = [folder / path.name for path in paths]
    for path, target in zip(paths, turned, strict=True):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(target)
    return turned


def scores(command: str, paths: list[Path], folder: Path, settings: Sequence[str] = ()) -> list[float]:
    """What the method gives for the images, those that it assesses."""
    listed = write_json(folder.with_suffix(".json"), {"test": [{"image": str(p.resolve())} for p in paths]})
    words = [command, METHOD, str(listed), "--overlay", "whole_head", "--section", "test"]
    run("-m", "robustmed_monai.cli", *words, "--output_dir", str(folder), "--writer#sheets", "{}", *settings)
    entries = read_json(folder / "summary.json")["images"]
    return [entry["score"] for entry in entries if entry["score"] is not None]


def rows(row: str, healthy: list[float], tested: list[float]) -> list[dict[str, Any]]:
    """The shares of tested images with p <= a."""
    from scipy.stats import binomtest

    p = conformal_p_values(healthy, tested)
    made = [{"row": row, "column": "calibrated_with", "mean": float(len(healthy)), "std": 0.0, "n": 1}]
    made.append({"row": row, "column": "tested", "mean": float(len(tested)), "std": 0.0, "n": 1})
    for share in SHARES:
        below = int((p <= share).sum())
        interval = binomtest(below, len(p)).proportion_ci()
        ends = [float(interval.low), float(interval.high)]
        made.append({"row": row, "column": f"p<={share:g}", "mean": below / len(p), "std": 0.0, "n": 1})
        made[-1]["ci95"] = ends
    return made


def main() -> None:
    """Run all steps."""
    chosen = options("calibration", __doc__, SITES)
    chosen.output.mkdir(parents=True, exist_ok=True)
    known, tested, data = {}, {}, []
    for site in chosen.datasets:
        parts = [upright(p, chosen.output / "turned" / site, site) for p in images(chosen.source, site)]
        more = SETTINGS.get(site, [])
        known[site] = scores("calibrate", parts[0], chosen.output / f"{site}_known", more)
        tested[site] = scores("infer", parts[1], chosen.output / f"{site}_tested", more)
        for split in ("known", "tested"):
            digest = data_digest(parts[split == "tested"])
            data.append({"name": site, "sha256": digest, "split": split})
    made = []
    for site in chosen.datasets:
        made += rows(site, known[site], tested[site])
        if site != "ixi" and "ixi" in known:
            made += rows(f"ixi to {site}", known["ixi"], tested[site])
    head = provenance(data=data) | {"interval": "binomial interval"}
    path = write_results(chosen.output / "calibration.json", made, head)
    keep(METHOD, path)
    log.info("wrote %s", path)


if __name__ == "__main__":
    main()
