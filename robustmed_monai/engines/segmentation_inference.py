"""Segmentation of image files: label maps on the file's own grid and the volume of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import filled_slices, slices_to_volume, volume_to_slices


class SegmentationFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    Args:
        image_size: side of the network's images in pixels.
        upper_percentile: percentile of the foreground that becomes 1, as in training.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        batch_size: slices that go through the network at once.
    """

    def __init__(
        self,
        image_size: int = 128,
        upper_percentile: float = 99.5,
        on_nonfinite: str = "raise",
        batch_size: int = 16,
    ) -> None:
        self.image_size = image_size
        self.upper_percentile = upper_percentile
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=1)  # type: ignore[arg-type]
        self.batch_size = batch_size

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, segment and bring back.

        Args:
            engine: the evaluator; its network gives logits (B, classes, X, Y).
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source, `pred` (1, X, Y[, Z]) classes on the source's grid, `counts`
            (classes,) voxels of each, `voxel_ml` (volume of a voxel in ml; None where the file has no size of
            a voxel), `slices` (`image` and `pred` as the network saw them, `index` of those that hold
            anything) and `warnings`; or `path` and `error` when the file cannot be used.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.load(path)
        stack, geometry = volume_to_slices(source, self.image_size, upper_percentile=self.upper_percentile)
        index = filled_slices(stack)
        shares = self._shares(engine, stack, index)
        # Shares are interpolated and then compared, so that borders between classes stay smooth.
        classes = slices_to_volume(shares, geometry).argmax(0, keepdim=True).as_subclass(torch.Tensor)
        solid = source.ndim == 4
        return {
            "path": path,
            "meta": source.meta,
            Keys.PRED: classes,
            "counts": torch.bincount(classes.flatten(), minlength=shares.shape[1]),
            "voxel_ml": float(geometry.affine[:3, :3].det().abs()) / 1000 if solid else None,
            "slices": {Keys.IMAGE: stack, Keys.PRED: shares.argmax(1, keepdim=True), "index": index},
            "warnings": [] if len(index) else ["the image is empty: no voxel is above 0"],
        }

    def _shares(self, engine: Any, stack: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Probabilities (S, classes, X, Y); slices without anything in them are background."""
        engine.network.eval()
        # An empty stack goes through as well: the network alone knows its classes.
        parts = index.split(self.batch_size) if len(index) else [torch.tensor([0])]
        with torch.inference_mode():
            found = [
                engine.inferer(stack[part].to(engine.state.device), engine.network).float().softmax(1).cpu()
                for part in parts
            ]
        made = torch.cat(found)
        shares = torch.zeros(len(stack), *made.shape[1:])
        shares[:, 0] = 1
        if len(index):
            shares[index] = made
        return shares
