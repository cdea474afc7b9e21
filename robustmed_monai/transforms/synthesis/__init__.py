"""Training data from nothing: random label shapes, images of random contrast, smooth deformations.

Every step has settings (a frozen dataclass), ``sample`` that draws from one ``torch.Generator`` on its
device, and ``apply`` that computes a batch from the draw. MONAI's transforms are thin adapters of them.
"""

from robustmed_monai.transforms.synthesis.deform import DiffeomorphicDeform
from robustmed_monai.transforms.synthesis.label_shapes import LabelShapes
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.transforms.synthesis.monai_transforms import (
    RandDiffeomorphicDeform,
    RandDiffeomorphicDeformD,
    RandDiffeomorphicDeformd,
    RandDiffeomorphicDeformDict,
    RandLabelShapes,
    RandLabelShapesD,
    RandLabelShapesd,
    RandLabelShapesDict,
    RandLabelsToImage,
    RandLabelsToImageD,
    RandLabelsToImaged,
    RandLabelsToImageDict,
)
from robustmed_monai.transforms.synthesis.noise import noise_field, sample_noise

__all__ = [
    "DiffeomorphicDeform",
    "LabelShapes",
    "LabelsToImage",
    "RandDiffeomorphicDeform",
    "RandDiffeomorphicDeformD",
    "RandDiffeomorphicDeformDict",
    "RandDiffeomorphicDeformd",
    "RandLabelShapes",
    "RandLabelShapesD",
    "RandLabelShapesDict",
    "RandLabelShapesd",
    "RandLabelsToImage",
    "RandLabelsToImageD",
    "RandLabelsToImageDict",
    "RandLabelsToImaged",
    "noise_field",
    "sample_noise",
]
