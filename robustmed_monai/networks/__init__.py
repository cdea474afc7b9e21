"""Networks of the published methods, one file each."""

from robustmed_monai.networks.anomaly_segmenter import AnomalySegmenter
from robustmed_monai.networks.cifl import CIFL, unit_maps
from robustmed_monai.networks.efficientnet_lite import EfficientNetLite0
from robustmed_monai.networks.feature_memory import FeatureMemory
from robustmed_monai.networks.head_registration import HeadRegistration
from robustmed_monai.networks.mind import MINDSSC

# Its function `pchvae` would hide the module of that name, and with it what configs name by their path.
from robustmed_monai.networks.pchvae import HierarchicalVAE, chvae, high_vae, low_vae
from robustmed_monai.networks.ra import ReversedAutoEncoder, published_channels
from robustmed_monai.networks.registration import RegistrationNet
from robustmed_monai.networks.risc import GroupPooledResNet, RotationCorrectedNet, RotNet
from robustmed_monai.networks.slice_stack_unet import SliceStackUNet
from robustmed_monai.networks.tissue_mixture import TissueMixture
from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC
from robustmed_monai.networks.vqvae2 import VQVAE2

__all__ = [
    "CIFL",
    "MINDSSC",
    "PCAUNORANIC",
    "UNORANIC",
    "VQVAE2",
    "AnomalySegmenter",
    "AutoEncoder",
    "EfficientNetLite0",
    "FeatureMemory",
    "GroupPooledResNet",
    "HeadRegistration",
    "HierarchicalVAE",
    "RegistrationNet",
    "ReversedAutoEncoder",
    "RotNet",
    "RotationCorrectedNet",
    "SliceStackUNet",
    "TissueMixture",
    "chvae",
    "high_vae",
    "low_vae",
    "published_channels",
    "unit_maps",
]
