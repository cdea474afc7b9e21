"""Any head in one frame: volumes aligned to the MNI152 template, single slices by the box of the head."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.networks.layers import AffineTransform, GaussianFilter
from monai.transforms import MapTransform
from monai.transforms.inverse import InvertibleTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from robustmed_monai.transforms.head_alignment import align_head
from robustmed_monai.transforms.same_grid import has_voxel_size, image_name, placed_as_first, placed_like
from robustmed_monai.transforms.template_head import CENTRE
from robustmed_monai.transforms.volume_slices import (
    ResizeMode,
    SliceGeometry,
    VolumeToSlices,
    check_maps,
    foreground_box,
    mode_back,
    plain_image,
    upright,
)
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError

OnFailure: TypeAlias = Literal["raise", "warn"]

# The box of a head with its scalp in the template's mid axial slice, mm right and posterior of its middle:
# means over 464 healthy subjects (IXI) in the frame; they differ by 1.2 to 1.5 mm (standard deviation).
HEAD_BOX = ((-83.3, 83.4), (-101.7, 97.9))


# Length to width of a head in an axial slice, and the share of its box that it fills: 1.04 to 1.43 and .64 to
# .88 in 686 slices (IXI, OASIS, gliomas); outside are a disc, a full picture and a head on its side.
_LENGTH = (1.02, 1.6)
_FILLED = (0.55, 0.92)


class AlignmentWarning(UserWarning):
    """An image is not aligned to the template, or lies otherwise than its file says; the message says how."""


# Degrees by which left and right of a head are turned where its file tells its orientation wrongly.
_TURNED = 25.0
# Values below 0 that interpolation leaves, as a share of the largest.
_OVERSHOOT = 0.1


@dataclass(frozen=True)
class Placement:
    """Where the voxels of the frame lie in a source.

    Attributes:
        spatial_shape: spatial shape of the source, (X, Y, Z).
        matrix: (4, 4) from voxels of the frame to those of the source; None where nothing was aligned.
    """

    spatial_shape: tuple[int, ...]
    matrix: Tensor | None


class AlignToTemplate(InvertibleTransform):
    """Carry a head into the MNI152 frame, as a stack of axial slices, nose up ("RPS").

    A volume that knows its voxel size is aligned by an affine transform (``align_head``): with or without
    skull, face and neck, of any contrast, position, orientation, spacing and thickness of slices. A picture,
    a volume one voxel thick and a stack of pictures get the form in two dimensions: the box of their
    foreground becomes the box of a head in the frame (``HEAD_BOX``), slice by slice as they are; one whose
    foreground has not the shape of a head is not aligned.

    ``inverse``, which ``monai.transforms.Invertd`` calls, brings maps back onto the grid of the source.

    Args:
        size: side of the slices in pixels.
        spacing: size of a pixel in mm.
        heights: lowest and highest slice, mm above the origin of MNI152 (the anterior commissure).
        step: distance of slices in mm; None: ``spacing``.
        mode: "bilinear" for images; "nearest" for labels and masks.
        on_failure: "raise" an ImageError when an image cannot be aligned; or "warn" (AlignmentWarning) and
            return an empty stack.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        size: int = 128,
        spacing: float = 1.8203125,
        heights: Sequence[float] = (-72.0, 116.0),
        step: float | None = None,
        mode: ResizeMode = "bilinear",
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        if len(heights) != 2 or not heights[0] <= heights[1]:
            raise ConfigError(
                f"heights={list(heights)}; give the lowest and the highest in mm, as [-10, 24]."
            )
        if not (0 < spacing < float("inf") and 0 < (step or spacing) < float("inf")):
            raise ConfigError(f"spacing is {spacing} and step {step}; give mm above 0.")
        if on_failure not in ("raise", "warn"):
            raise ConfigError(f"on_failure is {on_failure!r}; choose 'raise' or 'warn'.")
        self.cut = VolumeToSlices(size, mode=mode)
        self.on_failure = on_failure
        step = step or spacing
        count = int((heights[1] - heights[0]) / step + 1e-6) + 1
        self.shape = (size, size, count)
        self.affine = torch.diag(torch.tensor([spacing, -spacing, step, 1.0], dtype=torch.float64))
        half = spacing * (size - 1) / 2
        self.affine[:3, 3] = torch.tensor([CENTRE[0] - half, CENTRE[1] + half, heights[0]])

    def __call__(
        self,
        image: NdarrayOrTensor,
        place: Placement | SliceGeometry | None = None,
        mode: ResizeMode | None = None,
    ) -> MetaTensor:
        """Carry an image into the frame.

        Args:
            image: (C, X, Y, Z) or (C, X, Y) with a background of 0, as ``ScaleForeground`` makes it; a
                ``MetaTensor`` brings its affine.
            place: that of another image on the same grid; None finds it for this one.
            mode: in place of that of the constructor.

        Returns:
            (C, size, size, S) float32 ``MetaTensor``; of an aligned volume its affine is that of the frame.

        Raises:
            ImageError: the image cannot be used or not be aligned, or its background is not 0.
        """
        _check_background(image)
        where = self.place(image) if place is None else place
        if isinstance(where, SliceGeometry):
            return self.cut(image, where, mode)
        plain, affine = plain_image(image)
        name = mode or self.cut.mode
        if where.matrix is None:
            carried = plain.new_zeros(len(plain), *self.shape)
        else:
            carried = _resampled(plain, where.matrix, self.shape, name)
        result = placed_like(carried, image)
        push: Any = self.push_transform
        extra = {"placement": where, "mode": name, "affine": affine}
        pushed: MetaTensor = push(result, orig_size=tuple(plain.shape[1:]), extra_info=extra)
        pushed.affine = self.affine
        return pushed

    def place(self, image: NdarrayOrTensor) -> Placement | SliceGeometry:
        """Find where the frame lies in an image; a ``SliceGeometry`` for one without a third dimension.

        Raises:
            ImageError: as above.
        """
        plain, affine = plain_image(image)
        if not has_voxel_size(image) or plain.ndim == 3 or min(plain.shape[1:]) == 1:
            where = self.cut.geometry(image)
            picture = _above_air(upright(plain, where.flips, where.order))
            doubt = _doubt_of_picture(picture)
            return self._refused(image, doubt) if doubt else self._by_box(picture, where)
        found = align_head(plain.mean(0).cpu().numpy(), affine.numpy())
        if found.doubt is not None:
            return self._refused(image, found.doubt)
        if found.turn > _TURNED:
            warnings.warn(
                f"the head is turned by {found.turn:.0f} degrees against what its file says; look at the "
                "orientation, and at left and right",
                AlignmentWarning,
                stacklevel=3,
            )
        world = torch.as_tensor(found.matrix)
        return Placement(tuple(plain.shape[1:]), torch.linalg.inv(affine) @ world @ self.affine)

    def _refused(self, image: NdarrayOrTensor, doubt: str) -> Placement:
        reason = f"not aligned to the MNI152 template: {doubt}"
        if self.on_failure == "raise":
            raise ImageError(
                f"{image_name(image, 'image')}: {reason}; look at the image and its orientation."
            )
        warnings.warn(f"{reason}, so nothing of it is assessed", AlignmentWarning, stacklevel=4)
        return Placement(tuple(image.shape[1:]), None)

    def _by_box(self, picture: Tensor, where: SliceGeometry) -> SliceGeometry:
        """The geometry under which the foreground's box becomes that of a head in the frame."""
        found = foreground_box(picture)
        spacing, middle = float(self.affine[0, 0]), (where.size - 1) / 2
        steps, firsts = [], []
        for (low, high), (head_low, head_high) in zip(found, HEAD_BOX, strict=True):
            voxels = max(high - low, 1.0) / (head_high - head_low)
            steps.append(voxels * spacing)
            firsts.append(low - (middle + head_low / spacing) * voxels * spacing)
        return replace(where, step=(steps[0], steps[1]), first=(firsts[0], firsts[1]))

    def inverse(self, data: Tensor) -> MetaTensor:
        """Put maps in the frame back onto the grid of the source.

        Args:
            data: (C, size, size, S) ``MetaTensor`` with this transform as the last one applied, any number of
                channels.

        Returns:
            (C, X, Y[, Z]) float32 with the affine of the source, 0 outside of the frame.

        Raises:
            ImageShapeError: the maps do not fit the frame.
        """
        if not isinstance(data, MetaTensor):
            raise ImageShapeError("maps: no MetaTensor, so nothing says where they lie; use Invertd.")
        if data.applied_operations and data.applied_operations[-1]["class"] == VolumeToSlices.__name__:
            return self.cut.inverse(data)
        extra = self.pop_transform(data)["extra_info"]
        where: Placement = extra["placement"]
        check_maps(data, self.shape)
        plain = data.detach().as_subclass(Tensor).float()
        if where.matrix is None:
            carried = plain.new_zeros(len(plain), *where.spatial_shape)
        else:
            mode = mode_back(extra["mode"])
            carried = _resampled(plain, torch.linalg.inv(where.matrix), where.spatial_shape, mode)
        result = placed_like(carried, data)
        result.affine = extra["affine"]
        return result


