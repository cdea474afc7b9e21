"""What unORANIC's training needs beside MONAI: its iteration of evaluation, the start of the PCA variant."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC
from robustmed_monai.transforms.corruption.core import Corruption, corrupt


def start_from_components(
    network: PCAUNORANIC, training: TensorDataset, corruption: Corruption, seed: int = 0, copies: int = 3
) -> None:
    """Let the PCA variant start from the principal components of its training images.

    Args:
        network: untrained.
        training: data set with `image` (N, C, X, Y).
        corruption: what the training corrupts by.
        seed: of the corruptions here.
        copies: corrupted copies of each image.
    """
    images = training.tensors[Keys.IMAGE]
    repeated = images.repeat(copies, 1, 1, 1)
    params = corruption.sample(repeated.shape, torch.Generator().manual_seed(seed))
    network.start_from(images, corrupt(repeated, corruption, params))


def both_reconstructions(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``restoration_iteration`` made, and what it should be: anatomy image and full reconstruction."""
    found = torch.cat([output[Keys.PRED], output["full"]])
    return found, torch.cat([output[Keys.IMAGE], output["corrupted"]])


def restoration_iteration(engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
    """Use as ``iteration_update`` with UNORANIC or another network that has ``reconstruct``.

    Args:
        engine: the evaluator.
        batchdata: `image` (B, C, X, Y) and `corrupted`, a corrupted copy of it.

    Returns:
        The engine's output: `image`, `corrupted`, `pred` (the anatomy image made from the corrupted one) and
        `full` (its full reconstruction).
    """
    image, corrupted = (
        batchdata[k].to(engine.state.device, non_blocking=engine.non_blocking)
        for k in (Keys.IMAGE, "corrupted")
    )
    engine.network.eval()
    with torch.no_grad():
        output = {
            Keys.IMAGE: image,
            "corrupted": corrupted,
            Keys.PRED: engine.inferer(corrupted, engine.network),
            "full": engine.network.reconstruct(corrupted),
        }
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output
