"""Published objectives, one file each; every loss returns its named terms."""

from robustmed_monai.losses.classification import CrossEntropyObjective
from robustmed_monai.losses.hierarchical_vae import HierarchicalLoss, QuantizedLoss
from robustmed_monai.losses.reversed_autoencoder import IntrospectiveLoss
from robustmed_monai.losses.unoranic import ReconstructionLoss, UNORANICLoss

__all__ = [
    "CrossEntropyObjective",
    "HierarchicalLoss",
    "IntrospectiveLoss",
    "QuantizedLoss",
    "ReconstructionLoss",
    "UNORANICLoss",
]
