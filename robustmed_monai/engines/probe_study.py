"""Fits the linear probes of trained weights and keeps them with the weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.engines.corruption_study import Table, table_rows
from robustmed_monai.engines.probe import FEATURES, LinearProbe, ProbeData, extract_features, fit_probes
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_info, load_into, save_weights

Heads = dict[str, dict[str, LinearProbe]]


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
        output: folder for ``probe.json`` (figures), and ``model.pt`` with ``model.json``: the same weights,
            which now bring their heads (``load_heads``).
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
    table: Table = {}
    for task, task_data in tasks.items():
        heads[task] = fit_probes(network, task_data, names, device, f"{task}: {{}} features".format)
        features = extract_features(network, task_data.images["test"], device)
        for name, probe in heads[task].items():
            table[f"{task}, {name}"] = [
                classification_metrics(probe(features[name]), task_data.labels["test"].cpu())
            ]
    folder = Path(output)
    info["heads"] = {task: {k: _listed(p) for k, p in probes.items()} for task, probes in heads.items()}
    states = network.state_dict()
    if half:
        states = {k: v.half() if v.is_floating_point() else v for k, v in states.items()}
    save_weights(states, folder / "model.pt", info)
    seeds = [info["seed"]] if isinstance(info.get("seed"), int) else []
    head = provenance(seeds=seeds, data=digests(data), device=str(device))
    path = write_results(folder / "probe.json", table_rows(table), head)
    logging.getLogger(__name__).info(f"figures are in {path}, weights with heads in {folder / 'model.pt'}")
    return path


def load_heads(weights: str | os.PathLike[str]) -> Heads:
    """Return the probes that were stored with weights: task to kind of features to probe; empty without.

    Raises:
        WeightsError: when the weights are missing or altered, or their heads are damaged.
    """
    stored = load_info(weights).get("heads", {})
    try:
        return {
            task: {
                name: LinearProbe(torch.tensor(p["weight"]), torch.tensor(p["bias"]), float(p["strength"]))
                for name, p in probes.items()
            }
            for task, probes in stored.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{weights}: damaged heads ({error}); run train_probe.json again.") from error


def digests(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Entries for ``provenance``: the digest of the files of each section's data set."""
    entries = []
    for section, dataset in data.items():
        paths = sorted({str(item["image"]) for item in dataset.data})
        name = Path(paths[0]).name if len(paths) == 1 else "datalist"
        entries.append({"name": name, "sha256": data_digest(paths), "split": section})
    return entries


def _listed(probe: LinearProbe) -> dict[str, Any]:
    # Seven digits are what float32 has.
    weight = [[float(f"{v:.7g}") for v in row] for row in probe.weight.tolist()]
    bias = [float(f"{v:.7g}") for v in probe.bias.tolist()]
    return {"weight": weight, "bias": bias, "strength": probe.strength}
