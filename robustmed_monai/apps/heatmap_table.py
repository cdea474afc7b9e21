"""Heat maps of RISC with and without correction: do they turn with the image, and do they mean anything."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from robustmed_monai.engines.anomaly_study import summarize
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.metrics.heatmaps import deletion_insertion_auc, rotation_consistency
from robustmed_monai.transforms.rotation import degrees, rotate
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weight_parts import load_part
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.gradcam import gradcam
from robustmed_monai.visualize.heatmap_sheets import Panel, heatmap_sheet


class _Scores(NamedTuple):
    figures: dict[str, float]
    intervals: dict[str, list[float]]


class _Views(NamedTuple):
    """Turned images and what was found: first axis rotation, second image; maps (K, N, 1, S, S) by layer."""

    turned: torch.Tensor
    corrected: torch.Tensor
    angle: torch.Tensor
    rotnet: dict[str, torch.Tensor]
    plain: dict[str, torch.Tensor]
    canonical: dict[str, torch.Tensor]
    returned: dict[str, torch.Tensor]


class HeatmapTable:
    """GradCAM of RotNet and classifier at every rotation, scored and shown.

    Args:
        inferer: hard correction, with its RotNet.
        classifier: image to class logits.
        weights: files of "rotnet" and "classifier", as many of each, one per seed.
        test: test data with `image` in ``tensors``.
        layers: layers of the ResNets to look at; those of one value for the image's size are refused.
        max_cases: images to score, spread evenly over the test data.
        shown: rotations of how many images the sheet shows.
        device: where the networks run.
    """

    def __init__(
        self,
        inferer: RotationCorrectionInferer,
        classifier: nn.Module,
        weights: Mapping[str, Sequence[str]],
        test: Any,
        layers: Sequence[str] = ("layer1", "layer2", "layer3"),
        max_cases: int = 64,
        shown: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        self.inferer = inferer
        self.classifier = classifier.to(device)
        self.rotnet = cast(nn.Module, inferer.rotnet).to(device)
        self.weights = weights
        self.test = test
        self.layers = list(layers)
        self.shown = shown
        self.device = device
        images = test.tensors["image"]
        step = max(1, len(images) // max_cases)
        self.images = images[::step][:max_cases].to(device)

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Score all layers and write ``<table>.json`` and, of the first seed, ``<table>.png``.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON.
        """
        results: dict[str, list[_Scores]] = {}
        for number in range(len(self.weights["rotnet"])):
            load_part(self.rotnet, self.weights["rotnet"][number], "rotnet")
            load_part(self.classifier, self.weights["classifier"][number], "classifier")
            views = self._views()
            for layer in self.layers:
                for name, maps in (("no correction", views.plain), ("RISC", views.returned)):
                    seen = views.turned if name == "no correction" else views.corrected
                    local = maps[layer] if name == "no correction" else views.canonical[layer]
                    scores = self._scores(maps[layer], seen, local)
                    results.setdefault(f"{layer}, {name}", []).append(scores)
            if number == 0:
                save_png(self._sheet(views), Path(output) / f"{table}.png")
        digest = data_digest(sorted({item["image"] for item in self.test.data}))
        data = [{"name": table, "sha256": digest, "split": f"{len(self.images)} of test"}]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        path = write_results(Path(output) / f"{table}.json", summarize(cast(Any, results)), head)
        logging.getLogger(__name__).info(f"results are in {path}")
        return path

    def _views(self) -> _Views:
        count, mode = self.inferer.num_rotations, self.inferer.mode
        found: dict[str, list[torch.Tensor]] = {k: [] for k in ("turned", "corrected", "angle")}
        maps: dict[str, list[torch.Tensor]] = {k: [] for k in ("rotnet", "plain", "canonical", "returned")}
        layers = [f"trunk.{layer}" for layer in self.layers]
        for index in range(count):
            turned = rotate(self.images, index, count, mode)
            answer = self.inferer(turned, self.classifier)
            canonical = gradcam(self.classifier, answer["corrected"], self.layers)
            back = answer["rotation"].cpu()
            returned = [rotate(heat, back, count, mode) for heat in canonical]
            found["turned"].append(turned.cpu())
            found["corrected"].append(answer["corrected"].cpu())
            found["angle"].append(answer["angle"].cpu())
            maps["rotnet"].append(gradcam(self.rotnet, turned, layers))
            maps["plain"].append(gradcam(self.classifier, turned, self.layers))
            maps["canonical"].append(canonical)
            maps["returned"].append(torch.stack(returned))
        by_layer: dict[str, Any] = {
            kind: {layer: torch.stack([stack[i] for stack in stacks]) for i, layer in enumerate(self.layers)}
            for kind, stacks in maps.items()
        }
        stacked: dict[str, Any] = {kind: torch.stack(parts) for kind, parts in found.items()}
        return _Views(**stacked, **by_layer)

    def _scores(self, maps: torch.Tensor, seen: torch.Tensor, local: torch.Tensor) -> _Scores:
        count = self.inferer.num_rotations
        flat = seen.flatten(0, 1).to(self.device)
        predicted = self.inferer._run(self.classifier, flat).argmax(1)
        deletion, insertion = deletion_insertion_auc(
            self.classifier, flat, local.flatten(0, 1).to(self.device), predicted
        )
        values = {
            "consistency": rotation_consistency(maps, count, self.inferer.mode),
            "deletion": deletion.cpu().reshape(count, -1).mean(0),
            "insertion": insertion.cpu().reshape(count, -1).mean(0),
        }
        estimates = {k: bootstrap_mean(v.double().numpy()) for k, v in values.items()}
        known = {k: v for k, v in estimates.items() if v.value == v.value}
        return _Scores({k: v.value for k, v in known.items()}, {k: v.ci95 for k, v in known.items()})

    def _sheet(self, views: _Views) -> Any:
        count, last = self.inferer.num_rotations, self.layers[-1]
        headings = ["image", "RotNet", "no correction", "corrected"]
        headings += [f"classifier, {layer}" for layer in self.layers] + ["turned back"]
        rows, titles = [], []
        cases = range(0, len(self.images), max(1, len(self.images) // self.shown))
        for case in list(cases)[: self.shown]:
            for index in range(count):
                image, corrected = views.turned[index, case], views.corrected[index, case]
                panels = [Panel(image), Panel(image, views.rotnet[last][index, case])]
                panels += [Panel(image, views.plain[last][index, case]), Panel(corrected)]
                panels += [Panel(corrected, views.canonical[layer][index, case]) for layer in self.layers]
                rows.append([*panels, Panel(image, views.returned[last][index, case])])
                titles.append(f"{degrees(index, count):g}°, found {float(views.angle[index, case]):g}°")
        return heatmap_sheet(rows, headings, titles)
