"""MONAI's array and dictionary transforms: label shapes, images from labels, diffeomorphic deformation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple_rep
from torch import Tensor

from robustmed_monai.transforms.adapters import SeededDictTransform, SeededTransform
from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.synthesis.deform import DiffeomorphicDeform
from robustmed_monai.transforms.synthesis.label_shapes import LabelShapes
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


class RandLabelShapes(SeededTransform):
    """Make a label map of random shapes from nothing: (1, *spatial_size) uint8.

    Args:
        spatial_size: two or three sides.
        shapes: settings; None for the defaults, 16 labels.

    Source: Hoffmann et al., "SynthMorph", IEEE TMI 2022.

    Example:
        >>> RandLabelShapes((48, 40)).set_random_state(seed=0)().shape
        torch.Size([1, 48, 40])
    """

    def __init__(self, spatial_size: Sequence[int], shapes: LabelShapes | None = None) -> None:
        super().__init__()
        _check_size(spatial_size)
        self.spatial_size = tuple(spatial_size)
        self.shapes = shapes or LabelShapes()

    def __call__(self, data: Any = None, randomize: bool = True) -> Tensor:
        """Return a new map.

        Args:
            data: not used.
            randomize: False repeats the last map.
        """
        if randomize:
            self.randomize()
        params = self.shapes.sample(1, self.spatial_size, self.generator())
        return self.shapes.apply(params, self.spatial_size)[0]


class RandLabelShapesd(SeededDictTransform):
    """Dictionary form of :class:`RandLabelShapes`: adds a map of its own under each key.

    Args:
        keys: where to put maps.
        spatial_size: two or three sides.
        shapes: settings; None for the defaults, 16 labels.
    """

    def __init__(
        self, keys: KeysCollection, spatial_size: Sequence[int], shapes: LabelShapes | None = None
    ) -> None:
        super().__init__(keys, RandLabelShapes(spatial_size, shapes), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with a label map under each key."""
        return {**data, **{key: self.transform() for key in self.keys}}


