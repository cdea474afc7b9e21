"""Ignite handlers for any MONAI trainer or evaluator."""

from __future__ import annotations

from robustmed_monai.handlers.anomaly_images import AnomalyImageHandler
from robustmed_monai.handlers.best_weights import BestWeights
from robustmed_monai.handlers.checkpoint import AtomicCheckpoint
from robustmed_monai.handlers.cifl import InvarianceHandler
from robustmed_monai.handlers.progress import FirstProgressBar
from robustmed_monai.handlers.result_writer import ResultWriter
from robustmed_monai.handlers.side_by_side import SideBySide
from robustmed_monai.handlers.site_calibration import SiteCalibrator, load_site, mask_threshold

__all__ = [
    "AnomalyImageHandler",
    "AtomicCheckpoint",
    "BestWeights",
    "FirstProgressBar",
    "InvarianceHandler",
    "ResultWriter",
    "SideBySide",
    "SiteCalibrator",
    "load_site",
    "mask_threshold",
]
