"""pchVAE on image files: an evaluator's iteration takes one file and yields components on the file's grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.inferers.familiarity import in_distribution_slices, ood_slices, ood_warnings
from robustmed_monai.transforms.brain_zscore import ZScored, brain_zscore
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import SliceGeometry, filled_slices, slices_to_volume, volume_to_slices
from robustmed_monai.utils.errors import DataError, ImageShapeError

COMPONENTS = ("high", "low", Keys.PRED)


class ComponentFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    Args:
        image_size: side of the network's images in pixels.
        clip: bound of the z-scores, as in training.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        reference: what the training images looked like, from the weights' info; None asks nothing.
        batch_size: slices that go through the network at once.
    """

    def __init__(
        self,
        image_size: int = 64,
        clip: float = 1.5,
        on_nonfinite: str = "raise",
        reference: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.image_size = image_size
        self.clip = clip
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=1)  # type: ignore[arg-type]
        self.reference = reference
        self.batch_size = batch_size

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, decompose, judge and bring back.

        Args:
            engine: the evaluator.
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source; on its grid `high`, `pred` (x_sum), in its intensities, `low`, the
            signed part of them, and `anomaly_map`, in standard deviations of the brain; `slices` (what the
            network saw, the same keys and `image`, and `index`), `scores` by name per slice of `index`,
            `assessed` (1 where a slice looks like the training data, or everywhere when none does),
            `full_scale` (white in a picture), `unfamiliar` and `warnings` as sentences; or
            `path` and `error` when the file cannot be used.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.load(path)
        stack, geometry = volume_to_slices(source, self.image_size)
        try:
            scaled = brain_zscore(stack, self.clip)
        except DataError as error:
            raise ImageShapeError(f"{path}: {error}") from error
        index = filled_slices(scaled.brain)
        found = self._apply(engine, scaled, index)
        slices: dict[str, torch.Tensor] = {Keys.IMAGE: scaled.slices, "index": index}
        for key in (*COMPONENTS, "anomaly_map"):
            if key in found:
                empty = 0.0 if key in ("low", "anomaly_map") else -self.clip
                slices[key] = torch.full_like(scaled.slices, empty)
                slices[key][index] = found[key]
        grey = (scaled.slices + self.clip) / (2 * self.clip)
        strange = ood_slices(grey, index, self.reference)
        assessed = torch.zeros_like(scaled.slices)
        assessed[in_distribution_slices(strange)] = 1
        return {
            "path": path,
            "meta": source.meta,
            "slices": slices,
            **_on_source(slices, scaled, geometry),
            "scores": {k.removeprefix("score_"): v for k, v in found.items() if k.startswith("score_")},
            "assessed": slices_to_volume(assessed, geometry, mode="nearest-exact"),
            "full_scale": source.meta.get("max_value", geometry.high),
            "unfamiliar": strange,
            "warnings": ood_warnings(grey, strange, self.reference),
        }

    def _apply(self, engine: Any, scaled: ZScored, index: torch.Tensor) -> dict[str, torch.Tensor]:
        engine.network.eval()
        parts = [
            engine.inferer(scaled.slices[some].to(engine.state.device), engine.network)
            for some in index.split(self.batch_size)
        ]
        return {key: torch.cat([part[key].cpu() for part in parts]) for key in parts[0]}


def _on_source(
    slices: Mapping[str, torch.Tensor], scaled: ZScored, geometry: SliceGeometry
) -> dict[str, torch.Tensor]:
    """Components in the source's intensities (the low one without their zero) and the map, on its grid."""
    result: dict[str, torch.Tensor] = {}
    for key in ("high", Keys.PRED):
        if key in slices:
            plain = slices[key] * scaled.std + scaled.mean
            result[key] = slices_to_volume(plain, geometry, rescale=True)
    if "low" in slices:
        result["low"] = slices_to_volume(slices["low"], geometry) * (
            scaled.std * (geometry.high - geometry.low)
        )
    result["anomaly_map"] = slices_to_volume(slices["anomaly_map"], geometry).clamp(min=0)
    return result
