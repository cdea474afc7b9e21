"""Anomaly metrics at a threshold fixed beforehand: Dice per case and recall by lesion size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.meandice import compute_dice
from monai.metrics.metric import CumulativeIterationMetric

from robustmed_monai.metrics.inputs import checked_images
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

SIZES = ("small", "medium", "large")
_REFERENCE_PIXELS = 128 * 128


def label_regions(mask: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Number the connected regions (diagonals connect) of a boolean mask (X, Y[, Z]) from 1; 0 is outside."""
    from scipy.ndimage import generate_binary_structure, label

    regions, number = label(mask.numpy(), generate_binary_structure(mask.ndim, mask.ndim))
    return torch.from_numpy(regions).long(), int(number)


class LesionMetric(CumulativeIterationMetric):
    """Dice per case and recall by lesion size at a threshold that was fixed beforehand, for 2-D maps.

    A pixel is anomalous when map >= threshold. A lesion is a connected region of the mask, and it counts as
    detected when more than ``detected_share`` of its pixels are anomalous. Sizes are pixels at 128x128,
    scaled by area to other images.

    Args:
        threshold: calibrated on healthy images, see ``calibrate_thresholds``.
        size_limits: lesions under the first are small, over the second large; pixels at 128x128. The defaults
            are the quartiles of the ATLAS stroke masks in the RA authors' evaluation.
        detected_share: share of a lesion's pixels in [0, 1), 10 % as in RA.

    Raises:
        ConfigError: for an argument out of range.

    Example:
        >>> metric = LesionMetric(threshold=0.5)
        >>> _ = metric(torch.eye(3).reshape(1, 1, 3, 3), torch.eye(3).reshape(1, 1, 3, 3))
        >>> metric.aggregate()["calibrated_dice"]
        1.0
    """

    def __init__(
        self, threshold: float, size_limits: tuple[float, float] = (71.0, 570.0), detected_share: float = 0.1
    ) -> None:
        if not (np.isfinite(threshold) and threshold >= 0):
            raise ConfigError(f"threshold={threshold}; give a finite number >= 0, from calibrate_thresholds.")
        if not 0 < size_limits[0] <= size_limits[1]:
            raise ConfigError(f"size_limits={size_limits}; give two rising positive numbers.")
        if not 0 <= detected_share < 1:
            raise ConfigError(f"detected_share={detected_share}; choose a number in [0, 1).")
        self.threshold = threshold
        self.size_limits = size_limits
        self.detected_share = detected_share
        super().__init__()

    def _compute_tensor(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Per image Dice, false positives, healthy pixels and the 12 figures of ``_lesions``: (B, 15)."""
        rows = []
        for image, masks in checked_images(y_pred, mask=y):
            if image.ndim != 3:
                raise ImageShapeError(
                    f"anomaly map: shape {tuple(image.shape)}; lesion sizes need 2-D maps (1, X, Y)."
                )
            found, mask = image >= self.threshold, masks["mask"]
            dice = compute_dice(found[None].float(), mask[None].float(), ignore_empty=True)[0].double()
            healthy = torch.stack([(found & ~mask).sum(), (~mask).sum()]).double()
            rows.append(torch.cat([dice, healthy, self._lesions(found[0], mask[0]).flatten()]))
        return torch.stack(rows)

    def _lesions(self, found: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Lesions, detected lesions, pixels and found pixels for each size: (3, 4)."""
        regions, number = label_regions(mask)
        sizes = torch.bincount(regions.flatten(), minlength=number + 1)[1:]
        hits = torch.bincount(regions[found], minlength=number + 1)[1:]
        scale = mask.numel() / _REFERENCE_PIXELS
        low, high = (limit * scale for limit in self.size_limits)
        size_class = (sizes >= low).long() + (sizes > high).long()
        figures = torch.stack(
            [torch.ones_like(sizes), hits > self.detected_share * sizes, sizes, hits], dim=1
        )
        return torch.zeros(len(SIZES), 4, dtype=torch.float64).index_add_(0, size_class, figures.double())

    def dice(self) -> npt.NDArray[np.float64]:
        """Dice of every image of all processes (N,), NaN without an anomaly."""
        return self._rows()[:, 0]

    def aggregate(self) -> dict[str, float]:
        """Metrics over all images of all processes.

        Returns:
            `calibrated_dice`, the mean of the Dice per case over the cases with an anomaly, and `cases`,
            their number; `calibrated_fpr`, the share of pixels outside the masks that are anomalous; for size
            in small, medium, large: `lesions_<size>`, their number, `recall_<size>`, the share detected, and
            `pixel_recall_<size>`, the share of their pixels found. NaN where undefined.
        """
        rows = self._rows()
        cases = np.count_nonzero(~np.isnan(rows[:, 0]))
        total = rows[:, 1:].sum(axis=0)
        result = {
            "calibrated_dice": float(np.nanmean(rows[:, 0])) if cases else float("nan"),
            "cases": float(cases),
            "calibrated_fpr": _share(total[0], total[1]),
        }
        for size, (lesions, detected, pixels, found) in zip(SIZES, total[2:].reshape(3, 4), strict=True):
            result[f"lesions_{size}"] = float(lesions)
            result[f"recall_{size}"] = _share(detected, lesions)
            result[f"pixel_recall_{size}"] = _share(found, pixels)
        return result

    def _rows(self) -> npt.NDArray[np.float64]:
        buffer: torch.Tensor | None = self.get_buffer()  # type: ignore[no-untyped-call]
        return np.zeros((0, 15)) if buffer is None else buffer.cpu().numpy()


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
