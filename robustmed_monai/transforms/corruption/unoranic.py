"""The twelve corruptions that unORANIC trains on, with the meaning of Albumentations 1.3.1 on 8-bit images.

References:
    S. Doerrich et al., "unORANIC: Unsupervised Orthogonalization of Anatomy and Image-Characteristic
    Features", MLMI 2023, section 3.1.
"""

from __future__ import annotations

from robustmed_monai.transforms.corruption.combine import chain, one_of
from robustmed_monai.transforms.corruption.core import Corruption, check_name
from robustmed_monai.transforms.corruption.filters import downscale, gaussian_blur, line_blur, sharpen
from robustmed_monai.transforms.corruption.noise import gaussian_noise, multiplicative_noise, pixel_dropout
from robustmed_monai.transforms.corruption.tone import (
    brightness_contrast,
    colour_jitter,
    gamma,
    invert,
    solarize,
)

# In the order of the chain. The blur's kernel size is a whole number in 3..7 and even ones go up by one.
UNORANIC: dict[str, Corruption] = {
    "pixel_dropout": pixel_dropout(0.01),
    "gaussian_blur": gaussian_blur((3, 5, 7), (0.2, 0.4, 0.4), opencv=True),
    "colour_jitter": colour_jitter(0.2, 0.2, 0.2, 0.2),
    "downscale": downscale(0.5, 0.9),
    "gaussian_noise": gaussian_noise(10**0.5 / 255, 50**0.5 / 255),
    "invert": invert(),
    "motion_blur": line_blur(),
    "multiplicative_noise": multiplicative_noise(0.9, 1.1),
    "brightness_contrast": brightness_contrast(0.2, 0.2),
    "gamma": gamma(0.8, 1.2),
    "solarize": solarize(128 / 255),
    "sharpen": sharpen(0.2, 0.5, 0.5, 1.0),
}


def unoranic_corruption(name: str) -> Corruption:
    """One of the twelve, always applied.

    Args:
        name: key of ``UNORANIC``.

    Raises:
        ConfigError: when there is none of that name.
    """
    check_name(name, UNORANIC, "unORANIC's corruptions")
    return UNORANIC[name]._replace(name=name)


def unoranic_chain(prob: float = 0.25, clean: float = 0.0) -> Corruption:
    """The training corruption A: all twelve in order, each with its own coin.

    Args:
        prob: probability of each; with 0.25 an image meets three of them, and 3 % of the images none.
        clean: share of images that are left alone on top of these; 0 as published. A network that hardly
            ever saw a clean image takes every bright one for brightened.

    Example:
        >>> import torch
        >>> from robustmed_monai.transforms.corruption.core import corrupt
        >>> images, generator = torch.rand(4, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> training = unoranic_chain()
        >>> corrupt(images, training, training.sample(images.shape, generator)).shape
        torch.Size([4, 1, 28, 28])
    """
    return chain([unoranic_corruption(name) for name in UNORANIC], prob, "unoranic_chain", clean)


def unoranic_detection(prob: float = 0.5) -> Corruption:
    """The corruption of the detection task: exactly one of the twelve with probability ``prob``."""
    return one_of([unoranic_corruption(name) for name in UNORANIC], prob, "unoranic_detection")
