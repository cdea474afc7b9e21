"""Metrics of anomaly detection, reconstruction, classification, rotation and heat maps."""

from robustmed_monai.metrics.anomaly import image_anomaly_metrics
from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.boxes import box_detection
from robustmed_monai.metrics.calibration import Calibration, calibrate_thresholds
from robustmed_monai.metrics.cifl import channel_overlap, effective_rank, s_inverted, s_other, s_same
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.conformal import conformal_p_values, conformal_threshold, images_needed
from robustmed_monai.metrics.heatmaps import deletion_insertion_auc, rotation_consistency
from robustmed_monai.metrics.medmnist_c import relative_balanced_error
from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.metrics.reconstruction import reconstruction_metrics
from robustmed_monai.metrics.region import LesionMetric
from robustmed_monai.metrics.registration import registration_metrics
from robustmed_monai.metrics.risc import rotation_accuracy, rotation_confusion

__all__ = [
    "Calibration",
    "Estimate",
    "LesionMetric",
    "PixelAnomalyMetric",
    "bootstrap_mean",
    "box_detection",
    "calibrate_thresholds",
    "channel_overlap",
    "classification_metrics",
    "conformal_p_values",
    "conformal_threshold",
    "deletion_insertion_auc",
    "effective_rank",
    "image_anomaly_metrics",
    "images_needed",
    "reconstruction_metrics",
    "registration_metrics",
    "relative_balanced_error",
    "rotation_accuracy",
    "rotation_confusion",
    "rotation_consistency",
    "s_inverted",
    "s_other",
    "s_same",
]
