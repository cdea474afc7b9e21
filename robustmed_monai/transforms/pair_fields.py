"""Two images of any grids made ready for a registration network, and its fields brought back to them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd, Transform

from robustmed_monai.transforms.align_to_template import AlignToTemplate, Placement
from robustmed_monai.transforms.alignment import (
    align_affine,
    field_between,
    inverse_field_between,
    refine_affine,
    resample_to,
)
from robustmed_monai.transforms.field_files import (
    PICTURE_AFFINE,
    Matrix,
    sample_at,
    voxels_to_world,
    world_points,
)
from robustmed_monai.transforms.fields import folding
from robustmed_monai.transforms.same_grid import has_voxel_size
from robustmed_monai.transforms.scale_foreground import ScaleForeground
from robustmed_monai.utils.errors import ImageError, ImageShapeError

_SPACING = 2.0


class TargetGridd(Transform):
    """Bring the fixed image of a pair to the grid of a 3-D network; a 2-D one takes its own grid.

    Args:
        spatial_dims: 2 or 3, that of the network.
        spacing: side of the network's voxels in mm; None: 2 mm.

    Reads `fixed` (1, X, Y[, Z]) and adds `target`: for a 3-D network upright (axes R, P, S), with cubic
    voxels.
    """

    def __init__(self, spatial_dims: int = 2, spacing: float | None = None) -> None:
        upright: Any = Orientationd("target", axcodes="RPS", labels=None)
        cubic: Any = Spacingd("target", pixdim=[spacing or _SPACING] * 3, padding_mode="zeros")
        self.to_grid = Compose([upright, cubic] if spatial_dims == 3 else [])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with `target`."""
        result: dict[Hashable, Any] = self.to_grid({**data, "target": data["fixed"].clone()})
        return result


class ResampleMovingd(Transform):
    """Resample the moving image to a grid of the fixed image, through an affine alignment if wanted.

    Args:
        affine: align by mutual information first (``align_affine``).
        spatial_dims: 2 or 3, that of the network; a 2-D one takes the slices of volumes too.

    Reads `moving` and `fixed`, as loaded, and `target` (1, *S), the fixed image on the grid to resample to.
    Adds `source` (1, *S), the moving image there, and `alignment`, the 4x4 matrix from world points of the
    fixed image to those of the moving one (None without an alignment).

    Raises:
        ImageError: when one of the images is empty, or they do not overlap.
        ImageShapeError: when one is a volume and the other is not, or the network takes neither.
    """

    def __init__(self, affine: bool = False, spatial_dims: int = 2) -> None:
        self.affine = affine
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with `source` and `alignment`."""
        moving, fixed, target = data["moving"], data["fixed"], data["target"]
        _check_pair(moving, fixed, self.spatial_dims)
        matrix = None
        if self.affine:
            matrix = align_affine(_voxels(moving)[0], world(moving), _voxels(fixed)[0], world(fixed))
        shape = tuple(target.shape[1:])
        near = resample_to(_voxels(moving), world(moving), shape, world(target), matrix)
        if not near.any():
            raise ImageError(
                f"{_name(moving)}: does not overlap with {_name(fixed)}; check the two files, or align them "
                "first with --affine True."
            )
        source = MetaTensor(torch.from_numpy(near).float())
        source.copy_meta_from(target)
        # What is written has the intensities of the moving image.
        source.meta = {**target.meta, "max_value": moving.meta.get("max_value")}
        return {**data, "source": source, "alignment": matrix}


class AlignPaird(Transform):
    """Carry two whole heads into the MNI152 frame, for a network of that frame.

    Each is aligned by itself; then the moving one is aligned to the fixed one by an affine transform there.

    Args:
        size: side of the slices, see ``AlignToTemplate``.
        spacing: mm, see ``AlignToTemplate``.
        heights: lowest and highest slice in mm, see ``AlignToTemplate``.
        percentile: of the foreground, which becomes white, see ``ScaleForeground``.

    Reads `moving` and `fixed`, as loaded. Adds `target` and `source` (1, *S), the fixed and the moving head
    in [0, 1] in the frame, whose affine leads to the world of the fixed image, and `alignment`, the 4x4
    matrix from world points of the fixed image to those of the moving one.

    What is to be said of a head, as that it is turned against what its file says, is a warning that begins
    with "moving" or "fixed".

    Raises:
        ImageError: when one of the images is empty or cannot be aligned.
        ImageShapeError: when one is no volume of a known voxel size.
    """

    def __init__(
        self,
        size: int = 112,
        spacing: float = 2.0,
        heights: Sequence[float] = (-72.0, 90.0),
        percentile: float = 99.5,
    ) -> None:
        self.frame = AlignToTemplate(size, spacing, heights)
        self.scale = ScaleForeground(percentile=percentile)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with `target`, `source` and `alignment`."""
        moving, fixed = data["moving"], data["fixed"]
        _check_pair(moving, fixed, spatial_dims=3)
        placed = self._placed(moving, "moving")
        (source, _), (target, to_fixed) = self.carried(*placed), self.carried(*self._placed(fixed, "fixed"))
        between = refine_affine(source[0].numpy(), target[0].numpy(), self.frame.affine.numpy())
        source, to_moving = self.carried(*placed, between)
        for image in (source, target):
            image.copy_meta_from(fixed)
            image.affine = torch.from_numpy(to_fixed) @ self.frame.affine
        # What is written has the intensities of the moving image.
        source.meta["max_value"] = moving.meta.get("max_value")
        alignment = to_moving @ np.linalg.inv(to_fixed)
        return {**data, "source": source, "target": target, "alignment": alignment}

    def _placed(self, image: MetaTensor, which: str) -> tuple[MetaTensor, Placement]:
        with warnings.catch_warnings(record=True) as said:
            found = self.place(image)
        for one in said:
            warnings.warn(f"{which} image: {one.message}", one.category, stacklevel=3)
        return found

    def place(self, image: MetaTensor) -> tuple[MetaTensor, Placement]:
        """Return a head in [0, 1], and where the frame lies in it."""
        head = cast(MetaTensor, self.scale(image))
        where = self.frame.place(head)
        if not isinstance(where, Placement) or where.matrix is None:
            raise ImageShapeError(
                f"{_name(image)}: has no voxel size, and a whole head is aligned by it; give a volume that "
                "states it (NIfTI), or leave --overlay whole_head out."
            )
        return head, where

    def carried(
        self, head: MetaTensor, where: Placement, between: Matrix | None = None
    ) -> tuple[MetaTensor, Matrix]:
        """Return what ``place`` gave in the frame, and the matrix from points of MNI152 to its world.

        ``between`` leads from points of MNI152 to those where the head's own alignment is asked.
        """
        if between is not None:
            moved = torch.linalg.inv(self.frame.affine) @ torch.from_numpy(between) @ self.frame.affine
            where = Placement(where.spatial_shape, where.matrix @ moved)
        carried = MetaTensor(self.frame(head, where).as_tensor().clamp(0, 1))
        to_world: Matrix = world(head) @ (where.matrix @ torch.linalg.inv(self.frame.affine)).numpy()
        return carried, to_world


