from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.inferers.risc_angles import AnyAngleInferer
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.risc import Corrected
from robustmed_monai.metrics.risc_angles import (
    accuracy_over_angles,
    angle_pictures,
    angles_between,
    angles_off,
    measure_any_angle,
)
from robustmed_monai.transforms.rotation import rotate_by
from robustmed_monai.utils.errors import ConfigError

SIDE, COUNT = 32, 24


def spots(side: int = SIDE) -> torch.Tensor:
    """A spot at the upper end of the vertical axis and a weaker one beside it, (1, 1, side, side)."""
    x, y = torch.meshgrid(*[torch.arange(side).float() - (side - 1) / 2] * 2, indexing="ij")
    return torch.exp(-(x**2 + (y + 9) ** 2) / 12)[None, None]


class Above(nn.Module):
    """RotNet: how bright each end of the two axes is; surest when the spot lies on an axis."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        near, far, mid = 6, SIDE - 7, slice(15, 17)
        ends = [image[..., mid, near], image[..., near, mid], image[..., mid, far], image[..., far, mid]]
        return 20 * torch.stack([end.mean((1, 2)) for end in ends], 1)


class Upper(nn.Module):
    """Classifier: class 1 where the spot stands upright, to within some degrees."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = image[:, 0, 15:17, 6].mean(1)
        return torch.stack([0.7 - bright, bright - 0.7], 1) * 20


@pytest.fixture
def case() -> TensorDataset:
    images = spots().expand(COUNT, -1, -1, -1).clone()
    return TensorDataset({"image": images, "label": torch.ones(COUNT, dtype=torch.long)})


def test_angles_lie_on_the_rotations_that_are_undone() -> None:
    assert angles_between(7.5)[6] == 45
    assert angles_off([0, 22.5, 67.5, 359], 8).tolist() == [0, 22.5, 22.5, 1]
    for wrong in (0, -5, 10, 7):
        with pytest.raises(ConfigError, match="divides 45"):
            angles_between(wrong)


def test_figures_are_means_of_the_angles_that_they_name(rng: np.random.Generator) -> None:
    correct = rng.random((16, 40)) < np.linspace(0.9, 0.3, 16)[:, None]
    found = {name: estimate.value for name, estimate in accuracy_over_angles(correct, 4).items()}
    by_angle = dict(zip(angles_between(22.5), correct.mean(1), strict=True))
    assert found["any"] == pytest.approx(correct.mean())
    assert found["lowest"] == min(by_angle.values())
    assert found["off_45"] == pytest.approx(np.mean([by_angle[angle] for angle in (45, 135, 225, 315)]))
    assert found["angle_22.5"] == by_angle[22.5]


@pytest.mark.parametrize("mode", ["isotropic", "bilinear"])
def test_only_looking_between_the_rotations_finds_an_angle_between_them(
    case: TensorDataset, mode: str
) -> None:
    settings: dict[str, Any] = {"num_rotations": 4, "axes": "XY", "outputs": "logits"}
    rows = {
        "none": Corrected(RotationCorrectionInferer(correction="none", **settings), Upper()),
        "hard": Corrected(RotationCorrectionInferer(Above(), **settings), Upper()),
        "any": Corrected(AnyAngleInferer(Above(), **settings), Upper()),
        "rotnet": Corrected(RotationCorrectionInferer(Above(), **settings)),
    }
    found = {name: measure_any_angle(row, case, 15.0, mode) for name, row in rows.items()}
    value = {
        name: {k: v.value if isinstance(v, Estimate) else v for k, v in result.figures.items()}
        for name, result in found.items()
    }
    assert value["rotnet"]["any"] == 1
    assert value["none"]["any"] < 0.3
    assert value["hard"]["off_0"] == 1
    assert value["hard"]["off_45"] == 0
    assert value["any"]["lowest"] == 1
    assert value["any"]["left"] < 4 < value["hard"]["left"]
    figure = angle_pictures({name: [result] for name, result in found.items()})["angles"]
    assert len(figure.axes[0].lines) == 3


def test_the_angle_is_told_and_undone(case: TensorDataset) -> None:
    image = case.tensors["image"][:1]
    angles = [0.0, 30.0, 100.0, 255.0]
    views = torch.cat([rotate_by(image, angle, "bilinear") for angle in angles])
    found = AnyAngleInferer(Above(), fine=18, axes="XY", outputs="logits")(views, Upper())
    off = ((found["angle"] - torch.tensor(angles) + 180) % 360 - 180).abs()
    assert off.max() <= 5
    assert (found["corrected"] - image).abs().mean() < 0.01
    assert torch.equal(found["corrected"][:1], image), "what lies upright stays to the bit"


@pytest.mark.parametrize("correction", ["none", "average"])
def test_what_does_not_correct_sees_the_image_as_it_is(
    case: TensorDataset, correction: str, caplog: pytest.LogCaptureFixture
) -> None:
    turned = MetaTensor(rotate_by(case.tensors["image"][:1], 45, "bilinear"))
    settings: dict[str, Any] = {"correction": correction, "outputs": "logits"}
    found = AnyAngleInferer(Above(), **settings)(turned, Upper())
    plain = RotationCorrectionInferer(Above(), **settings)(turned, Upper())
    assert torch.equal(found["pred"], plain["pred"])
    assert not torch.equal(found["angle"], plain["angle"])
    assert not caplog.records


def test_other_axes_and_ranges_are_those_of_the_images(case: TensorDataset) -> None:
    image = rotate_by(case.tensors["image"][:1], 40, "bilinear")
    settings: dict[str, Any] = {"outputs": "logits", "fine": 9}
    plain = AnyAngleInferer(Above(), axes="XY", **settings)(image, Upper())
    other = AnyAngleInferer(Above(), axes="YX", value_range=(-1, 1), **settings)(
        (image * 2 - 1).transpose(-1, -2), lambda x: Upper()((x.transpose(-1, -2) + 1) / 2)
    )
    assert torch.equal(plain["angle"], other["angle"])
    torch.testing.assert_close(plain["pred"], other["pred"], atol=1e-5, rtol=0)


def test_no_angle_to_try_is_refused() -> None:
    with pytest.raises(ConfigError, match="fine=0"):
        AnyAngleInferer(Above(), fine=0)
