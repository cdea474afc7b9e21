"""Transforms: reading of images with checks, slices, CLAHE, lesions, rotation, fields, batched augmentation.

Corruptions have a package of their own, ``robustmed_monai.transforms.corruption``; so has the synthesis of
label shapes and images, ``robustmed_monai.transforms.synthesis``.
"""

from robustmed_monai.transforms.align_to_template import (
    AlignmentWarning,
    AlignToTemplate,
    AlignToTemplated,
    SayAssessedd,
    frame_heights,
)
from robustmed_monai.transforms.batch_affine import BatchRandAffine, apply_affine, sample_affine
from robustmed_monai.transforms.brain_only import KeepBraind
from robustmed_monai.transforms.brain_region import BrainRegion, find_brain_region
from robustmed_monai.transforms.brain_zscore import BrainZScored, HeadMaskd, UndoBrainZScored, brain_zscore
from robustmed_monai.transforms.clahe import EqualizeAdaptHist, EqualizeAdaptHistd, equalize_adapthist
from robustmed_monai.transforms.fields import compose, folding, integrate, jacobian_determinant, warp
from robustmed_monai.transforms.foreign_objects import RandForeignObject, RandForeignObjectd
from robustmed_monai.transforms.head_coverage import SayHeadOutsided
from robustmed_monai.transforms.lesion_painting import LesionSpec
from robustmed_monai.transforms.lesions import RandLesion, RandLesiond, draw_lesion, sample_lesion
from robustmed_monai.transforms.load import (
    GeometryWarning,
    LoadCheckedImage,
    LoadCheckedImaged,
    read_npz_arrays,
)
from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.transforms.pair_fields import AlignPaird, PairFieldsd, ResampleMovingd, TargetGridd
from robustmed_monai.transforms.rotation import (
    RandRotateK,
    RandRotateKd,
    RotateK,
    all_rotations,
    rotate,
    rotate_by,
)
from robustmed_monai.transforms.scale_foreground import (
    IntensityWarning,
    ScaleForeground,
    ScaleForegroundd,
    UnscaleIntensityd,
)
from robustmed_monai.transforms.slice_selection import OODSlicesd, SelectSlicesd
from robustmed_monai.transforms.synthesis import (
    DiffeomorphicDeform,
    LabelShapes,
    LabelsToImage,
    RandDiffeomorphicDeform,
    RandDiffeomorphicDeformd,
    RandLabelShapes,
    RandLabelShapesd,
    RandLabelsToImage,
    RandLabelsToImaged,
)
from robustmed_monai.transforms.threshold_map import ThresholdMapd
from robustmed_monai.transforms.volume_slices import VolumeToSlices, VolumeToSlicesd

__all__ = [
    "AlignPaird",
    "AlignToTemplate",
    "AlignToTemplated",
    "AlignmentWarning",
    "BatchRandAffine",
    "BrainRegion",
    "BrainZScored",
    "DiffeomorphicDeform",
    "EqualizeAdaptHist",
    "EqualizeAdaptHistd",
    "GeometryWarning",
    "HeadMaskd",
    "IntensityWarning",
    "KeepBraind",
    "LabelShapes",
    "LabelsToImage",
    "LesionSpec",
    "LoadCheckedImage",
    "LoadCheckedImaged",
    "OODSlicesd",
    "PairFieldsd",
    "RandDiffeomorphicDeform",
    "RandDiffeomorphicDeformd",
    "RandForeignObject",
    "RandForeignObjectd",
    "RandLabelShapes",
    "RandLabelShapesd",
    "RandLabelsToImage",
    "RandLabelsToImaged",
    "RandLesion",
    "RandLesiond",
    "RandRotateK",
    "RandRotateKd",
    "ResampleMovingd",
    "RotateK",
    "SayAssessedd",
    "SayHeadOutsided",
    "ScaleForeground",
    "ScaleForegroundd",
    "SelectSlicesd",
    "TargetGridd",
    "ThresholdMapd",
    "UndoBrainZScored",
    "UnscaleIntensityd",
    "VolumeToSlices",
    "VolumeToSlicesd",
    "all_rotations",
    "apply_affine",
    "brain_zscore",
    "compose",
    "draw_lesion",
    "equalize_adapthist",
    "find_brain_region",
    "folding",
    "frame_heights",
    "integrate",
    "jacobian_determinant",
    "read_npz_arrays",
    "rotate",
    "rotate_by",
    "sample_affine",
    "sample_lesion",
    "training_statistics",
    "warp",
]
