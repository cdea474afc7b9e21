"""Linear probes: one linear layer on frozen features, which are computed once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from robustmed_monai.data.probe_data import ProbeData
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.networks.unoranic import AutoEncoder
from robustmed_monai.utils.errors import ConfigError, DataError, WeightsError
from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

Features = dict[str, torch.Tensor]
Heads = dict[str, dict[str, "LinearProbe"]]
FEATURES = ("anatomy", "characteristics", "both")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class LinearProbe(NamedTuple):
    """A linear layer and softmax on features.

    Args:
        weight: (K, D).
        bias: (K,).
        strength: C of the logistic regression that it was fitted by.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float = 1.0

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, K) of the classes for features (N, D)."""
        logits = features @ self.weight.to(features).T + self.bias.to(features)
        return logits.softmax(1)


def extract_features(
    network: nn.Module,
    images: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    progress: str | None = None,
) -> Features:
    """Codes of all images from a frozen network.

    The network is put into evaluation mode first: BatchNorm then uses its running statistics and leaves them
    alone, which in the authors' probes keep drifting.

    Args:
        network: UNORANIC, AutoEncoder, or what has ``anatomy`` and ``characteristics``.
        images: (N, C, X, Y) in [0, 1].
        device: where the network runs.
        batch_size: images at once.
        progress: title of the progress bar; None shows none.

    Returns:
        "anatomy" and "characteristics" (N, latent) and "both" (N, 2 latent), on the CPU; the one code of an
        AutoEncoder three times.
    """
    network.eval()
    parts: list[Features] = []
    with torch.inference_mode():
        split = images.split(batch_size)
        for batch in tqdm(split, desc=progress, leave=False, disable=progress is None or None):
            x = batch.to(device)
            codes = {"anatomy": network.anatomy(x)}  # type: ignore[operator]
            if not isinstance(network, AutoEncoder):
                codes["characteristics"] = network.characteristics(x)  # type: ignore[operator]
            parts.append({k: v.float().cpu() for k, v in codes.items()})
    found = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
    # An auto-encoder has one code, whatever it is asked for.
    return {**dict.fromkeys(FEATURES, found["anatomy"]), **found, **_joined(found)}


def _joined(found: Features) -> Features:
    return {"both": torch.cat(list(found.values()), dim=1)} if len(found) > 1 else {}


def fit_probe(
    training: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    strengths: Sequence[float] = STRENGTHS,
    class_weight: str | None = None,
) -> LinearProbe:
    """Logistic regression on standardised features, its regularisation chosen by the AUC of the validation.

    The standardisation is folded into the layer. The authors train by Adam with the cross-entropy of an
    already softmaxed output; this is the same model, at the optimum and with a plain cross-entropy.

    Args:
        training: features (N, D) and labels (N,), classes 0 to K - 1.
        validation: the same of other cases.
        strengths: inverse regularisations C to try.
        class_weight: scikit-learn's; "balanced" where the classes' shares of the training cases are an
            accident of how these were collected.

    Raises:
        DataError: when a class is missing in the training or validation cases.
        ConfigError: when there is no strength to try.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if not strengths:
        raise ConfigError("strengths: none; give at least one inverse regularisation C.")
    x, y = training[0].double().numpy(), training[1].numpy()
    if set(np.unique(y)) != set(range(int(y.max()) + 1)) or y.max() < 1:
        raise DataError(f"training labels are {np.unique(y).tolist()}; give at least 2 classes, 0 to K - 1.")
    mean, scale = x.mean(0), x.std(0)
    # A feature that never changes tells nothing; dividing by its 0 would.
    scale[scale < 1e-8] = np.inf
    model = LogisticRegression(max_iter=500, warm_start=True, class_weight=class_weight)
    tried = []
    for strength in sorted(strengths):
        model.C = strength
        with warnings.catch_warnings():
            # At weak regularisation the last digits take for ever, and the validation decides anyway.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((x - mean) / scale, y)
        probe = _folded(model, mean, scale, strength)
        tried.append((_auc(probe, validation), probe))
    return max(tried, key=lambda pair: pair[0])[1]


def _folded(model: Any, mean: np.ndarray, scale: np.ndarray, strength: float) -> LinearProbe:
    weight, bias = model.coef_ / scale, model.intercept_ - model.coef_ @ (mean / scale)
    if len(weight) == 1:
        # Two classes have one row; a softmax over (0, s) is the sigmoid of s.
        weight, bias = np.vstack([0 * weight, weight]), np.hstack([0 * bias, bias])
    return LinearProbe(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength)


def _auc(probe: LinearProbe, validation: tuple[torch.Tensor, torch.Tensor]) -> float:
    return classification_metrics(probe(validation[0]).numpy(), validation[1].numpy())["auc"]


def fit_probes(
    network: nn.Module,
    data: ProbeData,
    names: Sequence[str] = FEATURES,
    device: torch.device | str = "cpu",
    progress: Callable[[str], str] = "{} features".format,
) -> dict[str, LinearProbe]:
    """Fit a probe on each kind of features of a frozen network.

    Args:
        network: see ``extract_features``.
        data: what to tell apart; its "test" is not looked at.
        names: some of "anatomy", "characteristics", "both".
        device: where the network runs.
        progress: title of the progress bar of a section.
    """
    unknown = set(names) - set(FEATURES)
    if unknown:
        raise ConfigError(f"features {sorted(unknown)} are unknown; choose of {list(FEATURES)}.")
    found = {
        section: extract_features(network, data.images[section], device, progress=progress(section))
        for section in ("training", "validation")
    }
    labels = {k: v.cpu() for k, v in data.labels.items()}
    return {
        name: fit_probe(
            (found["training"][name], labels["training"]),
            (found["validation"][name], labels["validation"]),
            class_weight=data.class_weight,
        )
        for name in names
    }


def heads_file(weights: str | os.PathLike[str]) -> Path:
    """Where the heads of weights lie: ``model_heads.pt`` beside ``model.pt``."""
    return Path(weights).with_name(f"{Path(weights).stem}_heads.pt")


def save_heads(heads: Heads, weights: str | os.PathLike[str]) -> str:
    """Store probes beside the weights that they belong to and return the sha256 of their file."""
    tensors, strengths = {}, {}
    for task, probes in heads.items():
        for kind, probe in probes.items():
            tensors[f"{task}.{kind}.weight"], tensors[f"{task}.{kind}.bias"] = probe.weight, probe.bias
            strengths[f"{task}.{kind}"] = probe.strength
    return save_weights(tensors, heads_file(weights), {"weights": sha256(weights), "strengths": strengths})


def load_heads(weights: str | os.PathLike[str]) -> Heads:
    """Return the probes that were stored beside weights: task to kind of features to probe; empty without.

    Raises:
        WeightsError: when weights or heads are missing or altered, or the heads are those of other weights.
    """
    load_info(weights)
    file = heads_file(weights)
    if not file.is_file():
        return {}
    info, tensors = load_info(file), load_weights(file)
    if info.get("weights") != sha256(weights):
        raise WeightsError(f"{file}: heads of other weights than {weights}; run train_probe.json again.")
    heads: Heads = {}
    for name, strength in info["strengths"].items():
        task, kind = name.split(".")
        probe = LinearProbe(tensors[f"{name}.weight"], tensors[f"{name}.bias"], float(strength))
        heads.setdefault(task, {})[kind] = probe
    return heads
