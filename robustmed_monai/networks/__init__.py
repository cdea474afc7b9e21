"""Networks of the published methods, one file each."""

from robustmed_monai.networks.reversed_autoencoder import ReversedAutoEncoder, published_channels
from robustmed_monai.networks.rotnet import GroupPooledResNet, RotationCorrectedNet, RotNet
from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.networks.unoranic_plus import StraightUNORANIC

__all__ = [
    "UNORANIC",
    "AutoEncoder",
    "GroupPooledResNet",
    "ReversedAutoEncoder",
    "RotNet",
    "RotationCorrectedNet",
    "StraightUNORANIC",
    "published_channels",
]