def _above_air(picture: Tensor) -> Tensor:
    """(C, x, y, S) without the noise of air, which is what lies at the border: twice its median becomes 0."""
    grey = picture.abs().amax(0)
    border = torch.cat([grey[[0, -1]].flatten(), grey[:, [0, -1]].flatten()])
    return (picture.abs() - 2 * border.median()).clamp(min=0)


def _doubt_of_picture(picture: Tensor) -> str | None:
    """Why (C, x, y, S) is no axial slice of a head, nose up or down; None where it may be one."""
    from scipy.ndimage import binary_fill_holes

    grey = picture.abs().amax((0, 3))
    if not (grey > 0).any():
        return "it is empty"
    (left, right), (front, back) = foreground_box(picture)
    length = (back - front) / max(right - left, 1.0)
    if not _LENGTH[0] < length < _LENGTH[1]:
        return (
            f"what it shows is {length:.2f} times as long as wide, an upright axial slice 1.05 to 1.45 times"
        )
    solid = binary_fill_holes((grey > 0.1 * grey.max()).cpu().numpy())
    x, y = (
        slice(max(0, round(low + 0.5)), round(high + 0.5)) for low, high in ((left, right), (front, back))
    )
    filled = float(solid[x, y].mean())
    if not _FILLED[0] < filled < _FILLED[1]:
        return f"what it shows fills {filled:.0%} of its own box, a head 64 to 88 %"
    return None


