"""Registration of image files: an evaluator's iteration takes two files and yields fields between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

from robustmed_monai.engines.file_iteration import file_iteration
from robustmed_monai.handlers.result_files import is_picture
from robustmed_monai.transforms.alignment import (
    align_affine,
    field_between,
    inverse_field_between,
    resample_to,
)
from robustmed_monai.transforms.field_files import (
    PICTURE_AFFINE,
    Matrix,
    sample_at,
    voxels_to_world,
    world_points,
)
from robustmed_monai.transforms.fields import folding, warp
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import SliceGeometry, volume_to_slices
from robustmed_monai.utils.errors import ImageShapeError

# Voxels between the lines that show a field.
_LINES = 8


@dataclass(frozen=True)
class _Source:
    """An image file: its voxels (*S), where they lie (R, A, S, mm), and its meta data."""

    voxels: npt.NDArray[Any]
    affine: Matrix
    meta: Mapping[Any, Any]


class RegistrationFileIteration:
    """``iteration_update`` of a SupervisedEvaluator whose loader yields single items (``batch_size=None``).

    The moving image is resampled to the fixed image's grid (through an affine alignment, if wanted), both are
    scaled to [0, 1], and the network registers them: slice by slice where it has two dimensions, as a whole
    where it has three. The field found is carried back to the fixed image's own voxels.

    Args:
        spatial_dims: 2 or 3, that of the network.
        image_size: side of the slices that a 2-D network sees, in pixels.
        spacing: voxel size that a 3-D network sees, mm.
        upper_percentile: percentile of the foreground that becomes 1.
        affine: align the images by an affine transform first, by mutual information.
        on_nonfinite: policy for NaN and infinite voxels, see LoadCheckedImage.
        batch_size: slices that go through the network at once.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        image_size: int = 128,
        spacing: float = 2.0,
        upper_percentile: float = 99.5,
        affine: bool = False,
        on_nonfinite: str = "raise",
        batch_size: int = 8,
    ) -> None:
        self.spatial_dims = spatial_dims
        self.image_size = image_size
        self.spacing = spacing
        self.upper_percentile = upper_percentile
        self.affine = affine
        self.batch_size = batch_size
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=1)  # type: ignore[arg-type]

    def __call__(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load, register and bring back.

        Args:
            engine: the evaluator.
            item: `moving` and `fixed`, and `image`, see ``list_pairs``.

        Returns:
            `path` of the moving image, `fixed`, `meta` of the fixed image, `moved` (1, *S) on its grid with
            the moving image's intensities; `field` (d, *S) from the fixed grid to the moving image and
            `inverse_field` (d, *T) back, in mm along (R, A, S), with `affine` and `moving_affine` of their
            grids; `matrix` of the alignment or None; `folds`; `slices` as the network saw them (`fixed`,
            `moving`, `moved`, and `field`, what it does to straight lines: (N, 1, X, Y)); or `path` and
            `error` when a file cannot be used.
        """
        return file_iteration(engine, item, lambda engine, _: self._infer(engine, item))

    def _infer(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        moving, fixed = self._read(str(item["moving"])), self._read(str(item["fixed"]))
        axes = fixed.voxels.ndim
        if moving.voxels.ndim != axes or axes < self.spatial_dims:
            raise ImageShapeError(
                f"{item['moving']}: {moving.voxels.ndim} dimensions, to be registered to one of {axes} "
                f"({item['fixed']}) by a network of {self.spatial_dims}; give two images of the same kind."
            )
        matrix = None
        if self.affine:
            matrix = align_affine(moving.voxels, moving.affine, fixed.voxels, fixed.affine)
        grids = self._volumes if self.spatial_dims == 3 else self._slices
        first, second, affine = grids(moving, fixed, matrix)
        found = self._register(engine, first, second)
        steps = [voxels_to_world(_placed(found[k], axes), affine) for k in ("ddf", "inverse_ddf")]
        field, inverse = _between(steps, affine, moving, fixed, matrix)
        points = world_points(fixed.voxels.shape, fixed.affine) + field
        return {
            "path": str(item["moving"]),
            "fixed": str(item["fixed"]),
            "meta": fixed.meta,
            "moved": sample_at(moving.voxels[None], moving.affine, points),
            "full_scale": moving.meta.get("max_value", float(moving.voxels.max())),
            "field": field,
            "inverse_field": inverse,
            "affine": fixed.affine,
            "moving_affine": moving.affine,
            "matrix": matrix,
            "folds": float(folding(found["ddf"]).mean()),
            "slices": _shown(first, second, found["ddf"]),
        }

    def _read(self, path: str) -> _Source:
        image = self.load(path)
        flat = is_picture(path, image.meta)
        affine = PICTURE_AFFINE if flat else image.affine.double().numpy()
        return _Source(image[0].numpy(), affine, image.meta)

    def _slices(
        self, moving: _Source, fixed: _Source, matrix: Matrix | None
    ) -> tuple[torch.Tensor, torch.Tensor, Matrix]:
        """Square slices (S, 1, X, Y) of both on the fixed grid, and where their stack lies."""
        near = resample_to(moving.voxels[None], moving.affine, fixed.voxels.shape, fixed.affine, matrix)
        stacks = []
        for voxels in (near, fixed.voxels[None]):
            image = _image(voxels, fixed.affine)
            stack, geometry = volume_to_slices(image, self.image_size, upper_percentile=self.upper_percentile)
            stacks.append(stack)
        return stacks[0], stacks[1], _stack_affine(geometry)

    def _volumes(
        self, moving: _Source, fixed: _Source, matrix: Matrix | None
    ) -> tuple[torch.Tensor, torch.Tensor, Matrix]:
        """Volumes (1, 1, *S) of both, oriented as in training, at the network's voxel size."""
        oriented = Orientation(axcodes="RPS", labels=None)(_image(fixed.voxels[None], fixed.affine))
        image: Any = Spacing((self.spacing,) * 3, mode="bilinear", padding_mode="zeros")(oriented)
        affine = np.asarray(image.affine, np.float64)
        near = resample_to(moving.voxels[None], moving.affine, tuple(image.shape[1:]), affine, matrix)
        volumes = [torch.from_numpy(near), torch.as_tensor(image).as_subclass(torch.Tensor)]
        scaled = [_scaled(volume.float(), self.upper_percentile)[None] for volume in volumes]
        return scaled[0], scaled[1], affine

    def _register(self, engine: Any, moving: torch.Tensor, fixed: torch.Tensor) -> dict[str, torch.Tensor]:
        engine.network.eval()
        found: dict[str, list[torch.Tensor]] = {"ddf": [], "inverse_ddf": []}
        pairs = torch.cat([moving, fixed], dim=1)
        with torch.inference_mode():
            for part in pairs.split(self.batch_size):
                answer = engine.inferer(part.to(engine.state.device), engine.network)
                # Where one of the two is empty there is nothing to register.
                filled = part.flatten(2).any(2).all(1).view(-1, *[1] * (part.ndim - 1))
                for key, values in found.items():
                    values.append(answer[key].cpu() * filled)
        return {key: torch.cat(values) for key, values in found.items()}


def _image(voxels: npt.NDArray[Any], affine: Matrix) -> MetaTensor:
    return MetaTensor(torch.from_numpy(voxels.astype(np.float32)), affine=torch.from_numpy(affine))


def _between(
    steps: list[Matrix], affine: Matrix, moving: _Source, fixed: _Source, matrix: Matrix | None
) -> tuple[Matrix, Matrix]:
    """The field from the fixed to the moving grid and back, from steps in mm on the network's grid."""
    on_fixed = sample_at(steps[0], affine, world_points(fixed.voxels.shape, fixed.affine))
    field = field_between(on_fixed, fixed.affine, matrix)
    inverse = inverse_field_between(steps[1], affine, moving.voxels.shape, moving.affine, matrix)
    return field, inverse


def _placed(ddf: torch.Tensor, axes: int) -> npt.NDArray[Any]:
    """Displacements of the network's batch as one field (axes, *S) of its grid."""
    if ddf.ndim == 5 or axes == 2:
        return ddf[0].numpy()
    # Slices do not move across their plane.
    flat = ddf.permute(1, 2, 3, 0)
    return torch.cat([flat, torch.zeros_like(flat[:1])]).numpy()


def _stack_affine(geometry: SliceGeometry) -> Matrix:
    """Voxel-to-world matrix of a stack (x, y, slice) of padded and resized slices."""
    sizes = geometry.stack_shape
    side = max(sizes[:2])
    scale = side / geometry.size
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for place, axis in enumerate(geometry.order):
        step = scale if place < 2 else 1.0
        # The first pixel's centre, in voxels of the oriented source.
        first = (scale - 1) / 2 - (side - sizes[place]) // 2 if place < 2 else 0.0
        flipped = axis in geometry.flips
        turn[axis, place] = -step if flipped else step
        turn[axis, 3] = sizes[place] - 1 - first if flipped else first
    matrix: Matrix = geometry.affine.numpy() @ turn
    return matrix


def _scaled(volume: torch.Tensor, percentile: float) -> torch.Tensor:
    inside = volume[volume > 0].numpy()
    top = float(np.percentile(inside, percentile)) if inside.size else 1.0
    return (volume / top).clamp(0, 1)


def _shown(moving: torch.Tensor, fixed: torch.Tensor, ddf: torch.Tensor) -> dict[str, torch.Tensor]:
    """The images, and straight lines moved by the field, as stacks of slices (N, 1, X, Y)."""
    lines = torch.zeros_like(fixed)
    lines[:, :, ::_LINES] = lines[:, :, :, ::_LINES] = 1
    images = {"fixed": fixed, "moving": moving, "moved": warp(moving, ddf), "field": warp(lines, ddf)}
    return {k: v if v.ndim == 4 else v[0].permute(3, 0, 1, 2) for k, v in images.items()}