class RandLabelsToImage(SeededTransform):
    """Make an image of random contrast from a label map, drawn shapes or a segmentation.

    Args:
        to_image: settings; None for the defaults. Its ``means`` ask for a contrast.
        label_values: the labels that maps can hold, in the order of ``means``; the first is the background.
            None for 0 and those that a map holds.

    Source: Hoffmann et al., "SynthMorph", IEEE TMI 2022; from segmentations, Billot et al., "SynthSeg",
    Medical Image Analysis 2023.

    Example:
        >>> transform = RandLabelsToImage().set_random_state(seed=0)
        >>> transform(torch.eye(16, dtype=torch.uint8)[None]).shape
        torch.Size([1, 16, 16])
    """

    def __init__(
        self, to_image: LabelsToImage | None = None, label_values: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.to_image = to_image or LabelsToImage()
        self.label_values = None if label_values is None else tuple(label_values)

    def __call__(self, label: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return an image (1, X, Y[, Z]), float32 in [0, 1], of the same kind (array, tensor, MetaTensor).

        Args:
            label: (1, X, Y[, Z]) whole numbers.
            randomize: False repeats the last draw.

        Raises:
            ImageShapeError: when the map has another shape.
            ConfigError: when it holds a fraction, or a label that ``label_values`` has not.
        """
        if randomize:
            self.randomize()
        labels = convert_to_tensor(label, track_meta=False)
        if labels.ndim not in (3, 4) or labels.shape[0] != 1:
            raise ImageShapeError(f"RandLabelsToImage: shape {tuple(labels.shape)}; give (1, X, Y[, Z]).")
        index, count = self._index(labels)
        params = self.to_image.sample(1, count, labels.shape[1:], self.generator())
        image = self.to_image.apply(index.cpu()[None], params)[0].to(labels.device)
        result: NdarrayOrTensor = convert_to_dst_type(image, label, dtype=image.dtype)[0]
        return result

    def _index(self, labels: Tensor) -> tuple[Tensor, int]:
        """Number of each voxel's label among the values, and how many there are."""
        if labels.is_floating_point() and not torch.equal(labels, labels.round()):
            raise ConfigError(
                "RandLabelsToImage: the map holds fractions or NaN; give labels, whole numbers."
            )
        labels = labels.long()
        if self.label_values is None:
            found = torch.unique(labels).tolist()
            values = [0, *(value for value in found if value != 0)]
        else:
            values = list(self.label_values)
        ordered, order = torch.tensor(values, device=labels.device).sort()
        place = torch.searchsorted(ordered, labels.contiguous().to(ordered.dtype))
        place.clamp_(max=len(values) - 1)
        unknown = ordered[place] != labels
        if unknown.any():
            raise ConfigError(
                f"RandLabelsToImage: the map holds label {labels[unknown][0].item()}, "
                f"label_values are {values}."
            )
        return order[place], len(values)


class RandLabelsToImaged(SeededDictTransform):
    """Dictionary form of :class:`RandLabelsToImage`: adds under each key an image with a contrast of its own.

    Two keys give two views of one anatomy.

    Args:
        keys: where to put images.
        label_key: key of the label map.
        to_image: settings; None for the defaults.
        label_values: the labels that maps can hold; None for 0 and those that a map holds.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: Hashable = "label",
        to_image: LabelsToImage | None = None,
        label_values: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, RandLabelsToImage(to_image, label_values), allow_missing_keys=True)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with an image under each key."""
        return {**data, **{key: self.transform(data[self.label_key]) for key in self.keys}}


class RandDiffeomorphicDeform(SeededTransform):
    """Deform an image or a label map smoothly and invertibly, with a probability.

    Args:
        deform: settings; None for the defaults. They hold an affine part as well.
        prob: probability of doing it.
        mode: "bilinear", or "nearest" for labels.
        padding_mode: what lies outside: "border" or "zeros".

    Example:
        >>> transform = RandDiffeomorphicDeform(prob=1.0).set_random_state(seed=0)
        >>> transform(torch.rand(1, 32, 32)).shape
        torch.Size([1, 32, 32])
    """

    def __init__(
        self,
        deform: DiffeomorphicDeform | None = None,
        prob: float = 0.1,
        mode: str = "bilinear",
        padding_mode: str = "border",
    ) -> None:
        super().__init__(prob)
        self.deform = deform or DiffeomorphicDeform()
        self.mode = mode
        self.padding_mode = padding_mode

    def __call__(
        self, img: NdarrayOrTensor, randomize: bool = True, mode: str | None = None
    ) -> NdarrayOrTensor:
        """Return the image (C, X, Y[, Z]), deformed or not, of the same kind and type.

        Args:
            img: (C, X, Y[, Z]) of any range; "bilinear" makes whole numbers float32.
            randomize: False repeats the last draw, as for the label map of an image.
            mode: other than that of the transform.
        """
        if randomize:
            self.randomize()
        used = mode or self.mode
        image = convert_to_tensor(img, track_meta=False)[None]
        # A blend of whole numbers is none; of labels the nearest is taken, which keeps their type.
        image = image.float() if used == "bilinear" and not image.is_floating_point() else image
        if not self._do_transform:
            kept: NdarrayOrTensor = convert_to_dst_type(image[0], img, dtype=image.dtype)[0]
            return kept
        size = image.shape[2:]
        ddf = self.deform.apply(self.deform.sample(1, size, self.generator()), size)
        moved = warp(image, ddf.to(image.device), used, self.padding_mode)[0]
        result: NdarrayOrTensor = convert_to_dst_type(moved, img, dtype=moved.dtype)[0]
        return result


class RandDiffeomorphicDeformd(SeededDictTransform):
    """Dictionary form of :class:`RandDiffeomorphicDeform`; all keys get the same deformation.

    Args:
        keys: images and label maps of one shape.
        deform: settings; None for the defaults.
        prob: probability of doing it.
        mode: "bilinear" or "nearest", one for all keys or one for each.
        padding_mode: what lies outside: "border" or "zeros".
        allow_missing_keys: do nothing about a key that is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        deform: DiffeomorphicDeform | None = None,
        prob: float = 0.1,
        mode: str | Sequence[str] = "bilinear",
        padding_mode: str = "border",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = RandDiffeomorphicDeform(deform, prob, padding_mode=padding_mode)
        super().__init__(keys, transform, allow_missing_keys)
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Return the dictionary with its images deformed, or not."""
        changed = dict(data)
        self.transform.randomize()
        for key, mode in self.key_iterator(changed, self.mode):
            changed[key] = self.transform(changed[key], randomize=False, mode=mode)
        return changed


RandLabelShapesD = RandLabelShapesDict = RandLabelShapesd
RandLabelsToImageD = RandLabelsToImageDict = RandLabelsToImaged
RandDiffeomorphicDeformD = RandDiffeomorphicDeformDict = RandDiffeomorphicDeformd


def _check_size(size: Sequence[int]) -> None:
    if len(size) not in (2, 3) or min(size) < 2:
        raise ConfigError(f"spatial_size={tuple(size)}: give two or three sides of at least 2 voxels.")
