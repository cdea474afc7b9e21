"""Pictures of images, maps and scores; every function returns a matplotlib figure."""

from robustmed_monai.visualize.curves import roc_pr_curves, score_histogram
from robustmed_monai.visualize.features import feature_sheet
from robustmed_monai.visualize.figures import save_png, to_array
from robustmed_monai.visualize.sheets import anomaly_sheet

__all__ = ["anomaly_sheet", "feature_sheet", "roc_pr_curves", "save_png", "score_histogram", "to_array"]
