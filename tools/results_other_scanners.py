"""RA and its controls trained on two data sets with random scanners, and what lights up in healthy heads.

    ROBUSTMED_DATA=... python tools/results_other_scanners.py [--output out/...]

Trains the compact networks of RA, SI-VAE, VAE and AE on IXI and OASIS with the overlay `scanners`, one seed,
and compares RA with the shipped one, of IXI alone, on drawn lesions and on gliomas (tables `scanners`,
`scanners_lgg`); the others, with their own map and with RA's, are in `scanners_controls` and
`scanners_lgg_controls`. The table `other_scanners`, of RA and the memory: the share of the brain above the
threshold that 5 % of the pixels of healthy validation images pass, in 58 held-back slices of IXI (`ixi`) and
in the 16 heads of `heads_2mm`, aligned (`heads`, 7 slices each); `heads_slices`: the share of those slices
where it is more than three times the mean of IXI's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.inferers import MemoryInferer
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.metrics.feature_memory import load_memory
from robustmed_monai.metrics.result import Result, summarize
from robustmed_monai.transforms import (
    AlignToTemplate,
    AlignToTemplated,
    LoadCheckedImaged,
    ScaleForegroundd,
    VolumeToSlicesd,
)
from robustmed_monai.transforms.brain_only import template_brain
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_info
from tools.results_common import keep, log, options
from tools.results_maps import RA_WEIGHTS as SHIPPED
from tools.results_maps import SPACING, ra_detector
from tools.results_maps import WEIGHTS as MEMORY
from tools.results_memory import prepare
from tools.results_ra import evaluate, train_all

RANDOM = "RA, IXI and OASIS, random scanners"
HEIGHTS, STEP, MARGIN = (18.0, 30.0), 2.0, 4.0
EPOCHS = 30
Detector = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def detectors(trained: str) -> dict[str, tuple[Detector, float]]:
    """Rows: detector and threshold."""
    ra = {"RA, IXI": SHIPPED, RANDOM: trained}
    found = {row: (ra_detector(file), file) for row, file in ra.items()}
    found["feature memory"] = (load_memory(MEMORY, MemoryInferer()), MEMORY)
    return {
        row: (d, load_info(file)["calibration"]["thresholds"]["0.05"]) for row, (d, file) in found.items()
    }


def held_back(folder: Path) -> list[torch.Tensor]:
    """Healthy test slices of IXI, (1, 1, X, Y) each, as the tables read them."""
    cut = VolumeToSlicesd("image", size=128, spacing=SPACING)
    read = Compose([LoadCheckedImaged("image", channels=1), ScaleForegroundd("image", percentile=99.5), cut])
    healthy = [item for item in load_datalist(str(folder), "test") if item["healthy"]]
    return [torch.as_tensor(read({"image": item["image"]})["image"]).movedim(-1, 0) for item in healthy]


def aligned(files: list[Path]) -> list[torch.Tensor]:
    """Heads as slices (S, 1, X, Y) in the frame, by the steps of the overlay `whole_head`."""
    align = AlignToTemplated("image", 128, SPACING, HEIGHTS, STEP, on_failure="warn")
    read = Compose(
        [LoadCheckedImaged("image", channels=1), align, ScaleForegroundd("image", percentile=90.0)]
    )
    return [torch.as_tensor(read({"image": str(file)})["image"]).movedim(-1, 0) for file in files]


def shares(
    detector: Detector, threshold: float, images: list[torch.Tensor], brain: torch.Tensor
) -> torch.Tensor:
    """Share of the brain (S, 1, X, Y) above the threshold, (images, S)."""
    with torch.no_grad():
        maps = torch.stack([detector(image)["anomaly_map"] for image in images])
    return ((maps > threshold) & brain).flatten(2).sum(2) / brain.flatten(1).sum(1)


def measured(trained: str, slices: list[torch.Tensor], heads: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Rows of the table."""
    align = AlignToTemplate(128, SPACING, HEIGHTS, STEP)
    brain = template_brain(align.shape, align.affine, MARGIN).movedim(-1, 0)[:, None]
    middle = brain[len(brain) // 2][None]
    found = {}
    for row, (detector, threshold) in detectors(trained).items():
        own, others = (shares(detector, threshold, x, b) for x, b in ((slices, middle), (heads, brain)))
        many = (others > 3 * own.mean()).float()
        columns = {"ixi": own, "heads": others, "heads_slices": many}
        found[row] = [Result({k: bootstrap_mean(v.mean(1)) for k, v in columns.items()})]
    return summarize(found)


def main() -> None:
    """Run all steps."""
    chosen = options("ra", __doc__)
    data = prepare(chosen.source, chosen.output, ("ixi", "frame", "lgg"))
    schedule: dict[str, Any] = {"amp": True, "max_epochs": EPOCHS, "val_interval": 4}
    controls = train_all("frame", ["ixi", "scanners"], data["frame"], [0], chosen.output, **schedule)
    trained = controls.pop("RA")
    weights = {"RA, IXI": [SHIPPED], RANDOM: trained}
    for table, test in (("scanners", "ixi"), ("scanners_lgg", "lgg")):
        places = {"dataset_dir": data["ixi"], "test_dir": data[test], "seeds": [0]}
        evaluate(table, [], weights, chosen.output, **places)
        evaluate(f"{table}_controls", [], controls, chosen.output, controls="{}", **places)
    files = sorted((chosen.source / "heads_2mm/t1").glob("*.nii.gz"))
    made = measured(trained[0], held_back(data["ixi"]), aligned(files))
    digests = [{"name": "heads_2mm", "sha256": data_digest(files), "split": "test"}]
    path = write_results(chosen.output / "other_scanners.json", made, provenance(data=digests))
    keep("ra", path)
    log.info("wrote %s", path)


if __name__ == "__main__":
    main()
