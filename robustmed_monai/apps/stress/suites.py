"""What is done to the images: suites as files, and one condition applied to images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.utils import one_hot
from torch import Tensor

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.views import Views
from robustmed_monai.transforms.corruption.core import check_name, corrupt
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.transforms.corruption.orientation import orientation_affine
from robustmed_monai.transforms.corruption.suite import SEVERITIES, Case, CorruptionSuite
from robustmed_monai.transforms.params import join_params
from robustmed_monai.utils.errors import ConfigError

# Names of suites beside "medmnist_c" and "medmnist_c:<data set>".
SUITES = (
    "imagenet_c",
    "mr",
    "unoranic",
    "geometry",
    "acquisition",
    "orientation",
    "orientation_true",
    "labelled",
)
CLEAN = Case("clean", "clean", 0)
# What moves the anatomy, and so the labels.
_MOVES = {
    ("geometry", "rotation"),
    ("imagenet_c", "elastic_transform"),
    *(("acquisition", name) for name in ("zoom_in", "zoom_out", "cut_off")),
}
_ORIENTATIONS = ("orientation", "orientation_true")
_TISSUES = 4
_DEEP = 65535
_TIE = 0.5 + 2**-10  # as in transforms.corruption.suite


def default_suites(data: StressData) -> list[str]:
    """Names of the suites that a test set is stressed by unless one is named.

    Args:
        data: MedMNIST's has its MedMNIST-C, pictures have ImageNet-C, volumes MR artefacts and headers; all
            have rotations, acquisition and orientation, and images with tissue labels other contrasts.
    """
    volume = data.sample.images.ndim == 5
    first = "mr" if volume else "medmnist_c" if data.medmnist in MEDMNIST_C else "imagenet_c"
    last = ["orientation_true"] if volume else []
    tissue = data.task == "segmentation" and data.num_classes == _TISSUES
    return [first, "geometry", "acquisition", "orientation", *last, *(["labelled"] if tissue else [])]


def make_suite(
    names: Sequence[str], data: StressData, severities: Sequence[int] = SEVERITIES, seed: int = 0
) -> CorruptionSuite:
    """One suite of several families, of what can be done to a test set.

    Args:
        names: of ``SUITES``, "medmnist_c" (of the test set's own name), "medmnist_c:<data set>"; or one path
            of a file that ``CorruptionSuite.to_json`` wrote, which is taken as it is.
        data: the test set; what needs volumes or tissue labels is left out without them.
        severities: of 1 to 5.
        seed: chooses the draw.

    Raises:
        ConfigError: for an unknown name, and where nothing is left.
    """
    if len(names) == 1 and names[0].endswith(".json"):
        return CorruptionSuite.from_json(names[0])
    rows: list[dict[str, Any]] = []
    for name in names:
        for row in _named(name, data, severities, seed).rows:
            kept = [n for n in row["name"] if _fits({**row, "name": n}, data)]
            rows += [{**row, "name": kept}] if kept else []
    if not rows:
        raise ConfigError(f"suites {list(names)}: nothing of them can be done to {data.name}; name others.")
    return CorruptionSuite("+".join(names), seed, rows)


def stressed(suite: CorruptionSuite, case: Case, views: Views) -> Views:
    """Do to consecutive images what a suite says for their places in the test set.

    Labels follow what moves the anatomy. A batch of N gives the bits of N singles.

    Args:
        suite: what to do.
        case: one of its cases, or ``CLEAN``, which changes no bit.
        views: the images.

    Returns:
        Images of 8 or 16 bits with their labels and headers.
    """
    if case.family == "clean" or case.severity == 0:
        return views
    labels = views.truth if views.truth.ndim > 1 else None
    given = labels if case.family == "labelled" else None
    images = suite.apply(views.images, case, views.first, views.eight_bit, given)
    if not views.eight_bit:
        images = ((images.double() * _DEEP + _TIE).floor() / _DEEP).float()
    result = views.with_images(images, None if labels is None else _moved(suite, case, views, labels))
    if case.family == "orientation_true":
        shape = tuple(views.images.shape[2:])
        affines = [torch.from_numpy(orientation_affine(case.name, a.numpy(), shape)) for a in views.affines]
        return result.with_affines(affines)
    return result


def condition_id(case: Case) -> str:
    """Name of a condition in ``stress.json``.

    Example:
        >>> condition_id(CLEAN), condition_id(Case("mr", "bias_field", 2))
        ('clean', 'mr/bias_field/2')
    """
    return case.family if case == CLEAN else str(case)


def explain(suite: CorruptionSuite, case: Case, shape: Sequence[int], index: int) -> str:
    """What was done to one image, with the numbers that were drawn for it.

    Args:
        suite: what was done.
        case: one of its cases.
        shape: (C, X, Y[, Z]) of the image.
        index: its place in the test set.
    """
    drawn = [] if case.family == "clean" else list(_numbers(suite.parameters(case, shape, index)))
    return condition_text(case) + (f": {', '.join(drawn)}" if drawn else "")


def condition_text(case: Case) -> str:
    """A condition in words.

    Example:
        >>> condition_text(Case("mr", "bias_field", 2))
        'bias field, severity 2 of 5 (MR artefacts)'
    """
    if case.family == "clean":
        return "as given"
    families = {
        "imagenet_c": "ImageNet-C",
        "imagenet_c_published": "ImageNet-C, constants as published",
        "medmnist_c": f"MedMNIST-C, {case.dataset}",
        "mr": "MR artefacts",
        "geometry": "geometry",
        "acquisition": "acquisition",
        "labelled": "other contrast, made with the labels",
        "unoranic": "unORANIC",
        "orientation": "stored the wrong way round, the header does not tell",
        "orientation_true": "stored another way round, the header tells",
    }
    strength = "" if case.severity is None else f", severity {case.severity} of 5"
    return f"{case.name.replace('_', ' ')}{strength} ({families[case.family]})"


def _named(name: str, data: StressData, severities: Sequence[int], seed: int) -> CorruptionSuite:
    kind, _, dataset = name.partition(":")
    if kind == "medmnist_c":
        if not dataset and data.medmnist is None:
            raise ConfigError(f"suite {name}: say of which data set, such as medmnist_c:pneumoniamnist.")
        return CorruptionSuite.medmnist_c(dataset or str(data.medmnist), severities, seed)
    if Path(name).suffix == ".json":
        raise ConfigError(f"suite {name}: a file stands alone; put all rows into one file.")
    check_name(name, SUITES, "the suites (or medmnist_c:<data set>, or a file)")
    if name == "unoranic":
        return CorruptionSuite.unoranic(seed)
    if name in _ORIENTATIONS:
        return CorruptionSuite.orientation(name == "orientation_true", seed)
    made: CorruptionSuite = getattr(CorruptionSuite, name)(severities, seed)
    return made


def _fits(row: dict[str, Any], data: StressData) -> bool:
    severity = row.get("severity", [None])[0]
    case = Case(row["family"], row["name"], severity, row.get("dataset"))
    shape = data.sample.images.shape
    if len(shape) - 2 not in case.corruption().spatial_dims:
        return False
    return case.family != "labelled" or (data.task == "segmentation" and data.num_classes == _TISSUES)


def _moved(suite: CorruptionSuite, case: Case, views: Views, labels: Tensor) -> Tensor:
    """Labels where the anatomy went: moved as they are, or the class with the largest share of a pixel."""
    if case.family not in _ORIENTATIONS and (case.family, case.name) not in _MOVES:
        return labels
    shape = views.images.shape[1:]
    params = join_params([suite.parameters(case, shape, views.first + i) for i in range(len(views))])
    corruption = case.corruption()
    if case.family in _ORIENTATIONS:
        return corruption.apply(labels, params)
    hot = one_hot(labels.float(), int(labels.max()) + 1)
    return corrupt(hot, corruption, params).argmax(1, keepdim=True).to(labels.dtype)


def _numbers(params: dict[str, Any]) -> list[str]:
    """Drawn numbers of one image, as far as they are few."""
    found = []
    for name, value in params.items():
        if (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value[0].numel() <= 4
            and name != "rows"
        ):
            numbers = np.atleast_1d(value[0].double().numpy()).ravel()
            found.append(f"{name.replace('_', ' ')} {' '.join(f'{v:.3g}' for v in numbers)}")
    return found
