from __future__ import annotations

import torch
from monai.losses import DiceCELoss
from torch import nn

from robustmed_monai.losses.supervised import SupervisedObjective, cross_entropy


def test_it_is_the_loss_of_the_output() -> None:
    torch.manual_seed(0)
    loss, network = DiceCELoss(to_onehot_y=True, softmax=True), nn.Conv2d(1, 4, 1)
    batch = {"image": torch.rand(2, 1, 8, 8), "label": torch.randint(0, 4, (2, 1, 8, 8), dtype=torch.uint8)}
    generator = torch.Generator()
    terms = SupervisedObjective(loss)({"network": network}, batch, generator)
    assert terms["loss"] == loss(network(batch["image"]), batch["label"])
    assert torch.equal(batch["pred"], network(batch["image"]))
    assert not batch["pred"].requires_grad
    terms["loss"].backward()
    assert network.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        rough = SupervisedObjective(loss)({"network": network}, batch, generator)
    assert rough["loss"].dtype == torch.float32


def test_is_minus_the_log_of_the_labels_probability() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = {"image": torch.rand(5, 1, 2, 2), "label": torch.tensor([0, 1, 2, 0, 1])}
    terms = cross_entropy("net")({"net": network}, batch, torch.Generator())
    p = network(batch["image"]).softmax(1)
    expected = -p[torch.arange(5), batch["label"]].log().mean()
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["accuracy"], (p.argmax(1) == batch["label"]).float().mean())
    assert not batch["pred"].requires_grad
