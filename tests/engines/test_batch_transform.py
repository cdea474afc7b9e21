from __future__ import annotations

import torch

from robustmed_monai.engines.batch_transform import PrepareTransformed
from robustmed_monai.transforms.batch_rotation import BatchAllRotations, BatchRandRotation


def test_batches_reach_the_evaluator_transformed_and_alike_every_time() -> None:
    batch = {"image": torch.rand(3, 1, 8, 8), "label": torch.tensor([2, 0, 1])}
    image, label = PrepareTransformed(BatchAllRotations(4))(batch, "cpu")
    assert image.shape == (12, 1, 8, 8)
    assert label.tolist() == [0, 1, 2, 3] * 3
    prepare = PrepareTransformed(BatchRandRotation(4), seed=4)
    assert torch.equal(prepare(batch, "cpu")[0], prepare(batch, "cpu")[0])
    assert torch.equal(PrepareTransformed()(batch, "cpu")[0], batch["image"])
