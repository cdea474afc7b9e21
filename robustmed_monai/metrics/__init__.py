"""Metrics of anomaly detection and reconstruction."""

from robustmed_monai.metrics.anomaly import image_anomaly_metrics
from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.boxes import box_detection
from robustmed_monai.metrics.calibration import Calibration, calibrate_thresholds
from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.metrics.reconstruction import reconstruction_metrics
from robustmed_monai.metrics.region import LesionMetric

__all__ = [
    "Calibration",
    "Estimate",
    "LesionMetric",
    "PixelAnomalyMetric",
    "bootstrap_mean",
    "box_detection",
    "calibrate_thresholds",
    "image_anomaly_metrics",
    "reconstruction_metrics",
]
