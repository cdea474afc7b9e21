"""Evaluation of unORANIC: reconstruction, revision of corruptions, classification and robustness."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from robustmed_monai.data.probe_data import ProbeData
from robustmed_monai.inferers.probe import LinearProbe, extract_features, fit_probes
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.medmnist_c import relative_balanced_error
from robustmed_monai.metrics.reconstruction import reconstruction_metrics
from robustmed_monai.metrics.result import Result
from robustmed_monai.networks.unoranic import AutoEncoder
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.utils.weights import load_into
from robustmed_monai.visualize.grids import evenly_spaced, image_grid, severity_curves

Classifier = Callable[[torch.Tensor], torch.Tensor]
Results = Mapping[str, Sequence[Result]]
BATCH = 256
_SHOWN = 6


def load_network(weights: str, network: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """A network with these weights; the one given is left as it is."""
    return load_into(copy.deepcopy(network), weights).to(device).eval()


def load_revision(
    weights: str, network: nn.Module, image: str = "anatomy", device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images to the "anatomy" image or the "full" reconstruction that a network with these weights draws."""
    loaded = load_network(weights, network, device)
    return lambda images: reconstruct_all(loaded, images, device)[image == "full"]


def with_supervised(
    checkpoints: Mapping[str, Sequence[str]], supervised: Mapping[str, Sequence[str]], task: str
) -> dict[str, Sequence[str]]:
    """Checkpoints of a task's table: those of all, and as `supervised` those of the ResNet-18 of the task."""
    return {**checkpoints, "supervised": supervised.get(task, [])}


