"""What might give back what a model loses: wrappers that need no training, each measured in the same run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import GaussianSmooth, MedianSmooth
from torch import Tensor

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.gates import load_unoranic
from robustmed_monai.apps.stress.measure import case_scores
from robustmed_monai.apps.stress.models import Model
from robustmed_monai.apps.stress.suites import condition_id
from robustmed_monai.apps.stress.views import Views
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.inferers.unoranic import RestorationInferer
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.networks.risc import load_risc
from robustmed_monai.transforms.clahe import EqualizeAdaptHist
from robustmed_monai.transforms.corruption.suite import Case
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.transforms.scale_foreground import ScaleForeground
from robustmed_monai.utils.fingerprint import digest_objects

Remedy = Callable[[Model], Model]


def input_remedy(function: Callable[[Tensor], Tensor], name: str) -> Remedy:
    """Show the model images that a function changed.

    Args:
        function: images (B, C, X, Y[, Z]) in [0, 1] to images.
        name: what the report calls it.
    """

    def wrap(model: Model) -> Model:
        def predict(views: Views) -> Sequence[Tensor]:
            return model.predict(views.with_images(function(views.images).clamp(0, 1)))

        return _wrapped(model, name, predict, function)

    return wrap


def rotation_remedy(weights: str | os.PathLike[str]) -> Remedy:
    """Undo the rotation that RISC's RotNet finds; labels are turned back with the image.

    Volumes, and pictures that are not square, are left as they are.

    Args:
        weights: of ``bundles/risc``.
    """
    inferer = RotationCorrectionInferer(load_risc(weights).rotnet, axes="XY", outputs="logits")

    def wrap(model: Model) -> Model:
        def predict(views: Views) -> Sequence[Tensor]:
            if views.images.ndim != 4 or views.images.shape[2] != views.images.shape[3]:
                return model.predict(views)
            count = inferer.num_rotations
            index = inferer.posterior(views.images).argmax(1)
            found = model.predict(views.with_images(rotate(views.images, -index, count)))
            if views.truth.ndim == 1:
                return found
            return [
                rotate(f[None].float(), int(i), count)[0].to(f) for f, i in zip(found, index, strict=True)
            ]

        return _wrapped(model, "RISC", predict, inferer)

    return wrap


def restoration_remedy(weights: str | os.PathLike[str]) -> Remedy:
    """Show the model unORANIC's image without its corruptions.

    Args:
        weights: of ``bundles/unoranic``.
    """
    network, inferer = load_unoranic(weights), RestorationInferer()
    return input_remedy(_Restored(network, inferer), "unORANIC")


def plain_remedies(data: StressData) -> dict[str, Remedy]:
    """Wrappers that need no weights, of what can be done to a test set."""
    each: dict[str, Any] = {
        "median filter (MONAI's MedianSmooth, radius 1)": MedianSmooth(radius=1),
        "Gaussian filter (MONAI's GaussianSmooth, sigma 1)": GaussianSmooth(sigma=1.0),
        "scaling to the foreground's percentile 99.5 (ScaleForeground)": ScaleForeground(99.5),
    }
    if data.sample.images.ndim == 4:
        each["local histogram equalisation (EqualizeAdaptHist)"] = EqualizeAdaptHist()
    return {name: input_remedy(_Each(transform), name.partition(" (")[0]) for name, transform in each.items()}


def suggestions(
    found: Mapping[Case, Mapping[str, Any]], clean_case: Case, labels: Sequence[int], subjects: Sequence[str]
) -> list[dict[str, Any]]:
    """What each remedy was measured to give back, where an interval over subjects lies above 0; most first.

    Args:
        found: condition to the rows of the model ("model") and of each remedy, that without corruption among
            them.
        clean_case: the latter.
        labels: classes of the images.
        subjects: of the images.

    Returns:
        `what` gives `gives_back` at the `condition`, where the figure is `with_it` rather than `without`, and
        changes it by `as_given` on the images as given.
    """
    rows = []
    clean = found[clean_case]
    for case, by_name in found.items():
        if case == clean_case:
            continue
        without = _scores(by_name["model"], labels)
        for name in by_name:
            if name == "model":
                continue
            gain = bootstrap_mean(_scores(by_name[name], labels) - without, clusters=subjects)
            if not gain.ci95[0] > 0:
                continue
            cost = bootstrap_mean(
                _scores(clean[name], labels) - _scores(clean["model"], labels), clusters=subjects
            )
            rows.append(
                {
                    "what": name,
                    "condition": condition_id(case),
                    "gives_back": {"mean": gain.value, "ci95": gain.ci95},
                    "without": float(np.nanmean(without)),
                    "with_it": float(np.nanmean(without)) + gain.value,
                    "as_given": {"mean": cost.value, "ci95": cost.ci95},
                }
            )
    return sorted(rows, key=lambda row: -float(row["gives_back"]["mean"]))


def _scores(rows: Mapping[str, Any], labels: Sequence[int]) -> Any:
    """The main figure of each case: 1 where the class is right, or the mean Dice."""
    if "probabilities" in rows:
        return (np.asarray(rows["probabilities"]).argmax(1) == np.asarray(labels)).astype(float)
    return case_scores(rows, labels)


def _wrapped(model: Model, name: str, predict: Callable[[Views], Sequence[Tensor]], wrapper: Any) -> Model:
    """A model that predicts in another way, which its name and its digest tell."""
    digest = digest_objects(model.digest, wrapper)
    return model._replace(name=f"{model.name} + {name}", predict=predict, digest=digest)


class _Each:
    """A transform of one image as a function of a batch."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, images: Tensor) -> Tensor:
        done = [torch.as_tensor(self.transform(image)).as_subclass(Tensor).float() for image in images]
        return torch.stack(done)


class _Restored:
    def __init__(self, network: torch.nn.Module, inferer: RestorationInferer) -> None:
        self.network, self.inferer = network, inferer

    def __call__(self, images: Tensor) -> Tensor:
        return self.inferer(images, self.network)["pred"]
