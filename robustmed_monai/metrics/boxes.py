"""Detection of annotated boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.metrics.curves import Array
from robustmed_monai.metrics.inputs import checked_images
from robustmed_monai.utils.errors import DataError, ImageShapeError

_FOUND_SHARE = 0.1


def box_detection(
    anomaly_map: torch.Tensor,
    boxes: npt.ArrayLike,
    threshold: float,
    healthy: torch.Tensor | None = None,
) -> dict[str, Array]:
    """Detection of the annotated boxes of one image by RA's protocol for fastMRI+; to be averaged by class.

    With A the map, values under the threshold set to 0, a box is found when more than 10 % of its pixels are
    not 0 (boxes are larger than what they mark), and false positives are floor(sum of A over the healthy
    pixels / max(sum of A over the box, 1)).

    Args:
        anomaly_map: (1, X, Y), finite and >= 0.
        boxes: (N, 4) as x0, y0, x1, y1 in pixels, x1 and y1 just outside; clipped to the image.
        threshold: calibrated on healthy images, see ``calibrate_thresholds``.
        healthy: (1, X, Y), 1 where false positives are looked for; None takes all pixels outside the boxes.

    Returns:
        (N,) arrays: `recall`, 0 or 1; `false_positives`; `precision` = TP / max(TP + FP, 1);
        `f1` = 2PR / (P + R + 1e-8).

    Raises:
        ImageShapeError: when the map is not (1, X, Y) or `healthy` has another shape.
        NonFiniteImageError: for NaN or infinite values in the map.
        DataError: for negative values, or a box that holds no pixel of the image; the message names it.

    References:
        Bercea et al., MIDL 2023; boxes: Zhao et al., "fastMRI+", Scientific Data 9, 152, 2022.

    Example:
        >>> box_detection(torch.eye(8)[None], [[0, 0, 4, 4]], threshold=0.5)["recall"]
        array([1.])
    """
    image, masks = next(checked_images([anomaly_map], healthy=None if healthy is None else [healthy]))
    if image.ndim != 3:
        raise ImageShapeError(
            f"anomaly map: shape {tuple(anomaly_map.shape)}; boxes need one 2-D map (1, X, Y)."
        )
    kept = torch.where(image >= threshold, image, 0.0)[0].double().numpy()
    windows = [
        _window(box, kept.shape, i) for i, box in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4))
    ]
    outside = _outside(kept.shape, windows) if healthy is None else masks["healthy"][0].numpy()
    found = np.array([np.mean(kept[w] > 0) > _FOUND_SHARE for w in windows], dtype=np.float64)
    inside = np.array([kept[w].sum() for w in windows], dtype=np.float64)
    false = np.floor(kept[outside].sum() / np.maximum(inside, 1.0))
    precision = found / np.maximum(found + false, 1.0)
    f1 = 2 * precision * found / (precision + found + 1e-8)
    return {"recall": found, "false_positives": false, "precision": precision, "f1": f1}


def _outside(shape: tuple[int, ...], windows: list[tuple[slice, slice]]) -> npt.NDArray[np.bool_]:
    outside = np.ones(shape, dtype=bool)
    for window in windows:
        outside[window] = False
    return outside


def _window(box: npt.NDArray[np.float64], shape: tuple[int, ...], index: int) -> tuple[slice, slice]:
    if np.isfinite(box).all():
        x0, y0 = (max(0, round(v)) for v in box[:2])
        x1, y1 = min(shape[0], round(box[2])), min(shape[1], round(box[3]))
        if x1 > x0 and y1 > y0:
            return slice(x0, x1), slice(y0, y1)
    raise DataError(
        f"box {index}: {box.tolist()} holds no pixel of the {shape[0]} x {shape[1]} image; "
        "boxes are x0, y0, x1, y1 in pixels."
    )
