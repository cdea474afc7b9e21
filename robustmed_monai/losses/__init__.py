"""Published objectives, one file each; every loss returns its named terms."""

from robustmed_monai.losses.reversed_autoencoder import IntrospectiveLoss

__all__ = ["IntrospectiveLoss"]
