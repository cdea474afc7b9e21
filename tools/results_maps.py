"""The shipped memory's maps with a healthy reference, in the brain, without the other side, with a z-score.

    ROBUSTMED_DATA=... python tools/results_maps.py [--datasets ixi lgg]

The reference is that of ``calibrate --reference_share``: the mean map of healthy images of the same site, of
other people than those that are tested. IXI: the 44 validation slices, and the test slices with drawn
lesions. LGG: the tumour-free slices of half of the patients, and all slices of the others. The brain is the
template's, 4 mm wider, at +24 mm, the middle of the heights that the memory knows. "times z-score": the map
times the fourth root of the z-score per pixel, of the images that the memory holds.
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
from robustmed_monai.data.slice_dataset import SliceDataset
from robustmed_monai.data.split import rank_subjects
from robustmed_monai.inferers import MemoryInferer, ReferencedInferer
from robustmed_monai.inferers.controls import ZScoreControl
from robustmed_monai.inferers.healthy_reference import HealthyReference
from robustmed_monai.metrics.feature_memory import load_memory
from robustmed_monai.metrics.ra import measure_detector
from robustmed_monai.metrics.result import summarize
from robustmed_monai.transforms import AlignToTemplate, LoadCheckedImaged, ScaleForegroundd, VolumeToSlicesd
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.brain_only import template_brain
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log, options
from tools.results_memory import prepare

SPACING = 233 / 128
WEIGHTS = "bundles/feature_memory/models/efficientnet_lite0.pt"
Set = dict[str, torch.Tensor]
Control = Callable[[torch.Tensor], torch.Tensor]


def images_of(folder: Path, section: str) -> SliceDataset:
    """Images of a folder, as the tables read them."""
    keys = ["image", "mask"]
    read = LoadCheckedImaged(keys, channels=1, allow_missing_keys=True)
    mode: Any = ["bilinear", "nearest"]
    cut = VolumeToSlicesd(keys, size=128, spacing=SPACING, mode=mode, allow_missing_keys=True)
    transform = Compose([read, ScaleForegroundd("image", percentile=99.5), cut])
    split = folder.name != "lgg"  # which holds a test section alone
    return SliceDataset(load_datalist(str(folder), section, split=split), transform)


def maps_of(
    folder: Path, section: str, other_side: float | None = None, weight: Control | None = None
) -> Set:
    """Maps of the shipped memory as `image`, times ``weight``, with what is known of the images."""
    images = images_of(folder, section)
    memory = load_memory(WEIGHTS, MemoryInferer(), other_side=other_side)
    found = [images[i] for i in range(len(images))]
    known = [key for key in ("mask", "healthy", "subject") if key in found[0]]
    data: Set = {key: torch.stack([torch.as_tensor(item[key]) for item in found]) for key in known}
    shown = torch.stack([torch.as_tensor(item["image"]) for item in found]).float()
    with torch.no_grad():
        maps = torch.cat([memory(part)["anomaly_map"] for part in shown.split(16)])
        if weight is not None:
            maps = maps * torch.cat([weight(part) for part in shown.split(16)])
    return {**data, "image": maps}


def z_score(folder: Path) -> Control:
    """A power of the z-score per pixel, of the images that the memory holds; chosen as the other side was."""
    images = images_of(folder, "training")
    shown = torch.stack([torch.as_tensor(images[i]["image"]) for i in range(len(images))])
    control = ZScoreControl([{"image": shown}])
    return lambda part: control(part)["anomaly_map"] ** 0.25


def half_of(patients: Set) -> tuple[Set, Set]:
    """The healthy slices of half of the patients, and all slices of the others."""
    names = sorted({str(int(number)) for number in patients["subject"]})
    first = set(rank_subjects(names, seed=0)[: len(names) // 2])
    chosen = torch.tensor([str(int(number)) in first for number in patients["subject"]])
    parts = (chosen & patients["healthy"].bool(), ~chosen)
    return tuple({k: v[part] for k, v in patients.items()} for part in parts)  # type: ignore[return-value]


def sets(folder: Path, *settings: Any) -> tuple[Set, Set]:
    """Maps of healthy images of a site, and of those that are tested; settings of ``maps_of``."""
    tested = maps_of(folder, "test", *settings)
    return (maps_of(folder, "validation", *settings), tested) if folder.name == "ixi" else half_of(tested)


def detectors(healthy: torch.Tensor) -> dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]]:
    """Maps (B, 1, X, Y) to the maps of each row."""
    mean = gaussian_blur(healthy.mean(0, keepdim=True), 2.0)[0, 0, ..., None]
    reference = HealthyReference(mean, len(healthy), "", "")
    applied = ReferencedInferer(lambda stack, _: {"anomaly_map": stack}, reference)
    align = AlignToTemplate(128, SPACING, (24.0, 24.0))
    brain = template_brain(align.shape, align.affine, 4.0)[..., 0]

    def relative(maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([_relative(applied, one) for one in maps])

    return {
        "as shipped": lambda maps: {"anomaly_map": maps},
        "healthy reference": lambda maps: {"anomaly_map": relative(maps)},
        "inside of the brain": lambda maps: {"anomaly_map": maps * brain},
        "both": lambda maps: {"anomaly_map": relative(maps) * brain},
    }


def _relative(applied: ReferencedInferer, one: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = applied(one[None, ..., None], lambda stack: stack)["anomaly_map"]
    return found[..., 0]


def measured(title: str, healthy: Set, tested: Set) -> list[dict[str, Any]]:
    """Rows of the table."""
    made: list[dict[str, Any]] = []
    for name, detector in detectors(healthy["image"]).items():
        found = measure_detector(detector, [healthy], [tested])
        made += summarize({f"{title}, {name}": [found]})
    return made


def main() -> None:
    """Run all steps."""
    chosen = options("feature_memory", __doc__, ("ixi", "lgg"))
    data = prepare(chosen.source, chosen.output, ("ixi", "frame", *chosen.datasets))
    variants = {"without the other side": (0.0,), "times z-score": (None, z_score(data["frame"]))}
    made, digests = [], []
    for site in chosen.datasets:
        title = "drawn lesions" if site == "ixi" else "gliomas"
        made += measured(title, *sets(data[site]))
        for name, settings in variants.items():
            healthy, tested = sets(data[site], *settings)
            found = measure_detector(lambda maps: {"anomaly_map": maps}, [healthy], [tested])
            made += summarize({f"{title}, {name}": [found]})
        digest = data_digest(sorted((data[site] / "images").glob("*.png")))
        digests.append({"name": site, "sha256": digest, "split": "test"})
    path = write_results(chosen.output / "maps.json", made, provenance(data=digests))
    keep("feature_memory", path)
    log.info("wrote %s", path)


if __name__ == "__main__":
    main()
