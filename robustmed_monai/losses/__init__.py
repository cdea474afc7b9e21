"""Published objectives, one file each; every loss returns its named terms."""

from robustmed_monai.losses.reversed_autoencoder import IntrospectiveLoss
from robustmed_monai.losses.unoranic import ReconstructionLoss, UNORANICLoss

__all__ = ["IntrospectiveLoss", "ReconstructionLoss", "UNORANICLoss"]
