"""Ignite handlers for any MONAI trainer or evaluator."""

from __future__ import annotations

from robustmed_monai.handlers.anomaly_images import AnomalyImageHandler
from robustmed_monai.handlers.checkpoint import AtomicCheckpoint, BestWeights
from robustmed_monai.handlers.cifl import InvarianceHandler
from robustmed_monai.handlers.feature_files import FeatureFileWriter
from robustmed_monai.handlers.restoration_files import RestorationFileWriter
from robustmed_monai.handlers.result_writer import ResultWriter
from robustmed_monai.handlers.rotation_files import RotationFileWriter

__all__ = [
    "AnomalyImageHandler",
    "AtomicCheckpoint",
    "BestWeights",
    "FeatureFileWriter",
    "InvarianceHandler",
    "RestorationFileWriter",
    "ResultWriter",
    "RotationFileWriter",
]
