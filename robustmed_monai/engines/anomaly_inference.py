"""RA on image files: an evaluator's iteration takes one file and yields maps on the file's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.inferers.familiarity import in_distribution_slices, ood_slices, ood_warnings
from robustmed_monai.inferers.ra import image_score
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import filled_slices, slices_to_volume, volume_to_slices


class FileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    Args:
        image_size: side of the network's images in pixels.
        upper_percentile: percentile of the foreground that becomes 1, as in training.
        channels: channels of the network's images.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        reference: what the training images looked like, from the weights' info; None asks nothing.
        batch_size: slices that go through the network at once.
    """

    def __init__(
        self,
        image_size: int = 128,
        upper_percentile: float = 99.5,
        channels: int = 1,
        on_nonfinite: str = "raise",
        reference: Mapping[str, Any] | None = None,
        batch_size: int = 16,
    ) -> None:
        self.image_size = image_size
        self.upper_percentile = upper_percentile
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=channels)  # type: ignore[arg-type]
        self.reference = reference
        self.batch_size = batch_size

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, reconstruct, compare and bring back.

        Args:
            engine: the evaluator.
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source, `slices` (what the network saw: `image`, `pred`, `anomaly_map`,
            `index`), `pred` and `anomaly_map` on the source's grid, `scores` per slice, `assessed` (1 where a
            slice looks like the training data, or everywhere when none does), `full_scale` (white in
            a picture), `unfamiliar` and `warnings` as sentences; or `path` and `error` when
            the file cannot be used, so that the other files of a folder are still done.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.load(path)
        stack, geometry = volume_to_slices(source, self.image_size, upper_percentile=self.upper_percentile)
        # A slice without anything in it has nothing to compare; the network would dream a head into it.
        filled = filled_slices(stack)
        pred, maps = torch.zeros_like(stack), torch.zeros_like(stack[:, :1])
        engine.network.eval()
        for part in filled.split(self.batch_size) if len(filled) else ():
            found = engine.inferer(stack[part].to(engine.state.device), engine.network)
            pred[part], maps[part] = found["pred"].cpu(), found["anomaly_map"].cpu()
        strange = ood_slices(stack, filled, self.reference)
        assessed = torch.zeros_like(maps)
        assessed[in_distribution_slices(strange)] = 1
        return {
            "path": path,
            "meta": source.meta,
            "slices": {Keys.IMAGE: stack, Keys.PRED: pred, "anomaly_map": maps, "index": filled},
            Keys.PRED: slices_to_volume(pred, geometry, rescale=True),
            "anomaly_map": slices_to_volume(maps, geometry).clamp(min=0),
            "assessed": slices_to_volume(assessed, geometry, mode="nearest-exact"),
            "full_scale": source.meta.get("max_value", geometry.high),
            "scores": image_score(maps),
            "unfamiliar": strange,
            "warnings": ood_warnings(stack, strange, self.reference),
        }
