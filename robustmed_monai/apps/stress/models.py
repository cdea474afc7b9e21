"""What is stressed: a callable of a batch, or (``bundles``) a MONAI bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from robustmed_monai.apps.stress.views import Views
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.fingerprint import digest_objects

_TOLERANCE = 1e-3
_MANY = 8


class Model(NamedTuple):
    """A model under test.

    Args:
        name: what the report calls it.
        source: where it comes from.
        predict: views to one prediction an image: class probabilities (K,), or labels (1, X, Y[, Z]) on the
            grid of the image.
        digest: of all that decides what it predicts.
        weights_sha256: of its weights file, where there is one.
        channels: that its images have; None for any.
        num_classes: of its output; None where it does not say.
        class_names: names of its classes.
    """

    name: str
    source: str
    predict: Callable[[Views], Sequence[Tensor]]
    digest: str
    weights_sha256: str | None = None
    channels: int | None = None
    num_classes: int | None = None
    class_names: Sequence[str] = ()


def callable_model(
    function: Callable[[Tensor], Any],
    name: str = "model",
    source: str = "a Python function",
    device: torch.device | str = "cpu",
    weights_sha256: str | None = None,
) -> Model:
    """Any function of a batch, such as a network.

    Args:
        function: images (B, C, X, Y[, Z]) float32 in [0, 1] to classes (B, K), logits or probabilities (or
            (B, 1) logits of the second of two), to scores (B, K, X, Y[, Z]) (one channel: logits or
            probabilities), or to labels (B, 1, X, Y[, Z]). A mapping of these has them as "pred".
        name: what the report calls it.
        source: where it comes from.
        device: where the images go first.
        weights_sha256: digest of its weights, for the record.

    Example:
        >>> model = callable_model(lambda images: torch.zeros(len(images), 2))
        >>> model.name
        'model'
    """
    modules = [function] if isinstance(function, nn.Module) else []

    @torch.no_grad()
    def predict(views: Views) -> Sequence[Tensor]:
        with eval_mode(*modules):
            found = function(views.images.to(device))
        return list(as_predictions(scores_of(found), views))

    digest = digest_objects(function, name)
    return Model(name, source, predict, digest, weights_sha256)


def scores_of(output: Any) -> Tensor:
    """The tensor that a network or inferer means.

    Raises:
        ConfigError: when there is none.
    """
    found = output["pred"] if isinstance(output, dict) and "pred" in output else output
    if isinstance(found, list | tuple) and found and isinstance(found[0], Tensor):
        found = found[0]
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"the model gives {type(output).__name__}; give a tensor, or a mapping with 'pred'."
        )
    return found.as_subclass(Tensor).detach().cpu()


def as_predictions(scores: Tensor, views: Views) -> Tensor:
    """Class probabilities (B, K), or labels (B, 1, X, Y[, Z]), of a model's scores for views.

    Raises:
        ConfigError: when the scores are neither, or hold NaN.
    """
    if len(scores) != len(views):
        raise ConfigError(f"the model gives {len(scores)} outputs for {len(views)} images; give one each.")
    if scores.is_floating_point() and not scores.isfinite().all():
        raise ConfigError(f"the model gives NaN or infinite values for image {views.first} or one behind it.")
    if views.truth.ndim == 1:
        if scores.ndim > 2:
            scores = scores.flatten(1) if scores[0].numel() == scores.shape[1] else scores
        if scores.ndim != 2:
            raise ConfigError(f"the model gives {tuple(scores.shape)}; a classifier gives (B, classes).")
        return class_probabilities_of(scores.float())
    if scores.shape[2:] != views.truth.shape[2:]:
        raise ConfigError(
            f"the model gives {tuple(scores.shape)} for labels {tuple(views.truth.shape)}; a segmentation "
            "has the grid of its image (in a bundle, postprocessing brings it back: Invertd)."
        )
    return label_maps(scores)


def class_probabilities_of(scores: Tensor) -> Tensor:
    """Logits or probabilities (B, K) as probabilities; a single column holds logits of the second of two.

    What a row is, it says itself, so that it does not depend on the batch: probabilities lie in [0, 1] and
    add up to 1.

    Raises:
        ConfigError: when a single column holds probabilities.

    Example:
        >>> class_probabilities_of(torch.tensor([[0.25, 0.75], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """
    within = (scores >= -_TOLERANCE).all(1) & (scores <= 1 + _TOLERANCE).all(1)
    if scores.shape[1] == 1:
        # One number does not say what it is, but logits of many images do not all lie in [0, 1].
        if len(scores) >= _MANY and bool(within.all()) and bool(scores.any()):
            raise ConfigError(
                "the model's single column looks like probabilities; give its logits, or two columns."
            )
        second = scores.sigmoid()
        return torch.cat([1 - second, second], 1)
    known = within & ((scores.sum(1) - 1).abs() < _TOLERANCE)
    return torch.where(known[:, None], scores.clamp(0, 1), scores.softmax(1))


def label_maps(scores: Tensor) -> Tensor:
    """Labels (B, 1, *spatial) uint8 of scores (B, K, *spatial), or of labels as they are.

    A single channel of an image holds labels where all are whole numbers, probabilities of the structure
    where all lie in [0, 1], else its logits.

    Example:
        >>> label_maps(torch.tensor([[[[0.25, 0.75]]], [[[-2.0, 0.25]]], [[[0.0, 3.0]]]])).flatten(1)
        tensor([[0, 1],
                [0, 1],
                [0, 3]], dtype=torch.uint8)
    """
    if scores.shape[1] > 1:
        return scores.argmax(1, keepdim=True).to(torch.uint8)
    if not scores.is_floating_point():
        return scores.to(torch.uint8)
    each = [-1, *[1] * (scores.ndim - 1)]
    whole = (scores == scores.round()).flatten(1).all(1).view(each)
    sure = ((scores >= -_TOLERANCE) & (scores <= 1 + _TOLERANCE)).flatten(1).all(1).view(each)
    shown = scores > torch.where(sure, 0.5, 0.0)
    return torch.where(whole, scores, shown.to(scores.dtype)).to(torch.uint8)
