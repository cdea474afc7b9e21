"""Transforms: the checked door for images, slices of volumes, CLAHE, lesions, rotation, batched augmentation.

Corruptions have a package of their own, ``robustmed_monai.transforms.corruption``.
"""

from robustmed_monai.transforms.batch_affine import BatchRandAffine, apply_affine, sample_affine
from robustmed_monai.transforms.brain_region import BrainRegion, find_brain_region
from robustmed_monai.transforms.brain_zscore import brain_zscore
from robustmed_monai.transforms.clahe import EqualizeAdaptHist, EqualizeAdaptHistd, equalize_adapthist
from robustmed_monai.transforms.foreign_objects import RandForeignObject, RandForeignObjectd
from robustmed_monai.transforms.lesion_painting import LesionSpec
from robustmed_monai.transforms.lesions import RandLesion, RandLesiond, draw_lesion, sample_lesion
from robustmed_monai.transforms.load import (
    GeometryWarning,
    LoadCheckedImage,
    LoadCheckedImaged,
    read_npz_arrays,
)
from robustmed_monai.transforms.rotation import RandRotateK, RandRotateKd, RotateK, all_rotations, rotate
from robustmed_monai.transforms.slices import SliceGeometry, slices_to_volume, volume_to_slices

__all__ = [
    "BatchRandAffine",
    "BrainRegion",
    "EqualizeAdaptHist",
    "EqualizeAdaptHistd",
    "GeometryWarning",
    "LesionSpec",
    "LoadCheckedImage",
    "LoadCheckedImaged",
    "RandForeignObject",
    "RandForeignObjectd",
    "RandLesion",
    "RandLesiond",
    "RandRotateK",
    "RandRotateKd",
    "RotateK",
    "SliceGeometry",
    "all_rotations",
    "apply_affine",
    "brain_zscore",
    "draw_lesion",
    "equalize_adapthist",
    "find_brain_region",
    "read_npz_arrays",
    "rotate",
    "sample_affine",
    "sample_lesion",
    "slices_to_volume",
    "volume_to_slices",
]
