"""CIFL on image files: an evaluator's iteration takes one file and yields features on the file's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import filled_slices, slices_to_volume, volume_to_slices
from robustmed_monai.utils.errors import ConfigError


class FeatureFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    The intensities of the whole image are scaled to [0, 1] once. A network with spatial_dims=2 sees pictures
    and the axial slices of volumes one by one, one with 3 whole volumes.

    Args:
        spatial_dims: 2 or 3, that of the network.
        image_size: side of the slices that a 2-D network sees, in pixels; None keeps the file's resolution.
        upper_percentile: percentile of the foreground that becomes 1.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        batch_size: slices that go through the network at once.

    Raises:
        ConfigError: for an ``image_size`` with spatial_dims=3.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        image_size: int | None = None,
        upper_percentile: float = 99.5,
        on_nonfinite: str = "raise",
        batch_size: int = 8,
    ) -> None:
        if spatial_dims == 3 and image_size is not None:
            raise ConfigError(f"image_size={image_size} is for slices; leave it out with spatial_dims=3.")
        self.spatial_dims = spatial_dims
        self.image_size = image_size
        self.upper_percentile = upper_percentile
        self.batch_size = batch_size
        self.load = LoadCheckedImage(
            on_nonfinite=on_nonfinite,  # type: ignore[arg-type]
            channels=1,
            spatial_dims=3 if spatial_dims == 3 else None,
        )

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, apply and bring back.

        Args:
            engine: the evaluator.
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source, `pred` (C, X, Y[, Z]), the features on the source's grid, `slices`
            (`image` and `pred` of all slices, nose up, and `index` of those that are not empty) and
            `warnings` as sentences; or `path` and `error` when the file cannot be used.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.load(path)
        stack, geometry = volume_to_slices(source, self.image_size, upper_percentile=self.upper_percentile)
        index = filled_slices(stack)
        engine.network.eval()
        with torch.inference_mode():
            features = (
                self._volume(engine, stack) if self.spatial_dims == 3 else self._slices(engine, stack, index)
            )
        return {
            "path": path,
            "meta": source.meta,
            Keys.PRED: slices_to_volume(features, geometry),
            "slices": {Keys.IMAGE: stack, Keys.PRED: features, "index": index},
            "warnings": [] if len(index) else ["the image is empty: no voxel is above 0"],
        }

    def _slices(self, engine: Any, stack: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        # The features of an empty slice are 0, not rounding errors blown up to unit length.
        features = torch.zeros(len(stack), engine.network.out_channels, *stack.shape[2:])
        for part in index.split(self.batch_size) if len(index) else ():
            features[part] = engine.inferer(stack[part].to(engine.state.device), engine.network).cpu()
        return features

    def _volume(self, engine: Any, stack: torch.Tensor) -> torch.Tensor:
        volume = stack.permute(1, 2, 3, 0)[None].contiguous().to(engine.state.device)
        features: torch.Tensor = engine.inferer(volume, engine.network)[0].cpu()
        return features.permute(3, 0, 1, 2).contiguous()
