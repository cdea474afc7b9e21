"""Fits the linear probes of trained weights and keeps them with the weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.apps.results_table import data_entries
from robustmed_monai.data.probe_data import ProbeData
from robustmed_monai.inferers.probe import FEATURES, Heads, extract_features, fit_probes, save_heads
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.result import Result, summarize
from robustmed_monai.utils.provenance import provenance, write_results
from robustmed_monai.utils.weights import load_info, load_into, save_weights


def train_probes(
    network: nn.Module,
    weights: str | os.PathLike[str],
    tasks: Mapping[str, ProbeData],
    output: str | os.PathLike[str],
    data: Mapping[str, Any],
    device: torch.device | str = "cpu",
    names: Sequence[str] = FEATURES,
    half: bool = False,
) -> Path:
    """Fit a probe per task and kind of features on a frozen network, and measure it on the test images.

    Args:
        network: network of the weights.
        weights: weights file.
        tasks: "disease" and "corruption" to what is to be told apart.
        output: folder for ``probe.json`` (figures), and ``model.pt`` with ``model_heads.pt``: the same
            weights with their heads (``load_heads``).
        data: section to data set in memory, for the record.
        device: where the network runs.
        names: kinds of features.
        half: store the weights in half precision, for shipping: half the size, and differences far below
            those between seeds.

    Returns:
        Path of ``probe.json``.
    """
    info = load_info(weights)
    load_into(network, weights).to(device).eval()
    if half:
        # Rounded before the probes are fitted, so that these belong to what is stored.
        network.half().float()
    heads: Heads = {}
    table: dict[str, list[Result]] = {}
    for task, task_data in tasks.items():
        heads[task] = fit_probes(network, task_data, names, device, f"{task}: {{}} features".format)
        features = extract_features(network, task_data.images["test"], device)
        for name, probe in heads[task].items():
            figures = classification_metrics(probe(features[name]), task_data.labels["test"].cpu())
            table[f"{task}, {name}"] = [Result(figures)]
    folder = Path(output)
    states = network.state_dict()
    if half:
        states = {k: v.half() if v.is_floating_point() else v for k, v in states.items()}
    save_weights(states, folder / "model.pt", info)
    save_heads(heads, folder / "model.pt")
    seeds = [info["seed"]] if isinstance(info.get("seed"), int) else []
    head = provenance(seeds=seeds, data=data_entries(data, "probe"), device=str(device))
    path = write_results(folder / "probe.json", summarize(table), head)
    logging.getLogger(__name__).info(f"figures are in {path}, weights with heads in {folder / 'model.pt'}")
    return path
