"""Trainers and evaluation loops that MONAI's engines cannot express."""

from robustmed_monai.engines.file_evaluator import FileEvaluator
from robustmed_monai.engines.multi_optimizer import MultiOptimizerTrainer
from robustmed_monai.engines.ra import anomaly_iteration
from robustmed_monai.engines.schedules import TwoStageCosine

__all__ = [
    "FileEvaluator",
    "MultiOptimizerTrainer",
    "TwoStageCosine",
    "anomaly_iteration",
]
