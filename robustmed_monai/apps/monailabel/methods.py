"""What the app serves of each bundle, and how it runs one: by the bundle's own inference config."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from robustmed_monai.data.image_list import list_images
from robustmed_monai.metrics.calibration import threshold_at
from robustmed_monai.utils.bundle import literal
from robustmed_monai.utils.errors import ImageError, original_error
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import load_info

Report = Mapping[str, Any]

# Keys of a config that name images.
_IMAGES = ("input", "fixed", "moving")
# Keys of a config that name files of weights which it reads.
_WEIGHTS = ("weights", "features_weights")


@dataclass(frozen=True)
class Urgency:
    """How urgently a study should be looked at, as an active learning strategy.

    Args:
        name: name of the strategy.
        description: one sentence for users.
        score: number from a bundle's report, the highest study comes first; None where nothing of the image
            was assessed, such a study comes last.
    """

    name: str
    description: str
    score: Callable[[Report], float | None]


@dataclass(frozen=True)
class Method:
    """What viewers have to know of a bundle.

    Args:
        description: one sentence for users.
        kind: type of the model in MONAI Label; Slicer and OHIF offer those of "segmentation".
        result: name of the bundle's result file that is sent unless another is asked for.
        report: name of the bundle's JSON file.
        labels: name of each value in the result, where it is a label map.
        inputs: keys of the inference config that take images: first that of the request's image, then those
            that the request's parameters name.
        cut: whether a request may name the config's ``threshold``, from which "anomaly_map" is
            "anomaly_mask"; without one it is that of the weights' calibration.
        urgency: active learning strategy by this bundle.
        trainable: whether the bundle's training takes images and label maps.
        bundle: name of the bundle, where that is not the model's.
        overlays: names of the configs of the bundle that are laid over its inference config.
    """

    description: str
    kind: str
    result: str
    report: str = "scores.json"
    labels: Mapping[str, int] = field(default_factory=dict)
    inputs: tuple[str, ...] = ("input",)
    cut: bool = False
    urgency: Urgency | None = None
    trainable: bool = False
    bundle: str | None = None
    overlays: tuple[str, ...] = ()


def _score_of_volume(report: Report) -> float | None:
    return _number(report["score"])


def _pchvae_score(report: Report) -> float | None:
    return _number(report["scores"]["elbo"])


def _number(score: Any) -> float | None:
    return None if score is None else float(score)


def _class_uncertainty(report: Report) -> float:
    # An image that RISC gives no class is what it is least sure of.
    return 1 - float(max((report["probabilities"] or {"": 0.0}).values()))


METHODS: Mapping[str, Method] = {
    "ra": Method(
        "RA: where a brain slice differs from its pseudo-healthy twin",
        kind="segmentation",
        result="anomaly_mask",
        labels={"anomaly": 1},
        urgency=Urgency("ra_anomaly_score", "the study most abnormal to RA first", _score_of_volume),
    ),
    "pchvae": Method(
        "pchVAE: where a brain slice is not explained by a model of healthy ones",
        kind="segmentation",
        result="anomaly_mask",
        labels={"anomaly": 1},
        cut=True,
        urgency=Urgency("pchvae_anomaly_score", "the study least likely to pchVAE first", _pchvae_score),
    ),
    "feature_memory": Method(
        "feature memory: where a brain slice has features that no healthy one had there",
        kind="segmentation",
        result="anomaly_mask",
        labels={"anomaly": 1},
        urgency=Urgency(
            "feature_memory_score", "the study most abnormal to the memory first", _score_of_volume
        ),
    ),
    "unoranic": Method("unORANIC: the image without its corruptions", kind="others", result="anatomy_image"),
    "risc": Method(
        "RISC: class of the image after its rotation has been undone",
        kind="classification",
        result="corrected",
        report="prediction.json",
        urgency=Urgency("risc_uncertainty", "the study that RISC is least sure of first", _class_uncertainty),
    ),
    "cifl_segmentation": Method(
        "CIFL: brain tissues, in any contrast",
        kind="segmentation",
        result="labels",
        report="volumes.json",
        labels={"CSF": 1, "grey matter": 2, "white matter": 3},
        trainable=True,
    ),
    "whole_head": Method(
        "Brain tissues, ventricles, cerebellum and brainstem of a whole head, in any contrast; half a minute",
        kind="segmentation",
        result="labels",
        report="volumes.json",
        labels={
            "CSF around the brain": 1,
            "cerebral grey matter": 2,
            "cerebral white matter": 3,
            "ventricles": 4,
            "cerebellar grey matter": 5,
            "cerebellar white matter": 6,
            "brainstem": 7,
        },
        bundle="cifl_segmentation",
        overlays=("whole_head",),
    ),
    "cifl_registration": Method(
        "CIFL: another image moved onto this one, in any contrasts",
        kind="others",
        result="moved",
        report="registration.json",
        inputs=("fixed", "moving"),
    ),
}


def weight_files(root: Path, config: str = "inference.json", overlays: Sequence[str] = ()) -> list[Path]:
    """Weights that a config of the bundle in the folder ``root`` reads under its overlays, there or not."""
    parser = _parser(root, config, overlays)
    named = [parser.get_parsed_content(key) for key in _WEIGHTS if key in parser]
    return [Path(path) for path in named if path is not None]


def calibrated(root: Path, weights: Path) -> dict[str, float]:
    """``{"threshold": value}`` at which weights are calibrated to cut the map; nothing where they are not.

    Args:
        root: folder of the bundle, whose inference config says at which rate of false alarms.
        weights: weights file.

    Raises:
        ConfigError: when they are calibrated at other rates.
    """
    calibration = load_info(weights).get("calibration") if weights.is_file() else None
    if calibration is None:
        return {}
    return {"threshold": threshold_at(calibration, read_json(root / "configs" / "inference.json")["fpr"])}


def run_inference(
    root: Path, output_dir: Path, settings: Mapping[str, Any], overlays: Sequence[str] = ()
) -> Path:
    """Run a bundle's inference config on one image.

    Args:
        root: folder of the bundle.
        output_dir: empty folder for its results.
        settings: overrides of the config: the image or images, the device, the weights. Text is taken as it
            stands, nothing in it is evaluated.
        overlays: names of configs of the bundle that are laid over its inference config.

    Returns:
        The folder with the image's results, inside ``output_dir``.

    Raises:
        RobustMedError: what the bundle says of an image, weights or settings that it cannot use.
    """
    for path in (settings[key] for key in _IMAGES if key in settings):
        _check_single(path)
    parser = _parser(root, "inference.json", overlays)
    overrides = {**settings, "output_dir": str(output_dir)}
    parser.update({key: literal(value) for key, value in overrides.items()})
    try:
        for key in ("initialize", "run", "finalize"):
            parser.get_parsed_content(key)
    except Exception as error:
        raise original_error(error) from None
    (results,) = [path for path in output_dir.iterdir() if path.is_dir()]
    return results


def _check_single(path: str) -> None:
    """Refuse what stands for other images before any of them is looked at."""
    if path.lower().endswith(".json"):
        raise ImageError(f"{path}: a list of images; give one image, or a folder of one series.")
    if os.path.isdir(path) and len(found := list_images(path)) != 1:
        raise ImageError(f"{path}: holds {len(found)} images; give one image, or a folder of one series.")


def _parser(root: Path, config: str, overlays: Sequence[str]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([root / "configs" / name for name in (config, *(f"{it}.json" for it in overlays))])
    parser.read_meta(root / "configs" / "metadata.json")
    parser["bundle_root"] = literal(str(root))
    return parser
