"""Published objectives, one file each; every loss returns its named terms."""

from robustmed_monai.losses.cifl import CIFLLoss
from robustmed_monai.losses.classification import CrossEntropyObjective
from robustmed_monai.losses.pchvae import HierarchicalLoss, QuantizedLoss
from robustmed_monai.losses.ra import IntrospectiveLoss
from robustmed_monai.losses.registration import RegistrationLoss
from robustmed_monai.losses.unoranic import ReconstructionLoss, UNORANICLoss

__all__ = [
    "CIFLLoss",
    "CrossEntropyObjective",
    "HierarchicalLoss",
    "IntrospectiveLoss",
    "QuantizedLoss",
    "ReconstructionLoss",
    "RegistrationLoss",
    "UNORANICLoss",
]
