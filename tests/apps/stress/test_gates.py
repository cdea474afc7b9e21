"""Gates warn of what is unlike the reference; remedies undo what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustmed_monai.apps.stress import Model, StressData, callable_model, tensor_data
from robustmed_monai.apps.stress.gates import (
    corruption_gate,
    familiarity_gate,
    p_value_gate,
    reference_images,
    rotation_gate,
)
from robustmed_monai.apps.stress.remedies import plain_remedies, restoration_remedy, rotation_remedy
from robustmed_monai.apps.stress.suites import stressed
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.utils.errors import DataError


@pytest.fixture(scope="module")
def waves() -> StressData:
    """Smooth pictures of one kind."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 6, 28)
    phase = torch.rand(120, 1, 1, 1, generator=generator)
    images = 0.5 + 0.3 * torch.sin(x.view(1, 1, 28, 1) + phase) * torch.cos(x.view(1, 1, 1, 28))
    return tensor_data((images * 255).round() / 255, torch.zeros(120, dtype=torch.long), num_classes=2)


def test_familiarity_and_p_values(waves: StressData) -> None:
    reference = reference_images(waves)
    assert reference.shape == (120, 1, 28, 28)
    (views,) = waves.batches(200)
    noisy = stressed(CorruptionSuite.imagenet_c([5]), CorruptionSuite.imagenet_c([5]).cases[0], views).images
    for gate in (familiarity_gate(training_statistics(reference)), p_value_gate(reference)):
        assert float(gate(views.images).double().mean()) <= 0.08
        assert gate(noisy).all()
        assert torch.equal(gate(noisy[:5]), torch.cat([gate(noisy[i : i + 1]) for i in range(5)]))
        # A volume is what most of its middle slices are.
        volumes = torch.stack([stack[:12, 0].movedim(0, -1)[None] for stack in (views.images, noisy)])
        assert gate(volumes).tolist() == [False, True]
    with pytest.raises(DataError, match="needs 40"):
        p_value_gate(reference[:20])


def test_gates_and_remedies_of_the_shipped_weights(waves: StressData, repository: Path) -> None:
    risc = repository / "bundles/risc/models/model.pt"
    unoranic = repository / "bundles/unoranic/models/pca_pneumoniamnist.pt"
    (views,) = waves.batches(200)
    for gate in (rotation_gate(risc), corruption_gate(unoranic)):
        said = gate(views.images[:6])
        assert said.dtype == torch.bool
        assert said.shape == (6,)
    model = callable_model(lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, -1, -1]], 1))
    for remedy in (rotation_remedy(risc), restoration_remedy(unoranic)):
        wrapped = remedy(model)
        assert len(wrapped.predict(views)) == 120
        assert wrapped.digest != model.digest


def test_a_turned_segmentation_comes_back(squares: StressData, segmenter: Model, repository: Path) -> None:
    wrapped = rotation_remedy(repository / "bundles/risc/models/model.pt")(segmenter)
    (views,) = squares.batches(20)
    for found, truth in zip(wrapped.predict(views), views.truth, strict=True):
        assert torch.equal(found, truth)


def test_plain_remedies_keep_the_shape(squares: StressData, segmenter: Model) -> None:
    (views,) = squares.batches(20)
    for remedy in plain_remedies(squares).values():
        assert [f.shape for f in remedy(segmenter).predict(views)] == [t.shape for t in views.truth]
