"""How well an anomaly map ranks the pixels of one image, whatever the level of the map in other images."""

from __future__ import annotations

import numpy as np

from robustmed_monai.metrics.curves import Array
from robustmed_monai.metrics.inputs import Images, checked_images


def ranking_within(maps: Images, masks: Images) -> dict[str, Array]:
    """Rank the pixels of each image on its own: two scanners may differ without a word about disease.

    Args:
        maps: anomaly maps (B, 1, X, Y), finite and >= 0.
        masks: of the same shape, 1 where anomalous.

    Returns:
        (B,) arrays, NaN for an image without anomalous or without healthy pixels: `within_ap`, the average
        precision of its anomalous pixels; `pointing`, 1 where its highest pixel is anomalous, and where
        several are highest the share of them that is.

    Raises:
        ImageShapeError, NonFiniteImageError, DataError: see ``PixelAnomalyMetric``.

    Source: pointing game: Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018.

    Example:
        >>> import torch
        >>> found = ranking_within(torch.tensor([[[[0.1, 0.9]]]]), torch.tensor([[[[0, 1]]]]))
        >>> found["within_ap"], found["pointing"]
        (array([1.]), array([1.]))
    """
    from sklearn.metrics import average_precision_score

    rows = []
    for image, found in checked_images(maps, mask=masks):
        mask = found["mask"]
        if mask.all() or not mask.any():
            rows.append((np.nan, np.nan))
            continue
        precision = average_precision_score(mask.flatten().numpy(), image.flatten().numpy())
        rows.append((precision, float(mask[image == image.max()].float().mean())))
    precisions, pointed = np.array(rows).T
    return {"within_ap": precisions, "pointing": pointed}
