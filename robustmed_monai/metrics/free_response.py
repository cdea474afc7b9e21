"""Free-response curve: which share of lesions is found when so many false regions an image are accepted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from robustmed_monai.metrics.inputs import Images, checked_images
from robustmed_monai.metrics.region import label_regions


def free_response(
    maps: Images,
    masks: Images,
    false_regions: Sequence[float] = (1, 2, 4),
    thresholds: int = 40,
    min_pixels: int = 5,
) -> dict[str, float]:
    """Recall of lesions at numbers of false regions per image.

    At each threshold the regions of ``map >= threshold`` are what a reader would be shown. A lesion, a
    connected region of the mask, is found when the highest point of one of them lies in it; one whose highest
    point lies in none is false; of several highest points each counts for its share. The recall at f is the
    highest over the thresholds with at most f false regions an image, healthy images counted too.

    Args:
        maps: anomaly maps (B, 1, X, Y), finite and >= 0.
        masks: of the same shape, 1 where anomalous.
        false_regions: numbers f.
        thresholds: how many are tried, quantiles of all pixels from .8 to 1, closer towards 1.
        min_pixels: smaller regions of the map are shown to nobody.

    Returns:
        `recall_at_<f>`; NaN without a lesion.

    Raises:
        ImageShapeError, NonFiniteImageError, DataError: see ``PixelAnomalyMetric``.

    Source: Bunch et al., "A free response approach to the measurement and characterization of radiographic
        observer performance", 1977.

    Example:
        >>> maps, masks = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        >>> maps[..., :3, :3], masks[..., :3, :3] = 1.0, 1.0
        >>> free_response(maps, masks, (1,))
        {'recall_at_1': 1.0}
    """
    cases = [(image, found["mask"]) for image, found in checked_images(maps, mask=masks)]
    values = torch.cat([image.flatten() for image, _ in cases]).numpy()
    cuts = np.unique(np.quantile(values, 1 - np.geomspace(0.2, 1 / len(values), thresholds), method="lower"))
    cuts = cuts[cuts > 0]
    hits, false, lesions = np.zeros(len(cuts)), np.zeros(len(cuts)), 0
    for image, mask in cases:
        truth, count = label_regions(mask.squeeze(0).bool())
        lesions += count
        plane = image.squeeze(0)
        for i, cut in enumerate(cuts[cuts <= float(plane.max())]):
            touched, wrong = _against(plane, plane >= cut, truth, min_pixels)
            hits[i] += touched
            false[i] += wrong
    result = {}
    for allowed in false_regions:
        recalls = hits[false <= allowed * len(cases)]
        recall = float(recalls.max(initial=0) / lesions) if lesions else float("nan")
        result[f"recall_at_{allowed:g}"] = recall
    return result


def _against(
    plane: torch.Tensor, shown: torch.Tensor, truth: torch.Tensor, min_pixels: int
) -> tuple[float, float]:
    """Lesions in which a shown region has its highest point, and regions that have it in none.

    Where several pixels of a region are the highest, each counts for its share.
    """
    from scipy.ndimage import maximum

    labelled, number = label_regions(shown)
    regions, lesions, values = (t.numpy().ravel() for t in (labelled, truth, plane))
    sizes = np.bincount(regions, minlength=number + 1)
    tops = np.full(number + 1, np.inf)
    if number:
        tops[1:] = maximum(values, regions, np.arange(1, number + 1))
    tops[sizes < min_pixels] = np.inf
    highest = values == tops[regions]
    share = np.zeros((number + 1, int(lesions.max(initial=0)) + 1))
    np.add.at(share, (regions[highest], lesions[highest]), 1.0)
    share /= np.maximum(share.sum(1, keepdims=True), 1)
    hits = 1 - np.prod(1 - share[:, 1:], axis=0)
    return float(hits.sum()), float(share[:, 0].sum())