def _check_background(image: NdarrayOrTensor) -> None:
    """Refuse an image whose dark is far below 0, the value that comes in from outside."""
    values = torch.as_tensor(image).as_subclass(Tensor)
    values = values if values.is_floating_point() else values.float()
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    if low < -_OVERSHOOT * max(high, 0.0):
        raise ImageError(
            f"AlignToTemplate: values from {low:.4g} to {high:.4g}; give an image whose background is 0, "
            "such as ScaleForeground makes."
        )


class AlignToTemplated(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`AlignToTemplate`; all keys are placed as the first.

    Args:
        keys: images on one grid; the first is aligned.
        size: see :class:`AlignToTemplate`.
        spacing: see :class:`AlignToTemplate`.
        heights: see :class:`AlignToTemplate`.
        step: see :class:`AlignToTemplate`.
        mode: one for all keys or one each.
        on_failure: see :class:`AlignToTemplate`.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ImageShapeError: when applied to images on grids of different shape.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int = 128,
        spacing: float = 1.8203125,
        heights: Sequence[float] = (-72.0, 116.0),
        step: float | None = None,
        mode: ResizeMode | Sequence[ResizeMode] = "bilinear",
        on_failure: OnFailure = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mode: tuple[Any, ...] = ensure_tuple_rep(mode, len(self.keys))
        self.align = AlignToTemplate(size, spacing, heights, step, self.mode[0], on_failure)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in the frame."""
        return placed_as_first(data, self.key_iterator(data, self.mode), self.align.place, self.align)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the maps on the grid of the source."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.align.inverse(result[key])
        return result


def _resampled(image: Tensor, matrix: Tensor, shape: Sequence[int], mode: ResizeMode) -> Tensor:
    """An image (C, X, Y, Z) at the places ``matrix @ voxel`` of a grid, smoothed where that is coarser."""
    batch = image[None]
    if mode == "bilinear":
        # How far apart the new voxels are along each axis of the image.
        batch = _smooth_before(batch, matrix[:3, :3].abs().amax(1).tolist())
    sample = AffineTransform(
        normalized=False, mode=mode, padding_mode="zeros", align_corners=True, reverse_indexing=True
    )
    carried: Tensor = sample(batch, theta=matrix[None].to(batch), spatial_size=tuple(shape))[0]
    return carried


def _smooth_before(images: Tensor, step: Sequence[float]) -> Tensor:
    """Blur images (B, C, *S) by as much as ``monai.transforms.Resize`` does before it shrinks them.

    ``step`` is the distance of the new voxels along each axis of S, in old ones.
    """
    sigmas = [max((s - 1) / 2, 0) for s in step]
    if not any(sigmas):
        return images
    # A width of exactly 0 is no filter to MONAI.
    blur = GaussianFilter(len(sigmas), [max(s, 1e-3) for s in sigmas])
    blurred: Tensor = blur(images.flatten(0, 1)[:, None])[:, 0].unflatten(0, tuple(images.shape[:2]))
    return blurred


def placement_of(stack: Any) -> Placement | None:
    """Where the frame of a stack lies in its source; None of one that was not aligned."""
    applied = stack.applied_operations if isinstance(stack, MetaTensor) else []
    places: list[Placement] = [
        each["extra_info"]["placement"] for each in applied if each["class"] == AlignToTemplate.__name__
    ]
    return places[-1] if places and places[-1].matrix is not None else None


def frame_heights(stack: Any) -> list[float] | None:
    """Heights of the slices of a stack in mm of MNI152, lowest first; None of one that was not aligned."""
    if placement_of(stack) is None:
        return None
    matrix = stack.affine
    return [float(matrix[2, 3] + matrix[2, 2] * i) for i in range(stack.shape[-1])]


class SayAssessedd(MapTransform):
    """Add to ``warnings`` which heights of a head were assessed, and in how many slices of its volume.

    Reads `assessed_slices` of ``OODSlicesd``.

    Args:
        keys: one key, the mask of what was assessed (1, X, Y, Z), brought back onto the grid of the source.
        stack_key: the stack in the frame, as the network saw it; nothing is said of one that is in none.
    """

    def __init__(self, keys: KeysCollection, stack_key: str = "image") -> None:
        super().__init__(keys)
        self.stack_key = stack_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the sentence first among its warnings."""
        result = dict(data)
        heights = frame_heights(result[self.stack_key])
        mask = result[self.first_key(result)]
        if heights is None or mask.ndim != 4:
            return result
        # The source's slices are those along its axis that runs most upwards.
        axis = int(mask.affine[2, :3].abs().argmax()) + 1
        seen = int((mask > 0).any(dim=[a for a in range(4) if a != axis]).sum())
        kept = [heights[i] for i in result["assessed_slices"]]
        if not kept:
            # ``OODSlicesd`` has said so, and why.
            return result
        # A slice of a tilted head passes through many heights: parts of it are assessed.
        where = f"the heights {min(kept):+.0f} to {max(kept):+.0f} mm"
        said = f"assessed {where}, parts of {seen} of {mask.shape[axis]} slices"
        return {**result, "warnings": [said, *result.get("warnings", [])]}
