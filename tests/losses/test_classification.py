from __future__ import annotations

import torch
from torch import nn

from robustmed_monai.losses.classification import CrossEntropyObjective


def test_is_minus_the_log_of_the_labels_probability() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = {"image": torch.rand(5, 1, 2, 2), "label": torch.tensor([0, 1, 2, 0, 1])}
    terms = CrossEntropyObjective("net")({"net": network}, batch, torch.Generator())
    p = network(batch["image"]).softmax(1)
    expected = -p[torch.arange(5), batch["label"]].log().mean()
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["accuracy"], (p.argmax(1) == batch["label"]).float().mean())
    assert not batch["pred"].requires_grad
