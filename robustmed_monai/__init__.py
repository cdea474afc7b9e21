"""Robust medical imaging methods as MONAI networks, losses, transforms, inferers and bundles."""

__version__ = "0.1.0"
