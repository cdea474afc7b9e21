"""Scores of heat maps: do they turn with the image, and do they show what the classifier looks at."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.metrics.result import Result
from robustmed_monai.metrics.risc import Corrected, load_corrected
from robustmed_monai.transforms.rotation import circular_mask, degrees, rotate
from robustmed_monai.utils.errors import DataError
from robustmed_monai.visualize.gradcam import gradcam
from robustmed_monai.visualize.grids import evenly_spaced
from robustmed_monai.visualize.risc import Panel, heatmap_sheet

_SHOWN = 2  # images of the sheet


def explained_rows(layers: Sequence[str], checkpoints: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the table: each layer's heat map, with and without correction of the rotation.

    Args:
        layers: layers of the classifier.
        checkpoints: names of the checkpoints that ``load_explained`` gets.
    """
    return {
        f"{layer}, {name}": {"checkpoints": checkpoints, "layer": layer, "corrected": name == "RISC"}
        for layer in layers
        for name in ("no correction", "RISC")
    }


def rotation_consistency(maps: torch.Tensor, num_rotations: int = 4, mode: str = "isotropic") -> torch.Tensor:
    """Correlation of a heat map of the rotated image, rotated back, with that of the upright image.

    Args:
        maps: (K, N, 1, S, S): ``maps[k, n]`` is the map of image n turned by rotation k, in that frame.
        num_rotations: K.
        mode: see ``rotate``.

    Returns:
        (N,) mean Pearson correlation over the K - 1 turned copies, in [-1, 1]; NaN where a map is flat. With
        eight rotations all maps are filtered and masked alike and compared within the mask.

    Raises:
        DataError: when the first axis is not K.
    """
    if len(maps) != num_rotations:
        raise DataError(f"maps of {len(maps)} rotations; give those of all {num_rotations}.")
    back = torch.stack([rotate(maps[k], -k, num_rotations, mode) for k in range(num_rotations)])
    weight = torch.ones(maps.shape[-2:])
    if num_rotations == 8:
        weight = (circular_mask(maps.shape[-1]) > 0.5).float()
    flat = back.flatten(2)[..., weight.flatten() > 0].double()
    centred = flat - flat.mean(2, keepdim=True)
    norms = centred.norm(dim=2)
    cosine: torch.Tensor = (centred[1:] * centred[:1]).sum(2) / (norms[1:] * norms[:1])
    return cosine.mean(0)


def deletion_insertion_auc(
    network: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    class_idx: torch.Tensor,
    steps: int = 16,
    batch_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas under the class probability while the hottest pixels are taken away, and while they are put back.

    Pixels are replaced by the image's own mean, so that nothing but information is lost.

    Args:
        network: image to logits.
        images: (B, C, X, Y) in [0, 1].
        maps: heat maps (B, 1, X, Y).
        class_idx: (B,) the class whose probability is followed.
        steps: steps from no pixel to all pixels.
        batch_size: images that go through the network at once.

    Returns:
        Deletion (B,), low for a good map, and insertion (B,), high for a good map; both in [0, 1].

    Source: Petsiuk et al., RISE, BMVC 2018.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device)
    rank = torch.zeros_like(order).scatter(1, order, places.expand_as(order))
    rank = rank.reshape(maps.shape)
    empty = images.mean((2, 3), keepdim=True).expand_as(images)
    pixels = order.shape[1]
    curves = []
    for background, foreground in ((images, empty), (empty, images)):
        values = []
        for step in range(steps + 1):
            changed = torch.where(rank < step * pixels / steps, foreground, background)
            values.append(_probability(network, changed, class_idx, batch_size))
        curves.append(torch.trapezoid(torch.stack(values), dx=1 / steps, dim=0))
    return curves[0], curves[1]


def _probability(
    network: nn.Module, images: torch.Tensor, class_idx: torch.Tensor, batch_size: int
) -> torch.Tensor:
    with torch.no_grad(), eval_mode(network):
        parts = [network(part).float().softmax(1) for part in images.split(batch_size)]
    return torch.cat(parts).gather(1, class_idx[:, None].to(images.device))[:, 0]


class Explained(NamedTuple):
    """A classifier and RotNet, the layer of the heat maps, and whether these are of corrected images."""

    model: Corrected
    layer: str
    corrected: bool


