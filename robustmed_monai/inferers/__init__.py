"""How trained networks are applied, and the controls they are compared with."""

from robustmed_monai.inferers.cifl import FeatureInferer
from robustmed_monai.inferers.controls import MeanImageControl
from robustmed_monai.inferers.feature_memory import MemoryInferer
from robustmed_monai.inferers.healthy_reference import ReferencedInferer, load_reference
from robustmed_monai.inferers.pchvae import ElboInferer
from robustmed_monai.inferers.perceptual import EncoderPerceptual, LPIPSPerceptual
from robustmed_monai.inferers.ra import AnomalyMapInferer, image_score
from robustmed_monai.inferers.registration import RegistrationInferer
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.inferers.risc_angles import AnyAngleInferer
from robustmed_monai.inferers.slicewise import SlicewiseInferer
from robustmed_monai.inferers.unoranic import RestorationInferer

__all__ = [
    "AnomalyMapInferer",
    "AnyAngleInferer",
    "ElboInferer",
    "EncoderPerceptual",
    "FeatureInferer",
    "LPIPSPerceptual",
    "MeanImageControl",
    "MemoryInferer",
    "ReferencedInferer",
    "RegistrationInferer",
    "RestorationInferer",
    "RotationCorrectionInferer",
    "SlicewiseInferer",
    "image_score",
    "load_reference",
]