class ClassifierLoader:
    """Weights to a classifier, images to probabilities (N, K).

    It is a linear probe on frozen features, or a network that was trained as a whole. The probe of the same
    weights and features is fitted once, also when several tables ask for it.

    Args:
        data: what probes are fitted on.
        network: network of a row that names none.
        features: kind of features of a row that names none.
        device: where the networks run.
    """

    def __init__(
        self,
        data: ProbeData,
        network: nn.Module,
        features: str = "both",
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.network, self.features = data, network, features
        self.device = device
        self._fitted: dict[tuple[str, str], LinearProbe] = {}

    def __call__(
        self, weights: str, network: nn.Module | None = None, features: str | None = ""
    ) -> Classifier:
        """Return the classifier.

        Args:
            weights: weights file.
            network: network of that architecture.
            features: "anatomy", "characteristics" or "both"; None takes the logits of the network itself.
        """
        loaded = load_network(weights, self.network if network is None else network, self.device)
        features = self.features if features == "" else features
        if features is None:
            return whole_network(loaded, self.device)
        if (weights, features) not in self._fitted:
            probes = fit_probes(loaded, self.data, [features], self.device)
            self._fitted[weights, features] = probes[features]
        return probed(loaded, features, self._fitted[weights, features], self.device)


def probed(
    network: nn.Module, features: str, probe: LinearProbe, device: torch.device | str = "cpu"
) -> Classifier:
    """A classifier of frozen features, see ``extract_features``."""
    return lambda images: probe(extract_features(network, images, device, BATCH)[features])


def whole_network(network: nn.Module, device: torch.device | str = "cpu") -> Classifier:
    """A classifier that was trained as a whole, image to logits."""

    def classify(images: torch.Tensor) -> torch.Tensor:
        network.eval()
        with torch.inference_mode():
            return torch.cat([network(x.to(device)).float().softmax(1).cpu() for x in images.split(BATCH)])

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


def measure_reconstruction(
    network: nn.Module, clean: torch.Tensor, corrupted: torch.Tensor, device: torch.device | str = "cpu"
) -> Result:
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
    # Evenly spread over the images, so that nobody picks the best.
    chosen = evenly_spaced(torch.arange(len(clean)), _SHOWN)
    parts = {"clean": clean, "corrupted": corrupted, "anatomy": anatomy, "full": full}
    return Result(figures, shown={name: images[chosen] for name, images in parts.items()})


def reconstruction_pictures(results: Results) -> dict[str, Any]:
    """Some images, corrupted, and what the first seed of each row makes of them."""
    shown = {row: seeds[0].shown for row, seeds in results.items()}
    first = next(iter(shown.values()))
    columns = {"clean": first["clean"], "corrupted": first["corrupted"]}
    for row, images in shown.items():
        columns |= {f"{row}\nanatomy": images["anatomy"], f"{row}\nfull": images["full"]}
    return {"images": image_grid(columns)}


def _quality(name: str, images: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    found = reconstruction_metrics(images, target)
    return {f"{name}_{k}": float(found[k].mean()) for k in ("psnr", "ssim")}


def pooled_psnr(images: torch.Tensor, target: torch.Tensor) -> float:
    """PSNR (dB) of the mean squared error over all images: finite even where single images are equal.

    This is how the authors measure the revision of corruptions.
    """
    return float(-10 * (images.double() - target.double()).square().mean().clamp_min(1e-20).log10())


def measure_revision(
    draw: Callable[[torch.Tensor], torch.Tensor], suite: CorruptionSuite, clean: torch.Tensor
) -> Result:
    """How much of each corruption is undone: pooled PSNR (dB) against the clean images.

    Args:
        draw: corrupted images to images without corruption; ``torch.nn.Identity`` does nothing.
        suite: corruptions without severities; its names are the columns.
        clean: (N, C, X, Y) in [0, 1].
    """
    figures, given, drawn = {}, [], []
    for case in tqdm(suite.cases, desc="revision", leave=False, disable=None):
        corrupted = suite.apply(clean, case)
        images = draw(corrupted)
        figures[case.name] = pooled_psnr(images, clean)
        given.append(corrupted[0])
        drawn.append(images[0])
    shown = {"clean": clean[:1].expand(len(given), *clean.shape[1:]), "corrupted": torch.stack(given)}
    return Result(figures, shown={**shown, "drawn": torch.stack(drawn), "names": list(figures)})


def revision_pictures(results: Results) -> dict[str, Any]:
    """One image under each corruption, and what the first seed of each row makes of it."""
    shown = {row: seeds[0].shown for row, seeds in results.items()}
    first = next(iter(shown.values()))
    columns = {"clean": first["clean"], "corrupted": first["corrupted"]}
    columns |= {row: images["drawn"] for row, images in shown.items()}
    return {"images": image_grid(columns, [name.replace("_", " ") for name in first["names"]])}


def measure_classifier(classify: Classifier, images: torch.Tensor, labels: torch.Tensor) -> Result:
    """AUC, accuracy and balanced error of a classifier.

    Args:
        classify: images to probabilities (N, K).
        images: (N, C, X, Y) in [0, 1].
        labels: (N,).
    """
    return Result(classification_metrics(classify(images), labels.cpu()))


def measure_detection(
    classify: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    clean: torch.Tensor,
    suite: CorruptionSuite,
) -> Result:
    """How well corrupted images are told from clean ones, on the whole and per corruption.

    Args:
        classify: images to probabilities of clean and corrupted (N, 2).
        images: test images of the task, (N, C, X, Y).
        labels: (N,), 1 where corrupted.
        clean: clean test images.
        suite: corruptions without severities.

    Returns:
        `auc`, `acc` and `balanced_error` on the task, and `auc_<corruption>`: all images with the corruption
        against all images without.
    """
    figures = dict(measure_classifier(classify, images, labels).figures)
    apart = torch.cat([torch.zeros(len(clean)), torch.ones(len(clean))]).long()
    before = classify(clean)
    for case in tqdm(suite.cases, desc="detection", leave=False, disable=None):
        both = torch.cat([before, classify(suite.apply(clean, case))])
        figures[f"auc_{case.name}"] = classification_metrics(both, apart)["auc"]
    return Result(figures)


def measure_robustness(
    classify: Classifier, suite: CorruptionSuite, images: torch.Tensor, labels: torch.Tensor
) -> Result:
    """Classification under corruptions of rising severity.

    Args:
        classify: images to probabilities (N, K).
        suite: corruptions with severities.
        images: (N, C, X, Y) in [0, 1], clean.
        labels: (N,).

    Returns:
        `auc_<corruption>_<severity>`, `acc_...` and `balanced_error_...`; `<figure>_<corruption>`, the mean
        over severities; `<figure>_mean`, the mean over corruptions; and for MedMNIST-C `be_<corruption>` and
        `be_mean`, the balanced error divided by AlexNet's.
    """
    figures: dict[str, float] = {}
    for case in tqdm(suite.cases, desc=suite.name, leave=False, disable=None):
        found = classification_metrics(classify(suite.apply(images, case)), labels.cpu())
        figures |= {f"{f}_{case.name}_{case.severity}": v for f, v in found.items()}
    clean = classification_metrics(classify(images), labels.cpu())["auc"]
    points = {c.name: [(0, clean)] for c in suite.cases}
    for c in suite.cases:
        points[c.name].append((c.severity or 0, figures[f"auc_{c.name}_{c.severity}"]))
    return Result(figures | _means(figures, suite), shown={"auc": points})


def robustness_pictures(results: Results) -> dict[str, Any]:
    """The AUC over the severities of each corruption, mean and spread over the seeds."""
    curves: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for row, seeds in results.items():
        for name, points in seeds[0].shown["auc"].items():
            values = np.array([[auc for _, auc in seed.shown["auc"][name]] for seed in seeds])
            std = values.std(0, ddof=1) if len(seeds) > 1 else np.zeros(len(points))
            curve = zip((severity for severity, _ in points), values.mean(0), std, strict=True)
            curves.setdefault(name, {})[row] = list(curve)
    return {"curves": severity_curves(curves)}


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