class PairFieldsd(Transform):
    """Bring the displacements of a registration network to the grids of its two files.

    Reads `moving`, `fixed` and `alignment`, `image`, whose affine is that of the network's grid, and `ddf`,
    `inverse_ddf` and `velocity` (d, *S) in voxels of it. Adds `field` (d, *fixed) and `inverse_field`
    (d, *moving), in mm along (R, A, S): from the fixed grid to the moving image, and back; `velocity_field`
    (d, *fixed), the same of the velocity, which knows nothing of the alignment; `moved` (1, *fixed), and
    `folds`, the share of the network's voxels in which space is folded.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the fields."""
        moving, fixed, matrix = data["moving"], data["fixed"], data["alignment"]
        axes, shape = fixed.ndim - 1, tuple(fixed.shape[1:])
        affine = world(data["image"], plane=not has_voxel_size(fixed))
        steps = {
            key: voxels_to_world(_displacement(data[key], axes), affine)
            for key in ("ddf", "inverse_ddf", "velocity")
        }
        points = world_points(shape, world(fixed))
        on_fixed, velocity = (sample_at(steps[key], affine, points) for key in ("ddf", "velocity"))
        field = field_between(on_fixed, world(fixed), matrix)
        place = affine, tuple(moving.shape[1:]), world(moving), matrix
        inverse = inverse_field_between(steps["inverse_ddf"], *place)
        points = points + field
        moved = torch.from_numpy(sample_at(_voxels(moving), world(moving), points)).float()
        slices = data["ddf"].as_subclass(torch.Tensor)
        batch = slices.movedim(-1, 0) if len(slices) == 2 else slices[None]
        folds = float(folding(batch).mean())
        fields: dict[Hashable, Any] = {"field": field, "inverse_field": inverse, "velocity_field": velocity}
        return {**data, **fields, "moved": moved, "folds": folds}


def world(image: MetaTensor, plane: bool = False) -> Matrix:
    """4x4 voxel-to-world matrix (R, A, S) of an image; pictures lie in ITK's plane.

    Args:
        image: as loaded, or slices of one.
        plane: it is made of a picture; its own affine counts pixels of the picture.
    """
    affine: Matrix = image.affine.double().numpy()
    if plane:
        return PICTURE_AFFINE @ affine
    return affine if has_voxel_size(image) else PICTURE_AFFINE


def _check_pair(moving: MetaTensor, fixed: MetaTensor, spatial_dims: int) -> None:
    axes = fixed.ndim - 1
    if moving.ndim != fixed.ndim or axes < spatial_dims:
        raise ImageShapeError(
            f"{_name(moving)}: {moving.ndim - 1} dimensions, to be registered to one of {axes} "
            f"({_name(fixed)}) by a network of {spatial_dims}; give two images of the same kind."
        )
    thin = [_name(image) for image in (moving, fixed) if axes == 3 and 1 in image.shape[1:]]
    if thin:
        raise ImageShapeError(
            f"{' and '.join(thin)}: one voxel thick, 2 dimensions, whose field ITK would read as "
            f"2-D ({_name(moving)} to {_name(fixed)}); give two volumes, or two pictures."
        )
    for image in (moving, fixed):
        if not (image > 0).any():
            raise ImageError(f"{_name(image)}: is empty, no voxel is above 0; give another image.")


def _displacement(ddf: torch.Tensor, axes: int) -> Matrix:
    """A field (d, *S) of the network as one of ``axes`` dimensions; slices do not move across their plane."""
    plain = ddf.as_subclass(torch.Tensor)
    if len(plain) == 3:
        return plain.numpy()
    if axes == 2:
        return plain[..., 0].numpy()
    return torch.cat([plain, torch.zeros_like(plain[:1])]).numpy()


def _voxels(image: MetaTensor) -> Any:
    return np.asarray(image.as_tensor())


def _name(image: MetaTensor) -> str:
    return str(image.meta["filename_or_obj"])
