"""Trainers and evaluation loops that MONAI's engines cannot express."""
