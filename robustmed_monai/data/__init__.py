"""Data: embedded virtual brains, datalists of any source, MedMNIST, synthetic views, data sets in memory."""

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.embedded import embedded_dataset
from robustmed_monai.data.labelled import labelled_images
from robustmed_monai.data.medmnist import image_dataset, medmnist_dataset
from robustmed_monai.data.synthetic_views import SyntheticViews
from robustmed_monai.data.tensor_dataset import TensorDataset

__all__ = [
    "SyntheticViews",
    "TensorDataset",
    "embedded_dataset",
    "image_dataset",
    "labelled_images",
    "load_datalist",
    "medmnist_dataset",
]
