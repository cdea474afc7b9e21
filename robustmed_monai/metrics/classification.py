"""How well classes are told apart: AUC and accuracy as MedMNIST defines them, and the balanced error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustmed_monai.utils.errors import DataError


def classification_metrics(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """AUC, accuracy and balanced error of a classifier.

    Args:
        probabilities: (N, K), one column per class, K at least 2.
        labels: (N,) classes 0 to K - 1, every one of them present.

    Returns:
        `auc` (two classes: of the second; more: the mean of one against the rest), `acc` (two classes: second
        class above 0.5; more: the most probable class) and `balanced_error` (1 minus the mean recall of the
        classes, MedMNIST-C's).

    Raises:
        DataError: when shapes do not fit, values are not finite, or a class has no case.

    Source: Yang et al., *MedMNIST v2*, 2023; Di Salvo et al., *MedMNIST-C*, 2024.

    Example:
        >>> classification_metrics([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
        {'auc': 1.0, 'acc': 0.6666666666666666, 'balanced_error': 0.25}
    """
    from sklearn.metrics import roc_auc_score

    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or not np.isfinite(p).all():
        raise DataError(f"probabilities {p.shape} for labels {y.shape}; give finite (N, K) and (N,), K >= 2.")
    classes = range(p.shape[1])
    if set(np.unique(y)) != set(classes):
        raise DataError(f"labels are {np.unique(y).tolist()}; cases of all {p.shape[1]} classes are needed.")
    said = (p[:, 1] > 0.5).astype(int) if p.shape[1] == 2 else p.argmax(1)
    scored = [1] if p.shape[1] == 2 else classes
    return {
        "auc": float(np.mean([roc_auc_score(y == k, p[:, k]) for k in scored])),
        "acc": float((said == y).mean()),
        "balanced_error": 1 - float(np.mean([(said[y == k] == k).mean() for k in classes])),
    }
