"""Corruptions of images in [0, 1]: batched on the device, storable draws, MONAI transforms."""

from robustmed_monai.transforms.corruption.acquisition import ACQUISITION, acquisition
from robustmed_monai.transforms.corruption.combine import chain, one_of
from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.geometry import GEOMETRY, geometry
from robustmed_monai.transforms.corruption.imagenet_c import IMAGENET_C, imagenet_c, imagenet_c_published
from robustmed_monai.transforms.corruption.labelled import LABELLED, labelled
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C, medmnist_c
from robustmed_monai.transforms.corruption.monai_transforms import (
    BatchCorruption,
    RandCorruption,
    RandCorruptionD,
    RandCorruptiond,
    RandCorruptionDict,
)
from robustmed_monai.transforms.corruption.mr import MR_ARTIFACTS, mr_artifact
from robustmed_monai.transforms.corruption.orientation import ORIENTATION, orientation
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.transforms.corruption.unoranic import (
    UNORANIC,
    unoranic_chain,
    unoranic_corruption,
    unoranic_detection,
)
from robustmed_monai.transforms.params import draw

__all__ = [
    "ACQUISITION",
    "GEOMETRY",
    "IMAGENET_C",
    "LABELLED",
    "MEDMNIST_C",
    "MR_ARTIFACTS",
    "ORIENTATION",
    "UNORANIC",
    "BatchCorruption",
    "Corruption",
    "CorruptionSuite",
    "RandCorruption",
    "RandCorruptionD",
    "RandCorruptionDict",
    "RandCorruptiond",
    "acquisition",
    "chain",
    "corrupt",
    "draw",
    "geometry",
    "imagenet_c",
    "imagenet_c_published",
    "labelled",
    "medmnist_c",
    "mr_artifact",
    "one_of",
    "orientation",
    "unoranic_chain",
    "unoranic_corruption",
    "unoranic_detection",
]
