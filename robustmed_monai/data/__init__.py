"""Data: the embedded virtual brains, and datalists of any source."""

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.embedded import embedded_dataset

__all__ = ["embedded_dataset", "load_datalist"]
