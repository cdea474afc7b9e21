"""How aligned heads of several contrasts are told apart, and how many are refused by that check alone.

    ROBUSTMED_DATA=... python tools/results_contrast.py [--patients 24]

Each image is aligned and scaled as `whole_head` of RA and pchVAE do it, and looked at twice: as the weights
of RA know their training images (``assessed`` counts images of which any slice is left), and by
``head_contrast``. ``refused`` counts images that lose their verdict by the contrast alone.

Data: ``heads_2mm``, which the check was developed on (all 16 T1 and FLAIR), the stroke patient, a head of
OASIS, virtual subjects and their tissues painted at random levels, and volumes made of the LGG slices: their
pixel size and the distance of their slices are guesses, so that many are not aligned.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import BrainZScored, OODSlicesd, ScaleForeground
from robustmed_monai.transforms.align_to_template import AlignmentWarning, AlignToTemplate, Placement
from robustmed_monai.transforms.contrasts import T2_MEANS
from robustmed_monai.transforms.head_contrast import contrast_doubt, head_contrast, tissue_levels
from robustmed_monai.transforms.tissue_priors import tissue_priors
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log
from tools.results_other_scanners import HEIGHTS, STEP

FRAMES = {
    name: AlignToTemplate(*size, HEIGHTS, STEP, on_failure="warn")
    for name, size in {"ra": (128, 1.8203125), "pchvae": (64, 3.640625)}.items()
}
CLIP = 1.5
VERDICTS = ("T1", "FLAIR", "T2", "unsure")
Head = tuple[str, MetaTensor, Placement | None]


def volume(voxels: Any, affine: Any) -> MetaTensor:
    """A volume (1, X, Y, Z)."""
    plain = torch.from_numpy(np.array(voxels, np.float32)[None]).clamp(min=0)
    return MetaTensor(plain, affine=torch.as_tensor(np.asarray(affine, np.float64)))


def files(source: Path) -> Iterator[Head]:
    """The heads that are files."""
    for name, kind in (("t1", "T1"), ("flair", "FLAIR")):
        for path in sorted((source / "heads_2mm" / name).glob("*.nii.gz")):
            image: Any = nib.load(path)
            yield f"heads, {kind}", volume(image.dataobj, image.affine), None
    for row, name in (
        ("OASIS without skull, T1", "neurite_oasis/aligned_norm"),
        *((f"stroke, {kind}", f"stroke/{kind}") for kind in ("T1", "FLAIR", "T2")),
    ):
        image = nib.load(source / f"{name}.nii.gz")
        yield row, volume(image.dataobj, image.affine), None


def virtual(count: int) -> Iterator[Head]:
    """Virtual subjects as T1 with a random gamma, inverted, and painted; their place is known."""
    inverse = torch.linalg.inv(torch.from_numpy(AFFINE))
    for index in range(count):
        rng = np.random.default_rng([11, index])
        subject = virtual_subject(11, index)
        place = Placement(subject.image.shape, inverse @ FRAMES["ra"].affine)
        image = subject.image ** rng.uniform(0.7, 1.4)
        t2 = [rng.uniform(*ends) for ends in T2_MEANS[1:4]]
        white = rng.uniform(0.4, 0.7)
        flair = [rng.uniform(0, 0.2), white * rng.uniform(1.05, 1.3), white]
        painted = {"T2": t2, "FLAIR": flair}
        yield "virtual, T1", volume(image, AFFINE), place
        yield "virtual, inverted T1", volume(np.where(image > 0.05, 1 - image, 0), AFFINE), place
        for kind, means in painted.items():
            noise = 0.02 * rng.standard_normal(image.shape)
            shown = np.where(subject.labels > 0, np.array([0.0, *means])[subject.labels] + noise, 0.8 * image)
            yield f"virtual, painted {kind}", volume(shown, AFFINE), place


def gliomas(source: Path, patients: int) -> Iterator[Head]:
    """Volumes of the LGG slices, T1 where there is one; the geometry is a guess."""
    data = np.load(source / "lgg_mri/lgg_slices_128.npz")
    arrays = {key: data[key] for key in ("t1pre", "flair", "case_index", "slice_number", "pre_is_flair")}
    for case in range(patients):
        chosen = np.nonzero(arrays["case_index"] == case)[0]
        chosen = chosen[np.argsort(arrays["slice_number"][chosen])]
        distance = 6.0 if len(chosen) < 30 else 3.0 if len(chosen) < 50 else 2.2
        affine = np.diag([-1.8, -1.8, distance, 1.0])
        affine[:3, 3] = 115.0, 115.0, -60.0
        for key, kind in (("t1pre", "T1"), ("flair", "FLAIR")):
            if key == "flair" or not arrays["pre_is_flair"][chosen].any():
                yield f"glioma, {kind}", volume(arrays[key][chosen].transpose(2, 1, 0), affine), None


def look(image: MetaTensor, place: Placement | None, check: OODSlicesd, priors: Any) -> dict[str, float]:
    """Figures of one head."""
    frame = FRAMES["ra"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)
        where: Any = place or frame.place(image)
    if where.matrix is None:
        return {"images": 1}
    stack = ScaleForeground(90.0)(frame(image, where))
    levels = tissue_levels(np.asarray(stack)[0], priors)
    verdict = (None if levels is None else head_contrast(levels)) or "unsure"
    left = bool(check({"image": stack})["assessed_slices"])
    doubt = contrast_doubt(stack, "T1")
    refused = left and doubt is not None and doubt.sure
    small = FRAMES["pchvae"]
    onward = Placement(where.spatial_shape, where.matrix @ torch.linalg.inv(frame.affine) @ small.affine)
    scaled = BrainZScored("image", CLIP)({"image": ScaleForeground(90.0)(small(image, onward))})["image"]
    other = contrast_doubt(scaled, "T1")
    figures = {"images": 1, "aligned": 1, "assessed": left, "refused": refused}
    figures |= {"refused_pchvae": other is not None and other.sure}
    figures |= {name: name == verdict for name in VERDICTS}
    log.info("   %s %s", levels, figures)
    return {key: float(value) for key, value in figures.items()}


def main() -> None:
    """Look at all heads, write ``contrast.json``."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("out/ra/results"))
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = Path(os.environ["ROBUSTMED_DATA"])
    info = read_json(Path(__file__).parents[1] / "bundles/ra/models/model.json")["info"]
    check = OODSlicesd("image", info["training_statistics"], tolerance=1.5)
    priors = tissue_priors(FRAMES["ra"].shape, FRAMES["ra"].affine)
    counts: dict[str, dict[str, float]] = {}
    for heads in (virtual(chosen.subjects), files(source), gliomas(source, chosen.patients)):
        for row, image, place in heads:
            log.info(row)
            total = counts.setdefault(row, {})
            columns = ("images", "aligned", *VERDICTS, "assessed", "refused", "refused_pchvae")
            found = look(image, place, check, priors)
            counts[row] = {key: total.get(key, 0.0) + found.get(key, 0.0) for key in columns}
    table = [
        {"row": row, "column": column, "mean": value, "std": 0.0, "n": 1}
        for row, found in counts.items()
        for column, value in found.items()
    ]
    names = ("heads_2mm", "stroke", "neurite_oasis", "lgg_mri")
    data = [{"name": n, "sha256": data_digest(source / n), "split": "test"} for n in names]
    keep("ra", write_results(chosen.output / "contrast.json", table, provenance(data=data)))


if __name__ == "__main__":
    main()
