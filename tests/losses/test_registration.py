"""The objective of registration: its terms against independent values, and where MONAI's fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses.deform import DiffusionLoss
from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss
from torch import nn

from robustmed_monai.losses.registration import (
    RegistrationLoss,
    averaged,
    local_cross_correlation,
    mean_squared_difference,
    smoothness,
)
from robustmed_monai.networks.registration import registration_net
from robustmed_monai.utils.errors import ConfigError


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_correlation_is_that_of_each_window() -> None:
    first, second = (noise(8, 9, seed=i).double().numpy() for i in (0, 1))
    expected = []
    a, b = (np.pad((x - x.mean()) / x.std(), 2) for x in (first, second))
    for i, j in np.ndindex(8, 9):
        window = (slice(i, i + 5), slice(j, j + 5))
        expected.append(np.corrcoef(a[window].ravel(), b[window].ravel())[0, 1] ** 2)
    x, y = (torch.from_numpy(v)[None, None].float() for v in (first, second))
    assert local_cross_correlation(x, y, 5).item() == pytest.approx(1 - np.mean(expected), abs=1e-5)


def test_an_affine_change_of_contrast_costs_nothing() -> None:
    image = noise(2, 3, 12, 12, 12)
    assert local_cross_correlation(image, 3 - 2 * image, 5) < 1e-4


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_flat_bright_images_stay_in_range_where_monai_explodes(scale: float) -> None:
    flat = torch.full((1, 1, 32, 32), 1000.0) * scale
    spot = flat.clone()
    spot[..., 10:14, 10:14] += 0.01 * scale
    assert LocalNormalizedCrossCorrelationLoss(2, 9)(flat, spot) < -10
    for other in (flat, spot, noise(1, 1, 32, 32)):
        assert -1e-3 <= local_cross_correlation(flat, other).item() <= 1 + 1e-6
        assert -1e-3 <= local_cross_correlation(spot, other).item() <= 1 + 1e-6


# 2026-11: MONAI 1.6.1 indexes by a list, which torch 2.15 warns of.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
def test_smoothness_sees_a_checkerboard_that_monai_does_not() -> None:
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    checkers = ((x + y) % 2).expand(1, 2, 8, 8)
    assert DiffusionLoss()(checkers) == 0
    assert smoothness(checkers) == 1
    ramp = torch.stack([2 * x, 0 * x])[None]
    # One of two components rises by 2 along one of two axes.
    assert smoothness(ramp).item() == pytest.approx(4 / 4)


class Given(nn.Module):
    """A network that returns one displacement and the images as its features."""

    def __init__(self, ddf: torch.Tensor) -> None:
        super().__init__()
        self.ddf = nn.Parameter(ddf)

    def forward(
        self, moving: torch.Tensor, fixed: torch.Tensor, inverse: bool, represented: bool
    ) -> dict[str, torch.Tensor]:
        return {"ddf": self.ddf, "moving_features": moving, "fixed_features": fixed}


class TestObjective:
    def test_terms_add_up_and_the_right_shift_costs_nothing(self) -> None:
        image = torch.zeros(1, 1, 12, 12)
        image[..., 4:7, 5:8] = 1
        fixed = image.roll(2, dims=2)
        right, wrong = torch.zeros(1, 2, 12, 12), torch.zeros(1, 2, 12, 12)
        right[:, 0] = -2
        wrong[:, 0] = 2
        batch = {"image": torch.cat([image, fixed], 1)}
        values = []
        for ddf in (right, wrong):
            loss = RegistrationLoss(weight=3.0)
            terms = loss({"network": Given(ddf)}, batch, torch.Generator())
            assert terms["loss"] == terms["similarity"] + 3 * terms["smoothness"]
            values.append(terms["similarity"].item())
        assert values[0] == 0
        assert values[1] > 0.05

    def test_compares_what_it_is_told_to(self) -> None:
        given, images = noise(1, 2, 8, 8), noise(1, 2, 8, 8, seed=1)
        batch = {"image": given, "target": images, "label": images.flip(1)}
        network = {"network": Given(torch.zeros(1, 2, 8, 8))}
        for compare, pair in (("features", given), ("target", images), ("label", images)):
            found = RegistrationLoss(compare=compare)(network, batch, torch.Generator())
            expected = mean_squared_difference(pair[:, :1], pair[:, 1:])
            assert found["similarity"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_averaging_takes_the_gain_of_interpolation_away(self) -> None:
        """Two noises have nothing in common, and half a voxel anywhere makes them more alike."""
        batch = {"image": noise(4, 2, 64, 64) - 0.5}
        gain = []
        for blur in (1, 5):
            loss = RegistrationLoss(blur=blur)
            still, half = (
                loss({"network": Given(torch.full((4, 2, 64, 64), shift))}, batch, torch.Generator())
                for shift in (0.0, 0.5)
            )
            gain.append(1 - (half["similarity"] / still["similarity"]).item())
        assert gain[0] > 0.25
        assert abs(gain[1]) < 0.15

    @pytest.mark.parametrize("shape", [(1, 2, 9, 8), (1, 2, 6, 7, 5)])
    def test_averages_are_of_what_is_there(self, shape: tuple[int, ...]) -> None:
        images = noise(*shape)
        assert torch.equal(averaged(images, 1), images)
        mean = averaged(images, 3)
        assert mean.shape == images.shape
        centre = tuple(slice(1, 4) for _ in shape[2:])
        place = (2,) * (len(shape) - 2)
        assert mean[0, 1][place].item() == pytest.approx(images[0, 1][centre].mean().item())
        torch.testing.assert_close(averaged(torch.ones(shape), 3), torch.ones(shape))

    @pytest.mark.parametrize("similarity", ["mse", "lncc"])
    def test_training_brings_two_squares_together(self, similarity: str) -> None:
        torch.manual_seed(0)
        image = torch.zeros(1, 1, 32, 32)
        image[..., 10:20, 10:20] = 1
        image = nn.functional.avg_pool2d(image, 3, 1, 1)
        batch = {"image": torch.cat([image, image.roll((2, 1), (2, 3))], 1)}
        network = registration_net(2, channels=[8, 8, 8, 8])
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        loss = RegistrationLoss(similarity, weight=0.01, kernel_size=5)
        course = []
        for _ in range(60):
            terms = loss({"network": network}, batch, torch.Generator())
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            course.append(terms["similarity"].item())
        assert course[-1] < {"mse": 0.6, "lncc": 0.85}[similarity] * course[0]

    @pytest.mark.parametrize(
        "settings",
        [{"similarity": "ncc"}, {"compare": "x"}, {"weight": -1.0}, {"kernel_size": 4}, {"blur": 2}],
    )
    def test_settings_out_of_range(self, settings: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            RegistrationLoss(**settings)  # type: ignore[arg-type]
