"""Maps of the shipped memory (without its outline) and of RA: healthy reference, brain alone, z-score.

    ROBUSTMED_DATA=... python tools/results_maps.py [--datasets feature_memory/ixi ra/lgg ...]

The reference is that of ``calibrate --reference_share``: the mean map of healthy images of the same site, of
other people than those that are tested. IXI: the 44 validation slices, and the test slices with drawn
lesions. LGG: the tumour-free slices of half of the patients, and all slices of the others. The brain is the
template's, 4 mm wider, at +24 mm, the middle of the heights that both know. "times z-score": the map times
the fourth root of the z-score per pixel, of the images that the memory holds; for RA, whose weights are those
of IXI alone, of IXI. The power was chosen for the memory. "outlined" is the memory as it ships.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
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
from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.metrics.feature_memory import load_memory
from robustmed_monai.metrics.ra import Detector, load_detector, measure_detector
from robustmed_monai.metrics.result import Result, summarize
from robustmed_monai.networks import ReversedAutoEncoder
from robustmed_monai.transforms import AlignToTemplate, LoadCheckedImaged, ScaleForegroundd, VolumeToSlicesd
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.brain_only import template_brain
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log, options
from tools.results_memory import prepare

SPACING = 233 / 128
WEIGHTS = "bundles/feature_memory/models/efficientnet_lite0.pt"
RA_WEIGHTS = "bundles/ra/models/model.pt"
TITLES = {"ixi": "drawn lesions", "lgg": "gliomas"}
AS_SHIPPED = "as shipped"
Set = dict[str, torch.Tensor]
Control = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """A detector, what its maps are multiplied by, and whether all ways of ``detectors`` are measured."""

    detector: Detector
    weight: Control | None = None
    all_ways: bool = False


def images_of(folder: Path, section: str) -> SliceDataset:
    """Images of a folder, as the tables read them."""
    keys = ["image", "mask"]
    read = LoadCheckedImaged(keys, channels=1, allow_missing_keys=True)
    mode: Any = ["bilinear", "nearest"]
    cut = VolumeToSlicesd(keys, size=128, spacing=SPACING, mode=mode, allow_missing_keys=True)
    transform = Compose([read, ScaleForegroundd("image", percentile=99.5), cut])
    split = folder.name != "lgg"  # which holds a test section alone
    return SliceDataset(load_datalist(str(folder), section, split=split), transform)


def maps_of(folder: Path, section: str, row: Row) -> Set:
    """Maps of a row as `image`, with what is known of the images."""
    images = images_of(folder, section)
    found = [images[i] for i in range(len(images))]
    known = [key for key in ("mask", "healthy", "subject") if key in found[0]]
    data: Set = {key: torch.stack([torch.as_tensor(item[key]) for item in found]) for key in known}
    shown = torch.stack([torch.as_tensor(item["image"]) for item in found]).float()
    with torch.no_grad():
        maps = torch.cat([row.detector(part)["anomaly_map"] for part in shown.split(16)])
        if row.weight is not None:
            maps = maps * torch.cat([row.weight(part) for part in shown.split(16)])
    return {**data, "image": maps}


def z_score(folder: Path) -> Control:
    """A power of the z-score per pixel, of the training images of a folder; chosen as the other side was."""
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


def sets(row: Row, folder: Path) -> tuple[Set, Set]:
    """Maps of healthy images of a site, and of those that are tested."""
    tested = maps_of(folder, "test", row)
    return (maps_of(folder, "validation", row), tested) if folder.name == "ixi" else half_of(tested)


def as_shipped(maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps as they are."""
    return {"anomaly_map": maps}


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
        AS_SHIPPED: as_shipped,
        "healthy reference": lambda maps: {"anomaly_map": relative(maps)},
        "inside of the brain": lambda maps: {"anomaly_map": maps * brain},
        "both": lambda maps: {"anomaly_map": relative(maps) * brain},
    }


def _relative(applied: ReferencedInferer, one: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = applied(one[None, ..., None], lambda stack: stack)["anomaly_map"]
    return found[..., 0]


def measured(row: Row, folder: Path) -> dict[str, Result]:
    """Figures by way of ``detectors``: as shipped, and of the others where the row has them."""
    healthy, tested = sets(row, folder)
    ways = detectors(healthy["image"]) if row.all_ways else {AS_SHIPPED: as_shipped}
    return {name: measure_detector(way, [healthy], [tested]) for name, way in ways.items()}


def ra_detector(weights: str = RA_WEIGHTS, **settings: Any) -> Detector:
    """RA's compact network with its map, or that of other settings of ``AnomalyMapInferer``."""
    network = ReversedAutoEncoder(1, 128, (8, 16, 32, 64, 64), 128, "batch")
    return load_detector(weights, network, AnomalyMapInferer(**settings))


def of_memory(data: dict[str, Path]) -> dict[str, Row]:
    """Rows of the memory."""
    memory = load_memory(WEIGHTS, MemoryInferer(), outline=0.0)
    one_side = load_memory(WEIGHTS, MemoryInferer(), other_side=0.0, outline=0.0)
    return {
        "": Row(memory, all_ways=True),
        "without the other side": Row(one_side),
        "outlined": Row(load_memory(WEIGHTS, MemoryInferer())),
        "times z-score": Row(memory, z_score(data["frame"])),
    }


def of_ra(data: dict[str, Path]) -> dict[str, Row]:
    """Rows of RA: its own map, and the residual."""
    ra, residual = ra_detector(), ra_detector(equalize=False, perceptual="none")
    return {
        "": Row(ra, all_ways=True),
        "times z-score": Row(ra, z_score(data["ixi"])),
        "residual": Row(residual, all_ways=True),
    }


BUNDLES = {"feature_memory": of_memory, "ra": of_ra}


def main() -> None:
    """Run all steps."""
    everything = [f"{name}/{site}" for name in BUNDLES for site in TITLES]
    chosen = options("feature_memory", __doc__, everything)
    data = prepare(chosen.source, chosen.output, ("ixi", "frame", "lgg"))
    for name, make in BUNDLES.items():
        sites = [site for site in TITLES if f"{name}/{site}" in chosen.datasets]
        rows = make(data) if sites else {}
        made: list[dict[str, Any]] = []
        digests = []
        for site in sites:
            for row, settings in rows.items():
                for way, found in measured(settings, data[site]).items():
                    words = [TITLES[site], row, way if way != AS_SHIPPED or not row else ""]
                    made += summarize({", ".join(filter(None, words)): [found]})
            digest = data_digest(sorted((data[site] / "images").glob("*.png")))
            digests.append({"name": site, "sha256": digest, "split": "test"})
        if made:
            path = write_results(chosen.output / name / "maps.json", made, provenance(data=digests))
            keep(name, path)
            log.info("wrote %s", path)


if __name__ == "__main__":
    main()