def load_explained(*files: str | os.PathLike[str], layer: str, corrected: bool, **settings: Any) -> Explained:
    """Load the weights of a row of heat maps.

    Args:
        files: weights of classifier and RotNet.
        layer: name of the layer of the ResNets.
        corrected: make the maps of the corrected images and rotate them back, not of the images themselves.
        settings: those of ``load_corrected``.
    """
    return Explained(load_corrected(*files, **settings), layer, corrected)


def measure_heatmaps(
    explained: Explained, test: Any, max_cases: int = 64, device: torch.device | str = "cpu"
) -> Result:
    """Score GradCAM maps of the classifier at every rotation of test images.

    Args:
        explained: of ``load_explained``.
        test: upright images (N, C, X, Y) as `image` in its ``tensors``.
        max_cases: images to score, spread evenly over the test data.
        device: where the networks run.

    Returns:
        `consistency` of the maps over the rotations, areas under the curves of `deletion` and `insertion`.

    Raises:
        ConfigError: when a layer's map is a single value.
    """
    (inferer, network, _), layer = explained.model, explained.layer
    classifier, rotnet = cast(nn.Module, network), cast(nn.Module, inferer.rotnet)
    count, images = inferer.num_rotations, test.tensors["image"]
    images = evenly_spaced(images, max_cases).to(device)
    shown = evenly_spaced(torch.arange(len(images)), _SHOWN).tolist()
    maps, scores, sheet = [], [], []
    for index in range(count):
        rotated = rotate(images, index, count, inferer.mode)
        answer = inferer(rotated, classifier)
        seen = answer["corrected"] if explained.corrected else rotated
        heat = gradcam(classifier, seen, layer)[0]
        back = answer["rotation"].cpu() if explained.corrected else 0
        maps.append(rotate(heat, back, count, inferer.mode) if explained.corrected else heat)
        predicted = _predicted(classifier, seen)
        scores.append(torch.stack(deletion_insertion_auc(classifier, seen, heat.to(device), predicted)).cpu())
        found = {"image": rotated, "corrected": answer["corrected"], "angle": answer["angle"], "heat": heat}
        found |= {"back": maps[-1], "rotnet": gradcam(rotnet, rotated[shown], f"trunk.{layer}")[0]}
        sheet.append({k: (v if k == "rotnet" else v[shown]).cpu() for k, v in found.items()})
    values = {"consistency": rotation_consistency(torch.stack(maps), count, inferer.mode)}
    values |= dict(zip(("deletion", "insertion"), torch.stack(scores).mean(0), strict=True))
    figures = {name: bootstrap_mean(value.double().numpy()) for name, value in values.items()}
    return Result(
        {name: figure for name, figure in figures.items() if figure.value == figure.value},
        shown={"layer": layer, "corrected": explained.corrected, "sheet": sheet},
    )


def heatmap_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Sheet of some test images at every rotation: RotNet's and the classifier's maps, the first seed's."""
    rows = [seeds[0].shown for seeds in results.values()]
    plain = [row for row in rows if not row["corrected"]]
    corrected = [row for row in rows if row["corrected"]]
    if not plain or not corrected:
        return {}
    headings = ["image", "RotNet", "no correction", "corrected"]
    headings += [f"classifier, {row['layer']}" for row in corrected] + ["rotated back"]
    count, last = len(corrected[-1]["sheet"]), corrected[-1]["sheet"]
    panels, titles = [], []
    for case in range(len(last[0]["image"])):
        for index in range(count):
            image, upright = last[index]["image"][case], last[index]["corrected"][case]
            line = [Panel(image), Panel(image, last[index]["rotnet"][case])]
            line += [Panel(image, plain[-1]["sheet"][index]["heat"][case]), Panel(upright)]
            line += [Panel(upright, row["sheet"][index]["heat"][case]) for row in corrected]
            panels.append([*line, Panel(image, last[index]["back"][case])])
            titles.append(f"{degrees(index, count):g}°, found {float(last[index]['angle'][case]):g}°")
    return {"sheet": heatmap_sheet(panels, headings, titles)}


def _predicted(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), eval_mode(network):
        found: torch.Tensor = network(images).argmax(1)
    return found
