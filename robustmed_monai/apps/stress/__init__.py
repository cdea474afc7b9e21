"""Stress tests: how a model fails under corruptions, rotations, other contrasts and lying headers."""

from robustmed_monai.apps.stress.bundles import UnsafeBundleError, bundle_model
from robustmed_monai.apps.stress.data import StressData, datalist_data, medmnist_data, tensor_data
from robustmed_monai.apps.stress.models import Model, callable_model
from robustmed_monai.apps.stress.requirements import read_requirement
from robustmed_monai.apps.stress.run import stress
from robustmed_monai.apps.stress.suites import make_suite

__all__ = [
    "Model",
    "StressData",
    "UnsafeBundleError",
    "bundle_model",
    "callable_model",
    "datalist_data",
    "make_suite",
    "medmnist_data",
    "read_requirement",
    "stress",
    "tensor_data",
]
