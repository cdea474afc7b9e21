"""Published objectives, one file each; every loss returns its named terms."""

from robustmed_monai.losses.cifl import CIFLLoss
from robustmed_monai.losses.outline import OutlineLoss
from robustmed_monai.losses.pchvae import HierarchicalLoss, QuantizedLoss
from robustmed_monai.losses.ra import IntrospectiveLoss
from robustmed_monai.losses.registration import RegistrationLoss
from robustmed_monai.losses.supervised import SupervisedObjective
from robustmed_monai.losses.unoranic import ReconstructionLoss, UNORANICLoss

__all__ = [
    "CIFLLoss",
    "HierarchicalLoss",
    "IntrospectiveLoss",
    "OutlineLoss",
    "QuantizedLoss",
    "ReconstructionLoss",
    "RegistrationLoss",
    "SupervisedObjective",
    "UNORANICLoss",
]
