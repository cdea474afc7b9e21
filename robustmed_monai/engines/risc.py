"""RISC's training: one network after the other, RotNet's calibration, and both in one file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.handlers.best_weights import BestWeights
from robustmed_monai.handlers.checkpoint import AtomicCheckpoint
from robustmed_monai.inferers.risc import fit_temperature
from robustmed_monai.metrics.risc import rotation_confusion
from robustmed_monai.transforms.rotation import all_rotations, rotation_labels
from robustmed_monai.utils.bundle import restarted
from robustmed_monai.utils.weight_parts import join_weights
from robustmed_monai.utils.weights import load_info, load_into, save_weights

log = logging.getLogger(__name__)


def train_stage(
    trainer: Engine, checkpoint: AtomicCheckpoint, resume: bool = False, follows: bool = False
) -> None:
    """Run a trainer that others follow or precede; with ``resume`` a finished one is left as it is.

    Args:
        trainer: the trainer.
        checkpoint: where its states are; it is attached.
        resume: go on from the checkpoint. A run that torchrun or SLURM started again does so unasked, if it
            got as far as a checkpoint.
        follows: another training comes before, so that a run to go on with may have no checkpoint here.

    Raises:
        ConfigError: when the run to go on with had other settings.
        WeightsError: when there is no checkpoint, or it is damaged.
    """
    checkpoint.attach(trainer)
    if follows or not resume:
        resume = (resume or restarted()) and checkpoint.path.exists()
    if resume and checkpoint.is_finished(trainer):
        log.info(f"{checkpoint.path}: all {trainer.state.max_epochs} epochs are done; nothing is trained.")
        return
    if resume:
        checkpoint.resume(trainer)
    trainer.run()


def calibrate_rotnet(
    network: nn.Module,
    weights: BestWeights,
    validation: Any,
    num_rotations: int = 4,
    mode: str = "isotropic",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Keep with a trained RotNet the temperature that makes its confidence a probability.

    Args:
        network: RotNet of these weights; it is left with them loaded.
        weights: the best ones of the training.
        validation: validation data with `image` in ``tensors``.
        num_rotations: 4 or 8.
        mode: see ``rotate``.
        device: where the network runs.

    Returns:
        The ``info`` now stored with the weights: `temperature`, `validation_accuracy` and
        `validation_confusion` were added.
    """
    info = load_info(weights.path)
    load_into(network, weights.path)
    images = validation.tensors["image"]
    parts = []
    with torch.no_grad(), eval_mode(network):
        for part in images.split(max(1, 256 // num_rotations)):
            parts.append(network(all_rotations(part.to(device), num_rotations, mode)).float().cpu())
    logits, labels = torch.cat(parts), rotation_labels(len(images), num_rotations)
    predicted = logits.argmax(1).reshape(-1, num_rotations).T
    info["temperature"] = fit_temperature(logits, labels)
    info["validation_accuracy"] = float((logits.argmax(1) == labels).double().mean())
    info["validation_confusion"] = rotation_confusion(predicted).tolist()
    if idist.get_rank() == 0:
        save_weights(network.state_dict(), weights.path, info)
    return info


def join_risc(rotnet: BestWeights, classifier: BestWeights, path: str | os.PathLike[str]) -> None:
    """Write the weights of both networks into one file, and say how to go on.

    Args:
        rotnet: the best weights of RotNet.
        classifier: the best weights of the classifier.
        path: file to write.

    Raises:
        WeightsError: when a file is missing or altered.
    """
    if idist.get_rank() != 0:
        return
    join_weights({"rotnet": rotnet.path, "classifier": classifier.path}, path)
    log.info(
        f"RotNet and classifier are in {Path(path)}; give it to evaluate.json or inference.json as --weights."
    )
