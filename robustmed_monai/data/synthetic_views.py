"""Endless training batches from nothing, or from label maps: two contrasts of one deformed anatomy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.synthesis.deform import DiffeomorphicDeform
from robustmed_monai.transforms.synthesis.flip_crop import crop, flip, sample_crops, sample_flips
from robustmed_monai.transforms.synthesis.label_shapes import LabelShapes
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.utils.errors import ConfigError

_BATCH, _MAP = 0, 1  # what a seed is for


class SyntheticViews(IterableDataset[dict[str, Tensor]]):
    """Whole batches of two views of each anatomy, made on their device: ``image`` shows ``label`` twice.

    ``image`` is one tensor (2 B, 1, *S), view after view: rows b and B + b are two contrasts of map b. Batch
    i depends on the seed, i and the kind of device alone, so any number of workers gives the same batches in
    the same order, and a run can go on at any place. For a ``DataLoader`` set ``batch_size=None``.

    Label maps come from a cache that is refreshed slowly (the authors' demo has fixed maps): a map costs as
    much as an image, and flips and the deformation make it new. Every worker keeps a cache.

    Args:
        spatial_size: two or three sides.
        batch_size: number of anatomies B.
        length: number of batches; may be that of the whole training. Under torchrun each process has as many,
            all different.
        seed: of everything.
        num_labels: number of labels of the shapes.
        device: where batches are made; workers make theirs on the CPU.
        shapes: settings of the shapes instead of ``num_labels``.
        deform: settings of the deformation; None for the defaults.
        to_image: settings of the contrasts; None for the defaults.
        label_maps: (N, 1, *spatial_size) real label maps 0 to L - 1 to take instead of shapes.
        label_map_cache: number of maps in the cache; 0 makes every map anew.
        refresh: after how many batches one map of the cache is replaced; 0 never.
        flip_prob: probability of a flip along each axis.
        crop_prob: probability of a cropped field of view (label 0 outside).
        crop: largest share of each side that is lost then.
        start: number of the first batch.

    Raises:
        ConfigError: when a setting is out of range or the label maps do not fit.

    Source: Hoffmann et al., "SynthMorph", IEEE TMI 2022; two views as in Chua and Dalca, "Contrast
    invariant feature representations for segmentation and registration of medical images".

    Example:
        >>> views = SyntheticViews((32, 32), batch_size=2, length=3)
        >>> {key: tuple(value.shape) for key, value in next(iter(views)).items()}
        {'image': (4, 1, 32, 32), 'label': (2, 1, 32, 32)}
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        batch_size: int,
        length: int,
        seed: int = 0,
        num_labels: int = 16,
        device: str | torch.device = "cpu",
        *,
        shapes: LabelShapes | None = None,
        deform: DiffeomorphicDeform | None = None,
        to_image: LabelsToImage | None = None,
        label_maps: Tensor | None = None,
        label_map_cache: int = 40,
        refresh: int = 4,
        flip_prob: float = 0.5,
        crop_prob: float = 0.0,
        crop: float = 0.2,
        start: int = 0,
    ) -> None:
        self.size = tuple(spatial_size)
        if len(self.size) not in (2, 3) or min(self.size) < 2 or min(batch_size, length) < 1:
            raise ConfigError(
                f"SyntheticViews: spatial_size={self.size} needs two or three sides of at least 2 voxels, "
                f"batch_size={batch_size} and length={length} at least 1."
            )
        if min(seed, label_map_cache, refresh, start) < 0 or not all(
            0 <= p <= 1 for p in (flip_prob, crop_prob, crop)
        ):
            raise ConfigError(
                f"SyntheticViews: seed={seed}, label_map_cache={label_map_cache}, refresh={refresh}, "
                f"start={start} must not be negative; flip_prob={flip_prob}, crop_prob={crop_prob}, "
                f"crop={crop} lie in 0 to 1."
            )
        self.batch_size, self.length, self.seed, self.start = batch_size, length, seed, start
        self.device = torch.device(device)
        self.shapes = shapes or LabelShapes(num_labels)
        self.deform, self.to_image = deform or DiffeomorphicDeform(), to_image or LabelsToImage()
        self.num_labels = self.shapes.num_labels
        self.label_maps: Tensor | None = None
        if label_maps is not None:
            self.label_maps = self._checked(label_maps)
            found = int(label_maps.max()) + 1
            self.num_labels = len(self.to_image.means or range(found))
            if self.num_labels < found:
                raise ConfigError(
                    f"SyntheticViews: the label maps have labels up to {found - 1}, to_image has "
                    f"{self.num_labels} means; give one for each label."
                )
        self.label_map_cache, self.refresh = label_map_cache, refresh
        self.flip_prob, self.crop_prob, self.crop = flip_prob, crop_prob, crop
        # In a worker process nothing tells of the other processes of the training.
        self.rank, self.world = idist.get_rank(), idist.get_world_size()
        self._made: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        """Number of batches of this process."""
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield this worker's batches in turn."""
        worker = get_worker_info()
        if worker:
            self.device = torch.device("cpu")
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for k in range(first, self.length, step):
            yield self.batch(self.start + k * self.world + self.rank)

    @torch.no_grad()
    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``, whatever was made before.

        Returns:
            ``image`` (2 B, 1, *S) float32 in [0, 1], ``label`` (B, 1, *S) uint8.
        """
        generator = self._generator(_BATCH, index)
        rows, axes = self.batch_size, len(self.size)
        labels = self._maps(index, generator)
        labels = flip(labels, sample_flips(rows, axes, self.flip_prob, generator))
        ddf = self.deform.apply(self.deform.sample(rows, self.size, generator), self.size)
        labels = warp(labels, ddf, "nearest", "border")
        if self.crop_prob > 0:
            labels = crop(labels, sample_crops(rows, axes, self.crop_prob, self.crop, generator))
        params = self.to_image.sample(2 * rows, self.num_labels, self.size, generator)
        return {"image": self.to_image.apply(labels, params), "label": labels}

    def _maps(self, index: int, generator: torch.Generator) -> Tensor:
        """Label maps (B, 1, *S) before flips and deformation."""
        if self.label_maps is None and self.label_map_cache == 0:
            return self.shapes.apply(self.shapes.sample(self.batch_size, self.size, generator), self.size)
        count = self.label_map_cache if self.label_maps is None else len(self.label_maps)
        slots = torch.randint(count, (self.batch_size,), generator=generator, device=self.device)
        if self.label_maps is not None:
            return self.label_maps[slots]
        return torch.cat([self._cached(slot, index) for slot in slots.tolist()])

    def _cached(self, slot: int, index: int) -> Tensor:
        """The map that lies in a slot at a batch: replaced in turn, made when it is asked for first."""
        count = self.label_map_cache
        replaced = (index // self.refresh + count - slot) // count if self.refresh else 0
        if slot not in self._made or self._made[slot][0] != replaced:
            generator = self._generator(_MAP, replaced * count + slot)
            made = self.shapes.apply(self.shapes.sample(1, self.size, generator), self.size)
            self._made[slot] = (replaced, made)
        return self._made[slot][1]

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        words = np.random.SeedSequence([self.seed, purpose, number]).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(words[0]))

    def _checked(self, maps: Tensor) -> Tensor:
        if maps.ndim != len(self.size) + 2 or tuple(maps.shape[1:]) != (1, *self.size) or not len(maps):
            raise ConfigError(
                f"SyntheticViews: label_maps {tuple(maps.shape)} must have shape (N, 1, *{self.size})."
            )
        if maps.is_floating_point() or maps.min() < 0 or maps.max() > 255:
            raise ConfigError("SyntheticViews: label_maps must be of an integer type and hold 0 to 255.")
        return maps.to(self.device, torch.uint8)
