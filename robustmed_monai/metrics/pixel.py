"""Pixel-level anomaly metrics from histograms, in constant memory.

A float32 that is not negative orders like its bit pattern, so the top bits of the pattern are a histogram
bin: bins of constant relative width, for maps of any scale and any number of values near 0, with no range to
be known beforehand.
"""

from __future__ import annotations

from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.metric import CumulativeIterationMetric

from robustmed_monai.metrics.curves import Array, auroc, average_precision, best_dice, partial_area, ratio
from robustmed_monai.metrics.inputs import Images, checked_images
from robustmed_monai.metrics.region import label_regions
from robustmed_monai.utils.errors import ConfigError

_EXPONENTS = 255  # of finite float32 numbers


class PixelAnomalyMetric(CumulativeIterationMetric):
    """AUROC, average precision, best Dice and PRO over all pixels of a data set, streaming.

    Call it with batches, as any MONAI metric, then ``aggregate``; ``monai.handlers.IgniteMetricHandler``
    takes it too. It holds three histograms, 25 MB by default, whatever the number of images; processes add
    theirs up in ``aggregate``. Pixels whose values agree to a relative 2**-mantissa_bits count as tied.

    Args:
        mantissa_bits: there are 2**mantissa_bits bins per factor of two, 4 to 16. More are needed only where
            a map sits on an offset that is thousands of times its contrast.
        pro_limit: highest false positive rate of the PRO curve, in (0, 1].

    Raises:
        ConfigError: for an argument out of range.

    References:
        PRO: Bergmann et al., "The MVTec anomaly detection dataset", IJCV 129, 2021, section 5.2.

    Example:
        >>> metric = PixelAnomalyMetric()
        >>> _ = metric(torch.tensor([[[[0.1, 0.2], [0.3, 0.9]]]]), torch.tensor([[[[0, 0], [0, 1]]]]))
        >>> metric.aggregate()["pixel_ap"]
        1.0
    """

    def __init__(self, mantissa_bits: int = 12, pro_limit: float = 0.3) -> None:
        if not 4 <= mantissa_bits <= 16:
            raise ConfigError(f"mantissa_bits={mantissa_bits}; choose 4 to 16.")
        if not 0 < pro_limit <= 1:
            raise ConfigError(f"pro_limit={pro_limit}; choose a false positive rate in (0, 1].")
        self.mantissa_bits = mantissa_bits
        self.pro_limit = pro_limit
        super().__init__()

    def reset(self) -> None:
        """Forget all pixels."""
        super().reset()  # type: ignore[no-untyped-call]
        bins = _EXPONENTS << self.mantissa_bits
        self._healthy = torch.zeros(bins, dtype=torch.int64)
        self._anomalous = torch.zeros(bins, dtype=torch.int64)
        # Each pixel of a region weighs 1 / (pixels of the region): the cumulative sum is the PRO curve.
        self._regions = torch.zeros(bins, dtype=torch.float64)

    def __call__(
        self, y_pred: Images, y: Images | None = None, ignore: Images | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Add images.

        Args:
            y_pred: anomaly maps (B, 1, X, Y[, Z]), finite and >= 0, any scale; or a list of (1, X, Y[, Z]).
            y: masks of the same shape, 1 where anomalous, else 0; None when all is healthy.
            ignore: masks of the same shape, 1 where a pixel does not count; None counts all.
            kwargs: part of MONAI's signature, not used.

        Returns:
            (B,) mean of each map, RA's image score; ``get_buffer`` gives those of all images and processes.

        Raises:
            ImageShapeError: for shapes that do not fit.
            NonFiniteImageError: for NaN or infinite values in a map.
            DataError: for negative values in a map, or values other than 0 and 1 in a mask.
        """
        scores = self._compute_tensor(y_pred, y, ignore=ignore)
        self.extend(scores)
        return scores

    def _compute_tensor(
        self, y_pred: Images, y: Images | None = None, ignore: Images | None = None, **kwargs: Any
    ) -> torch.Tensor:
        scores = []
        for image, masks in checked_images(y_pred, mask=y, ignore=ignore):
            scores.append(image.mean())
            counted = ~masks["ignore"]
            anomalous = masks["mask"] & counted
            # abs() turns -0.0, whose bit pattern is negative, into 0.0.
            bins = (image.abs().contiguous().view(torch.int32) >> self._dropped_bits).long()
            _count(self._healthy, bins[counted & ~anomalous])
            if anomalous.any():
                found = bins[anomalous]
                _count(self._anomalous, found)
                regions = label_regions(anomalous[0])[0][None]
                sizes = torch.bincount(regions.flatten()).double()
                self._regions.index_add_(0, found, 1 / sizes[regions[anomalous]])
        return torch.stack(scores)

    def aggregate(self) -> dict[str, float]:
        """Metrics over all images of all processes.

        Returns:
            `pixel_auroc`; `pixel_ap`; `pixel_best_dice`, at one threshold for the data set that is chosen
            with the masks, so an upper bound; `pixel_best_dice_threshold`, anomalous is map >= it;
            `pixel_pro`, the area under the mean overlap of the connected regions over false positive rates
            up to ``pro_limit``, divided by it; `pixel_prevalence`, the average precision of chance. NaN
            where undefined: rankings without anomalous or without healthy pixels, best Dice without
            anomalous pixels.
        """
        healthy, anomalous, regions = (
            _over_processes(c).double().numpy() for c in (self._healthy, self._anomalous, self._regions)
        )
        used = _highest_first(healthy + anomalous)
        pos, neg = anomalous[used], healthy[used]
        dice, index = best_dice(pos, neg)
        return {
            "pixel_auroc": float(auroc(pos, neg)),
            "pixel_ap": float(average_precision(pos, neg)),
            "pixel_best_dice": dice,
            "pixel_best_dice_threshold": self.edge(used[index]) if index >= 0 else float("nan"),
            "pixel_pro": partial_area(regions[used], neg, self.pro_limit),
            "pixel_prevalence": float(ratio(pos.sum(), pos.sum() + neg.sum())),
        }

    def healthy_counts(self) -> Array:
        """Healthy pixels per bin (K,) over all processes, lowest bin first."""
        counts: Array = _over_processes(self._healthy).double().numpy()
        return counts

    def edge(self, index: int) -> float:
        """Lower edge of a bin: the lowest value in it."""
        pattern = torch.tensor(int(index) << self._dropped_bits, dtype=torch.int32)
        return float(pattern.view(torch.float32))

    @property
    def _dropped_bits(self) -> int:
        return 23 - self.mantissa_bits


def _count(counts: torch.Tensor, bins: torch.Tensor) -> None:
    counts.index_add_(0, bins, torch.ones_like(bins))


def _highest_first(counts: Array) -> npt.NDArray[np.int64]:
    """Indices of the bins in use, at least one so that the curves have a point."""
    used = np.flatnonzero(counts)[::-1]
    return used if len(used) else np.zeros(1, dtype=np.int64)


def _over_processes(counts: torch.Tensor) -> torch.Tensor:
    if idist.get_world_size() == 1:
        return counts
    # A copy, since the sum replaces its argument and aggregate may be called again.
    total = cast(torch.Tensor, idist.all_reduce(counts.to(idist.device(), copy=True)))
    return total.cpu()
