"""Data sets whose images were replaced by frozen features, computed once."""

from __future__ import annotations

import torch
from monai.networks.utils import eval_mode
from torch import nn
from tqdm import tqdm

from robustmed_monai.data.tensor_dataset import TensorDataset


def with_features(
    data: TensorDataset,
    features: nn.Module | None,
    device: torch.device | str = "cpu",
    amp: bool = False,
    batch_size: int = 16,
    precompute: bool = True,
) -> TensorDataset:
    """Replace `image` by what frozen features make of it, so that no epoch computes it again.

    Args:
        data: with `image` (N, 1, *spatial).
        features: image to features (B, C, *spatial); None returns the data as they are.
        device: where the features are computed; they are kept on the CPU, in float32 (N C voxels of 4 bytes).
        amp: compute them in bfloat16 autocast.
        batch_size: images at once.
        precompute: False returns the data as they are, for a network that computes its features itself.
    """
    if features is None or not precompute:
        return data
    found = []
    where = torch.device(device)
    with torch.no_grad(), eval_mode(features), torch.autocast(where.type, torch.bfloat16, enabled=amp):
        parts = data.tensors["image"].split(batch_size)
        for part in tqdm(parts, desc="features", leave=False, disable=None):
            image = part.to(where, memory_format=_format(part))
            found.append(features(image).float().cpu())
    return TensorDataset({**data.tensors, "image": torch.cat(found)}, data.data)


def _format(images: torch.Tensor) -> torch.memory_format:
    # Faster on most machines.
    return torch.channels_last if images.ndim == 4 else torch.contiguous_format
