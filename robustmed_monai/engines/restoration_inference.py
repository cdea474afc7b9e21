"""unORANIC on image files: images without their corruptions on the file's own grid, and a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.inferers.familiarity import unfamiliar
from robustmed_monai.inferers.probe import LinearProbe, extract_features
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import SliceGeometry, filled_slices, slices_to_volume, volume_to_slices
from robustmed_monai.utils.errors import ConfigError

SCALINGS = ("full_scale", "percentile")


class RestorationFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    Args:
        image_size: side of the network's images in pixels.
        channels: channels of the network's images; 1 reduces a grey picture kept as RGB.
        scaling: what becomes 1: "full_scale" the white of a picture (how MedMNIST is trained on; volumes have
            no white and take the percentile), "percentile" a percentile of the foreground (datalists).
        upper_percentile: that percentile, of the whole image or volume.
        heads: probes of the weights (``load_heads``); the one for "corruption" gives the score, and without
            it there is none.
        features: features that the head looks at.
        reference: what the training images looked like, from the weights' info; None asks nothing.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        batch_size: slices that go through the network at once.

    Raises:
        ConfigError: for an unknown scaling, or heads without these features.
    """

    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        scaling: str = "full_scale",
        upper_percentile: float = 99.5,
        heads: Mapping[str, Mapping[str, LinearProbe]] | None = None,
        features: str = "characteristics",
        reference: Mapping[str, Any] | None = None,
        on_nonfinite: str = "raise",
        batch_size: int = 64,
    ) -> None:
        if scaling not in SCALINGS:
            raise ConfigError(f"scaling={scaling!r} is unknown; use one of {list(SCALINGS)}.")
        heads_of_task = (heads or {}).get("corruption", {})
        if heads_of_task and features not in heads_of_task:
            raise ConfigError(f"features={features!r}: the weights have heads for {sorted(heads_of_task)}.")
        self.head = heads_of_task.get(features)
        self.features = features
        self.image_size = image_size
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=channels)  # type: ignore[arg-type]
        self.scaling = scaling
        self.upper_percentile = upper_percentile
        self.reference = reference
        self.batch_size = batch_size

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, restore and bring back.

        Args:
            engine: the evaluator.
            item: ``{"image": path}``.

        Returns:
            `path`, `meta` of the source, `pred` (anatomy image) and `full` (full reconstruction) on the
            source's grid and in its intensities, `full_scale` (white in a picture), `slices`
            (what the network saw and drew: `image`, `pred`, `full`, `index` of those that are not empty),
            `scores` (probability that a slice is corrupted, None without a head), `changes` (root mean
            square of `full` - `pred` per slice) and `warnings` as sentences; or `path` and `error` when the
            file cannot be used.
        """
        return file_iteration(engine, item, self._infer)

    def _infer(self, engine: Any, path: str) -> dict[str, Any]:
        source = self.load(path)
        high = source.meta.get("max_value") if self.scaling == "full_scale" else None
        stack, geometry = volume_to_slices(
            source, self.image_size, high=high, upper_percentile=self.upper_percentile
        )
        # A slice without anything in it would be dreamt full.
        index = filled_slices(stack)
        drawn = self._draw(engine, stack, index)
        return {
            "path": path,
            "meta": source.meta,
            Keys.PRED: _on_grid(drawn[Keys.PRED], geometry),
            "full": _on_grid(drawn["full"], geometry),
            "full_scale": source.meta.get("max_value", geometry.high),
            "slices": {Keys.IMAGE: stack, Keys.PRED: drawn[Keys.PRED], "full": drawn["full"], "index": index},
            "scores": self._scores(engine, stack[index]),
            "changes": (drawn["full"] - drawn[Keys.PRED])[index].square().flatten(1).mean(1).sqrt(),
            "warnings": self._warnings(stack[index]),
        }

    def _draw(self, engine: Any, stack: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        drawn = {Keys.PRED: torch.zeros_like(stack), "full": torch.zeros_like(stack)}
        engine.network.eval()
        with torch.inference_mode():
            for part in index.split(self.batch_size) if len(index) else ():
                x = stack[part].to(engine.state.device)
                drawn[Keys.PRED][part] = engine.inferer(x, engine.network).clamp(0, 1).cpu()
                drawn["full"][part] = engine.network.reconstruct(x).clamp(0, 1).cpu()
        return drawn

    def _scores(self, engine: Any, slices: torch.Tensor) -> torch.Tensor | None:
        if self.head is None:
            return None
        if not len(slices):
            return torch.zeros(0)
        codes = extract_features(engine.network, slices, engine.state.device, self.batch_size)
        return self.head(codes[self.features])[:, 1]

    def _warnings(self, slices: torch.Tensor) -> list[str]:
        if not len(slices):
            return ["the image is empty: no voxel is above 0"]
        sentences = [] if self.head else ["the weights have no head for corruptions: there is no score"]
        return sentences + (unfamiliar(slices, self.reference) if self.reference else [])


def _on_grid(stack: torch.Tensor, geometry: SliceGeometry) -> torch.Tensor:
    return slices_to_volume(stack, geometry, rescale=True)
