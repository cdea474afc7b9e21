from __future__ import annotations

import torch
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.data.with_features import with_features


def test_images_become_features_and_the_rest_stays() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Dropout())
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5)
    data = TensorDataset({"image": image, "label": label}, [{"image": "a.png"}])
    made = with_features(data, features, batch_size=2)
    assert features.training
    with torch.no_grad():
        torch.testing.assert_close(made.tensors["image"], features[0](image))
    assert torch.equal(made.tensors["label"], label)
    assert made.data == data.data
    assert with_features(data, None) is data
    rough = with_features(data, features, amp=True).tensors["image"]
    assert rough.dtype == torch.float32
    assert 0 < (rough - made.tensors["image"]).abs().max() < 0.05
