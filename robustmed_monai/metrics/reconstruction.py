"""How closely healthy images are reproduced."""

from __future__ import annotations

import torch
from monai.metrics.regression import MAEMetric, MSEMetric, PSNRMetric, SSIMMetric
from monai.utils.type_conversion import convert_to_tensor

from robustmed_monai.utils.errors import ImageShapeError, NonFiniteImageError

_SSIM_WINDOW = 11


def reconstruction_metrics(pred: torch.Tensor, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """L1, MSE, PSNR and SSIM of each image of a batch, by ``monai.metrics`` with the range [0, 1].

    Args:
        pred: (B, C, X, Y[, Z]) reconstructions in [0, 1].
        image: (B, C, X, Y[, Z]) originals in [0, 1].

    Returns:
        `l1`, `mse`, `psnr` (dB) and `ssim` (Gaussian window of 11 pixels), each (B,) on the CPU. The PSNR of
        equal images is inf.

    Raises:
        ImageShapeError: for shapes that differ or a side under 11 pixels.
        NonFiniteImageError: for NaN or infinite values.

    Example:
        >>> x = torch.zeros(2, 1, 16, 16)
        >>> reconstruction_metrics(x + 0.1, x)["psnr"]
        tensor([20., 20.])
    """
    if pred.shape != image.shape or image.ndim not in (4, 5) or min(image.shape[2:]) < _SSIM_WINDOW:
        raise ImageShapeError(
            f"pred {tuple(pred.shape)} and image {tuple(image.shape)}: give two batches of one shape "
            f"(B, C, X, Y[, Z]) with sides of at least {_SSIM_WINDOW} pixels."
        )
    p, x = (convert_to_tensor(t.detach(), dtype=torch.float32, track_meta=False) for t in (pred, image))
    for name, tensor in (("pred", p), ("image", x)):
        if not torch.isfinite(tensor).all():
            raise NonFiniteImageError(
                f"{name}: NaN or infinite values in the batch; look at the images it was made of."
            )
    measures = {
        "l1": MAEMetric(reduction="none"),
        "mse": MSEMetric(reduction="none"),
        "psnr": PSNRMetric(max_val=1.0, reduction="none"),
        "ssim": SSIMMetric(spatial_dims=x.ndim - 2, data_range=1.0, win_size=_SSIM_WINDOW, reduction="none"),
    }
    return {
        name: torch.as_tensor(measure(p, x)).flatten(1).mean(dim=1).cpu()
        for name, measure in measures.items()
    }
