"""RISC on image files: an evaluator's iteration takes one file and tells its class, its rotation and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from robustmed_monai.data.labelled import SquareImages
from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.transforms.rotation import rotate, to_square
from robustmed_monai.transforms.slices import SliceGeometry, filled_slices, slices_to_volume, volume_to_slices
from robustmed_monai.utils.errors import ImageError
from robustmed_monai.visualize.gradcam import gradcam

# Above this size the filter of eight rotations takes more memory than a picture to look at is worth.
_FILTERED_SIZE = 128


class RotationFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    The evaluator's network is the classifier, its inferer a RotationCorrectionInferer. All slices of a volume
    lie turned alike, so RotNet is asked about them together.

    Args:
        image_size: side of the networks' images in pixels.
        channels: channels of the networks' images.
        upper_percentile: see SquareImages; as in training.
        layers: layers of the classifier to make heat maps of; the last one is also RotNet's. None makes none.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 1,
        upper_percentile: float | None = 99.5,
        layers: Sequence[str] | None = ("layer2", "layer3"),
        on_nonfinite: str = "raise",
    ) -> None:
        self.read = SquareImages(image_size, channels, upper_percentile, on_nonfinite)
        self.layers = list(layers or ())

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Read, classify and explain one file.

        Args:
            engine: the evaluator.
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source, `pred` (classes,) of the file, `angle`, `confidence`, `posterior`
            (K,), `abstained`, `slices` (per slice with anything in it: `index`, `pred`, `image`, `corrected`,
            and with layers `heat` (layers, S, 1, X, Y) in the upright and `heat_turned` in the file's frame,
            `heat_rotnet`), `corrected` (C, X, Y[, Z]) with `affine` at the file's own resolution, `heatmap`
            on the file's grid; or `path` and `error` when the file cannot be used.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.read.load(path)
        own = self.read.scaled(source)
        filled = filled_slices(own)
        if not len(filled):
            raise ImageError(f"{path}: the image is empty; there is nothing to classify.")
        stack = to_square(own[filled], self.read.image_size)
        inferer: RotationCorrectionInferer = engine.inferer
        answer = inferer(stack.to(engine.state.device), engine.network)
        answer = {key: value.cpu() for key, value in answer.items()}
        turns = int(answer["rotation"][0])
        geometry = volume_to_slices(source, None)[1]
        slices = {"index": filled, "image": stack, "pred": answer["pred"], "corrected": answer["corrected"]}
        output = {
            "path": path,
            "meta": source.meta,
            "pred": answer["pred"].mean(0),
            "angle": float(answer["angle"][0]),
            "confidence": float(answer["confidence"][0]),
            "posterior": answer["posterior"][0],
            "abstained": bool(answer["abstained"][0]),
            "slices": slices,
            **_corrected(own, turns, inferer, geometry),
        }
        if self.layers:
            slices |= self._heat(engine, answer, stack, turns)
            whole = torch.zeros(len(own), 1, *stack.shape[2:])
            whole[filled] = slices["heat_turned"][-1]
            placed = replace(geometry, size=self.read.image_size)
            output["heatmap"] = slices_to_volume(whole, placed).clamp(0, 1)
        return output

    def _heat(
        self, engine: Any, answer: Mapping[str, torch.Tensor], stack: torch.Tensor, turns: int
    ) -> dict[str, torch.Tensor]:
        inferer, device = engine.inferer, engine.state.device
        shown = answer["pred"].mean(0).argmax()
        heat = gradcam(engine.network, answer["corrected"].to(device), self.layers, shown.to(device))
        turned = [rotate(maps, turns, inferer.num_rotations, inferer.mode) for maps in heat]
        found = {"heat": heat, "heat_turned": torch.stack(turned)}
        if isinstance(inferer.rotnet, nn.Module):
            found["heat_rotnet"] = gradcam(inferer.rotnet, stack.to(device), f"trunk.{self.layers[-1]}")[0]
        return found


def _corrected(
    own: torch.Tensor, turns: int, inferer: RotationCorrectionInferer, geometry: SliceGeometry
) -> dict[str, torch.Tensor]:
    """The file's own slices, padded to squares and turned back, and the affine of their stack."""
    mode = inferer.mode if own.shape[-1] <= _FILTERED_SIZE else "bilinear"
    upright = rotate(own, -turns, inferer.num_rotations, mode).permute(1, 2, 3, 0)
    if len(geometry.spatial_shape) == 2:
        upright = upright[..., 0]
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[3, 3] = 1
    sizes = geometry.stack_shape
    side = max(sizes[:2])
    for place, axis in enumerate(geometry.order):
        margin = (side - sizes[place]) // 2 if place < 2 else 0
        flipped = axis in geometry.flips
        matrix[axis, place] = -1 if flipped else 1
        matrix[axis, 3] = sizes[place] - 1 + margin if flipped else -margin
    return {"corrected": upright, "affine": geometry.affine.double() @ matrix}
