"""Figures of networks and classifiers on corrupted images, one table after the other.

A table is a mapping of row (method) to one mapping of column to figure per run (seed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from robustmed_monai.engines.probe import LinearProbe, extract_features
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.medmnist_c import relative_balanced_error
from robustmed_monai.metrics.reconstruction import reconstruction_metrics
from robustmed_monai.networks.unoranic import AutoEncoder
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.transforms.corruption.suite import CorruptionSuite

Table = dict[str, list[dict[str, float]]]
Classifier = Callable[[torch.Tensor], dict[str, torch.Tensor]]
BATCH = 256


def probed(
    network: nn.Module, rows: Mapping[str, tuple[str, LinearProbe]], device: torch.device | str = "cpu"
) -> Classifier:
    """A classifier of frozen features: images to probabilities (N, K) per row.

    Args:
        network: see ``extract_features``.
        rows: row name to (kind of features, probe).
        device: where the network runs.
    """

    def classify(images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = extract_features(network, images, device, BATCH)
        return {row: probe(features[kind]) for row, (kind, probe) in rows.items()}

    return classify


def supervised(name: str, network: nn.Module, device: torch.device | str = "cpu") -> Classifier:
    """A classifier that was trained as a whole: images to probabilities (N, K) under one row's name."""

    def classify(images: torch.Tensor) -> dict[str, torch.Tensor]:
        network.eval()
        with torch.inference_mode():
            parts = [network(batch.to(device)).float().softmax(1).cpu() for batch in images.split(BATCH)]
        return {name: torch.cat(parts)}

    return classify


