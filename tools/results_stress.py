"""Stress tests of the shipped models on real images, by ``apps.stress``.

    ROBUSTMED_DATA=... python tools/results_stress.py [--datasets pneumoniamnist oasis heads ...]

A plain classifier (that of ``bundles/risc``) beside RISC on the test images of PneumoniaMNIST and
RetinaMNIST; ``bundles/cifl_segmentation`` beside the same U-Net on the image itself (``--raw``, a file that
its overlay ``raw.json`` trains) on OASIS slices; its overlay for whole heads on heads that chose none
of its settings; RA's mask of lesions drawn into IXI's slices beside the feature memory's. Reports go to
``out/stress/<data set>``; figures without pictures to ``benchmarks/results/stress_<data set>.json``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.apps.stress import (
    Model,
    StressData,
    bundle_model,
    callable_model,
    datalist_data,
    make_suite,
    medmnist_data,
    stress,
    tensor_data,
)
from robustmed_monai.apps.stress.gates import (
    corruption_gate,
    familiarity_gate,
    p_value_gate,
    reference_images,
    rotation_gate,
)
from robustmed_monai.apps.stress.remedies import plain_remedies, restoration_remedy, rotation_remedy
from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.pairs import tissue_images
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.networks.on_features import load_segmenter
from robustmed_monai.networks.risc import load_risc
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.transforms.rotation import rotate, to_square
from robustmed_monai.utils.bundle import bundles_dir
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.provenance import data_digest, write_results
from tools.results_heads import SEEN, classes

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLES = Path(bundles_dir())
WEIGHTS = {"pneumoniamnist": "model.pt", "retinamnist": "retinamnist.pt"}
CLASSIFIER_SIDE = 32
SUMMARY = ("clean", "mean_over_conditions", "mean_corruption_error", "relative_corruption_error")


class Sized(nn.Module):
    """A network, or an inferer with one, on images brought to its size."""

    def __init__(
        self, network: nn.Module, rotations: int = 4, inferer: RotationCorrectionInferer | None = None
    ) -> None:
        super().__init__()
        self.network, self.rotations, self.inferer = network, rotations, inferer

    def forward(self, images: Tensor) -> Any:
        """Scores of images (B, C, S, S)."""
        small = to_square(images, CLASSIFIER_SIDE)
        if self.inferer is not None:
            return self.inferer(small, self.network)
        # Classifiers for eight rotations learned from images under their filter; for four it is the identity.
        return self.network(rotate(small, 0, self.rotations))


def classifiers(
    dataset: str, data: Path, severities: list[int], limit: int | None, output: Path, suggest: bool
) -> dict[str, Any]:
    """A plain classifier beside RISC."""
    weights = BUNDLES / "risc" / "models" / WEIGHTS[dataset]
    unoranic = BUNDLES / "unoranic" / "models" / f"pca_{dataset}.pt"
    risc = load_risc(weights).eval()
    digest = sha256(weights)
    inferer = RotationCorrectionInferer(risc.rotnet, correction="soft", axes="XY", outputs="logits")
    plain = callable_model(
        Sized(risc.classifier, inferer.num_rotations),
        "plain classifier",
        f"bundles/risc, {weights.name}",
        weights_sha256=digest,
    )
    corrected = callable_model(
        Sized(risc.classifier, inferer.num_rotations, inferer), "RISC", "bundles/risc", weights_sha256=digest
    )
    file = data / "medmnist" / f"{dataset}.npz"
    test, reference = medmnist_data(file, limit=limit), reference_images(medmnist_data(file, "validation"))
    return stress(
        plain,
        test,
        make_suite(["medmnist_c", "geometry", "acquisition", "orientation"], test, severities),
        output,
        baseline=corrected,
        gates={
            "familiarity": familiarity_gate(training_statistics(reference)),
            "p-value": p_value_gate(reference),
            "RISC": rotation_gate(weights),
            "unORANIC": corruption_gate(unoranic),
        },
        remedies=None
        if not suggest
        else {
            **plain_remedies(test),
            "RISC: the rotation undone (RotationCorrectionInferer)": rotation_remedy(weights),
            "unORANIC: corruptions removed (RestorationInferer)": restoration_remedy(unoranic),
        },
    )


def segmenters(
    data: Path,
    raw: Path | None,
    severities: list[int],
    limit: int | None,
    output: Path,
    suggest: bool,
    suites: Sequence[str] | None = None,
) -> dict[str, Any]:
    """CIFL's features beside the image itself."""
    found = tissue_images("test", data, 128, spacing=2.0)
    names = ["background", "CSF", "grey matter", "white matter"]
    step = 1 if limit is None else max(1, len(found) // limit)
    tensors = {name: values[::step] for name, values in found.tensors.items()}
    subjects = [str(s) for s in tensors["subject"].tolist()]
    test = tensor_data(tensors["image"], tensors["label"], "OASIS slices", subjects, 4, names)
    digest = data_digest([item[key] for item in found.data for key in ("image", "label")])
    object.__setattr__(test, "sha256", digest)
    weights = BUNDLES / "cifl_segmentation" / "models" / "model.pt"
    baseline = None if raw is None else _segmenter(raw, "U-Net on the image")
    suites = suites or ["mr", "geometry", "acquisition", "orientation", "labelled"]
    return stress(
        _segmenter(weights, "U-Net on CIFL features"),
        test,
        make_suite(suites, test, severities),
        output,
        baseline=baseline,
        remedies=plain_remedies(test) if suggest else None,
    )


def whole_heads(data: Path, limit: int | None, output: Path) -> dict[str, Any]:
    """T1 heads by the overlay ``whole_head``, under a few strong conditions: each costs 20 s a head."""
    source = data / "heads_2mm"
    paths = [path for path in sorted((source / "t1").glob("*.nii.gz")) if path.name[:6] not in SEEN][:limit]
    load = LoadCheckedImage(channels=1)

    def read(index: int) -> tuple[Any, Tensor]:
        regions = load(source / "dlmuse" / paths[index].name)
        return load(paths[index]), torch.from_numpy(classes(regions.numpy())).to(torch.uint8)

    model = bundle_model(BUNDLES / "cifl_segmentation", "inference,whole_head")
    names = read_json(BUNDLES / "cifl_segmentation" / "configs" / "whole_head.json")["class_names"]
    people = [path.name.partition(".")[0] for path in paths]
    digest = data_digest([source / kind / path.name for path in paths for kind in ("t1", "dlmuse")])
    test = StressData(
        "heads_2mm, T1", "segmentation", people, people, len(names), read, digest, class_names=names
    )
    rows: list[dict[str, Any]] = [
        {"family": "mr", "name": ["bias_field", "rician", "motion"], "severity": [5]},
        {"family": "acquisition", "name": ["cut_off", "thick_slices", "remapping"], "severity": [5]},
        {"family": "geometry", "name": ["rotation", "contrast_inversion"], "severity": [5]},
        {"family": "orientation", "name": ["flip_x", "turn_90"]},
        {"family": "orientation_true", "name": ["turn_90"]},
    ]
    return stress(model, test, CorruptionSuite("few and strong", 0, rows), output, batch_size=1)


def lesions(folder: Path, severities: list[int], limit: int | None, output: Path) -> dict[str, Any]:
    """Masks of drawn lesions by RA's threshold, beside the feature memory's."""
    items = [item for item in load_datalist(folder, "test") if item.get("mask")]
    step = 1 if limit is None else max(1, len(items) // limit)
    chosen = output / "datalist.json"
    write_json(chosen, {"test": items[::step]})
    test = datalist_data(chosen, label_key="mask", class_names=["healthy", "lesion"])
    ra, memory = (
        bundle_model(BUNDLES / name, output_key="anomaly_mask") for name in ("ra", "feature_memory")
    )
    suites = ["mr", "geometry", "acquisition", "orientation"]
    return stress(ra, test, make_suite(suites, test, severities), output, baseline=memory)


def rows_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a results file: every condition, the summary, the gates."""
    main = content["main"]
    rows: list[dict[str, Any]] = []

    def add(row: str, column: str, value: float | None, interval: list[float] | None = None) -> None:
        if value is not None:
            cell = {"row": row, "column": column, "mean": float(value), "std": 0.0, "n": 1}  # one run
            rows.append({**cell, "ci95": interval} if interval and None not in interval else cell)

    for condition in content["conditions"]:
        for who, key in ((content["model"], "figures"), (content["baseline"], "baseline_figures")):
            for name, figure in (condition[key] or {}).items() if who else ():
                add(condition["id"], f"{name} of {who['name']}", figure["mean"], figure["ci95"])
        beside = f"ahead of {content['baseline']['name']}" if content["baseline"] else ""
        for words, key in (("change from clean", "changes"), (beside, "advantages")):
            figure = (condition[key] or {}).get(main)
            if figure is not None:
                add(condition["id"], f"{main} {words}", figure["mean"], figure["ci95"])
        for name, gate in condition["gates"].items():
            add(condition["id"], f"warned by {name}", gate["warned"])
        add(condition["id"], "seconds", condition["seconds"])
    for name in SUMMARY:
        add("summary", f"{name} {main}", content["summary"][name])
    for name, gate in content["summary"]["gates"].items():
        for key, value in gate.items():
            add("summary", f"{key} by {name}", value)
    for found in content["suggestions"]:
        for key in ("gives_back", "as_given"):
            row = f"{key.replace('_', ' ')}, {found['condition']}"
            add(row, found["what"], found[key]["mean"], found[key]["ci95"])
    return rows


def _segmenter(weights: Path, name: str) -> Model:
    network = load_segmenter(weights, 4)
    return callable_model(network, name, "bundles/cifl_segmentation", weights_sha256=sha256(weights))


def main() -> None:
    """Run the tests that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*WEIGHTS, "oasis", "heads", "lesions"]
    parser.add_argument("--datasets", nargs="+", default=list(WEIGHTS), choices=names)
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 3, 5])
    parser.add_argument("--suites", nargs="+", help="of oasis, in place of all that fit")
    parser.add_argument("--limit", type=int, help="evenly spaced images of each test set")
    parser.add_argument(
        "--oasis", type=Path, help="folder that data_prep.oasis_slices wrote (upright slices)"
    )
    parser.add_argument(
        "--lesions", type=Path, help="folder that data_prep.controlled_lesions wrote of ixi_t1_slices"
    )
    parser.add_argument("--raw", type=Path, help="weights of a U-Net on the image, see raw.json")
    parser.add_argument("--no_remedies", action="store_true", help="leave out the wrappers, which cost most")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "out" / "stress")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args()
    for name, module in (("oasis", "oasis_slices"), ("lesions", "controlled_lesions")):
        if name in options.datasets and getattr(options, name) is None:
            parser.error(f"{name} needs --{name}: the folder that `robustmed prepare {module}` wrote.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    data = Path(os.environ["ROBUSTMED_DATA"])
    for dataset in options.datasets:
        output = options.output / dataset
        chosen = (options.severities, options.limit, output)
        if dataset == "oasis":
            content = segmenters(options.oasis, options.raw, *chosen, not options.no_remedies, options.suites)
        elif dataset == "heads":
            content = whole_heads(data, options.limit, output)
        elif dataset == "lesions":
            content = lesions(options.lesions, *chosen)
        else:
            content = classifiers(dataset, data, *chosen, not options.no_remedies)
        head = {k: v for k, v in content["provenance"].items() if k not in ("seed", "suite")}
        path = write_results(options.results / f"stress_{dataset}.json", rows_of(content), head)
        logging.getLogger(__name__).info(f"{path}; report: {output / 'report.html'}")


if __name__ == "__main__":
    main()