def reconstruct_all(
    network: nn.Module, images: torch.Tensor, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Anatomy images and full reconstructions (N, C, X, Y) of images, on the CPU, not clipped."""
    network.eval()
    anatomy, full = [], []
    with torch.inference_mode():
        for batch in images.split(BATCH):
            x = batch.to(device)
            anatomy.append(network(x).float().cpu())
            if not isinstance(network, AutoEncoder):
                full.append(network.reconstruct(x).float().cpu())  # type: ignore[operator]
    # An auto-encoder draws one image only.
    drawn = torch.cat(anatomy)
    return drawn, torch.cat(full) if full else drawn


def reconstruction_figures(
    network: nn.Module, clean: torch.Tensor, corrupted: torch.Tensor, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """PSNR (dB) and SSIM of both images that a network draws, averaged over the images.

    Args:
        network: UNORANIC, AutoEncoder, or what has ``reconstruct``.
        clean: (N, C, X, Y) in [0, 1].
        corrupted: corrupted copies of them.
        device: where the network runs.

    Returns:
        `full_*` (clean image in, full reconstruction against it; the paper's table), `anatomy_*` (clean image
        in, anatomy image against it), `corrupted_full_*` (corrupted image in, full reconstruction against
        it) and `corrupted_anatomy_*` (corrupted image in, anatomy image against the clean one).
    """
    figures: dict[str, float] = {}
    for prefix, given in (("", clean), ("corrupted_", corrupted)):
        anatomy, full = reconstruct_all(network, given, device)
        figures |= _quality(f"{prefix}full", full, given)
        figures |= _quality(f"{prefix}anatomy", anatomy, clean)
    return figures


def _quality(name: str, images: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    found = reconstruction_metrics(images, target)
    return {f"{name}_{k}": float(found[k].mean()) for k in ("psnr", "ssim")}


def pooled_psnr(images: torch.Tensor, target: torch.Tensor) -> float:
    """PSNR (dB) of the mean squared error over all images: finite even where single images are equal.

    This is how the authors measure the revision of corruptions.
    """
    return float(-10 * (images.double() - target.double()).square().mean().clamp_min(1e-20).log10())


def revision_table(
    networks: Mapping[str, Sequence[nn.Module]],
    suite: CorruptionSuite,
    clean: torch.Tensor,
    device: torch.device | str = "cpu",
) -> Table:
    """How much of each corruption is undone: pooled PSNR (dB) against the clean images.

    Args:
        networks: method to its networks, one per seed.
        suite: corruptions without severities; its names are the columns.
        clean: (N, C, X, Y) in [0, 1].
        device: where the networks run.

    Returns:
        Rows "corrupted input" (doing nothing), "<method>, anatomy image" and "<method>, full reconstruction",
        or "<method>" for an auto-encoder, which draws one image only.
    """
    table: Table = {"corrupted input": [{}]}
    for case in tqdm(suite.cases, desc="revision", leave=False, disable=None):
        corrupted = suite.apply(clean, case)
        table["corrupted input"][0][case.name] = pooled_psnr(corrupted, clean)
        for method, runs in networks.items():
            for k, network in enumerate(runs):
                anatomy, full = reconstruct_all(network, corrupted, device)
                drawn = {f"{method}, anatomy image": anatomy, f"{method}, full reconstruction": full}
                for row, images in ({method: anatomy} if full is anatomy else drawn).items():
                    _run(table, row, k)[case.name] = pooled_psnr(images, clean)
    return table


def classification_table(
    classifiers: Sequence[tuple[int, Classifier]], images: torch.Tensor, labels: torch.Tensor
) -> Table:
    """AUC, accuracy and balanced error of classifiers.

    Args:
        classifiers: (number of the run, classifier).
        images: (N, C, X, Y) in [0, 1].
        labels: (N,).
    """
    table: Table = {}
    for k, classify in classifiers:
        for row, probabilities in classify(images).items():
            _run(table, row, k).update(classification_metrics(probabilities, labels.cpu()))
    return table


def detection_table(
    classifiers: Sequence[tuple[int, Classifier]],
    images: torch.Tensor,
    labels: torch.Tensor,
    clean: torch.Tensor,
    suite: CorruptionSuite,
) -> Table:
    """How well corrupted images are told from clean ones, on the whole and per corruption.

    Args:
        classifiers: (number of the run, classifier with classes 0 clean, 1 corrupted).
        images: test images of the task, (N, C, X, Y).
        labels: (N,), 1 where corrupted.
        clean: clean test images.
        suite: corruptions without severities.

    Returns:
        `auc`, `acc` and `balanced_error` on the task, and `auc_<corruption>`: all images with the corruption
        against all images without.
    """
    table = classification_table(classifiers, images, labels)
    apart = torch.cat([torch.zeros(len(clean)), torch.ones(len(clean))]).long()
    before = [classify(clean) for _, classify in classifiers]
    for case in tqdm(suite.cases, desc="detection", leave=False, disable=None):
        corrupted = suite.apply(clean, case)
        for (k, classify), scores in zip(classifiers, before, strict=True):
            for row, probabilities in classify(corrupted).items():
                both = torch.cat([scores[row], probabilities])
                _run(table, row, k)[f"auc_{case.name}"] = classification_metrics(both, apart)["auc"]
    return table


def robustness_table(
    classifiers: Sequence[tuple[int, Classifier]],
    suite: CorruptionSuite,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> Table:
    """Classification under corruptions of rising severity.

    Args:
        classifiers: (number of the run, classifier).
        suite: corruptions with severities.
        images: (N, C, X, Y) in [0, 1], clean.
        labels: (N,).

    Returns:
        `auc_<corruption>_<severity>`, `acc_...` and `balanced_error_...`; `<figure>_<corruption>`, the mean
        over severities; `<figure>_mean`, the mean over corruptions; and for MedMNIST-C `be_<corruption>` and
        `be_mean`, the balanced error divided by AlexNet's.
    """
    table: Table = {}
    for case in tqdm(suite.cases, desc=suite.name, leave=False, disable=None):
        corrupted = suite.apply(images, case)
        for k, classify in classifiers:
            for row, probabilities in classify(corrupted).items():
                found = classification_metrics(probabilities, labels.cpu())
                _run(table, row, k).update({f"{f}_{case.name}_{case.severity}": v for f, v in found.items()})
    for runs in table.values():
        for figures in runs:
            figures |= _means(figures, suite)
    return table


def _means(figures: Mapping[str, float], suite: CorruptionSuite) -> dict[str, float]:
    names = list(dict.fromkeys(case.name for case in suite.cases))
    means: dict[str, float] = {}
    for figure in ("auc", "acc", "balanced_error"):
        for name in names:
            keys = [f"{figure}_{name}_{case.severity}" for case in suite.cases if case.name == name]
            means[f"{figure}_{name}"] = float(np.mean([figures[key] for key in keys]))
        means[f"{figure}_mean"] = float(np.mean([means[f"{figure}_{name}"] for name in names]))
    dataset = suite.cases[0].dataset
    if dataset is not None:
        errors = {name: means[f"balanced_error_{name}"] for name in names}
        relative = relative_balanced_error(dataset, errors)
        means |= {f"be_{name}": value for name, value in relative.items()}
        means["be_mean"] = float(np.mean(list(relative.values())))
    return means


def _run(table: Table, row: str, number: int) -> dict[str, float]:
    runs = table.setdefault(row, [])
    runs += [{} for _ in range(number + 1 - len(runs))]
    return runs[number]


def robustness_suites(
    dataset: str | None, severities: Sequence[int] = (1, 2, 3, 4, 5), seed: int = 0
) -> dict[str, CorruptionSuite]:
    """ImageNet-C as the paper's figure 5 has it, and MedMNIST-C where it names the data set.

    Args:
        dataset: MedMNIST data set or None.
        severities: some of 1 to 5.
        seed: of both draws.
    """
    suites = {"robustness_imagenet_c": CorruptionSuite.imagenet_c(severities, seed, published=True)}
    if dataset in MEDMNIST_C:
        suites["robustness_medmnist_c"] = CorruptionSuite.medmnist_c(dataset, severities, seed)
    return suites


def table_rows(table: Table) -> list[dict[str, Any]]:
    """Rows of a results file: mean, sample standard deviation and number of the runs of every figure."""
    rows = []
    for row, runs in table.items():
        for column in runs[0]:
            values = np.array([run[column] for run in runs if column in run])
            std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            rows.append(
                {"row": row, "column": column, "mean": float(values.mean()), "std": std, "n": len(values)}
            )
    return rows
