from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks.cifl import CIFL, unit_maps
from robustmed_monai.utils.errors import ConfigError


@pytest.mark.parametrize(("spatial_dims", "count"), [(2, 231_440), (3, 693_392)])
def test_parameters_of_the_recommended_network(spatial_dims: int, count: int) -> None:
    assert sum(p.numel() for p in CIFL(spatial_dims).parameters()) == count


@pytest.mark.parametrize("shape", [(17, 40), (9, 12, 10)])
def test_features_have_the_size_of_the_image_mean_0_and_mean_square_1(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = CIFL(len(shape), out_channels=5, channels=6)(torch.rand(2, 1, *shape))
    assert features.shape == (2, 5, *shape)
    flat = features.flatten(2)
    assert torch.allclose(flat.mean(2), torch.zeros(2, 5), atol=1e-5)
    assert torch.allclose(flat.square().mean(2), torch.ones(2, 5), atol=1e-4)


def test_voxel_norm_gives_every_voxel_mean_square_1() -> None:
    features = CIFL(channels=6, norm="voxel")(torch.rand(2, 1, 20, 20))
    assert torch.allclose(features.square().mean(1), torch.ones(2, 20, 20), atol=1e-4)


def test_only_the_radius_around_a_voxel_decides_its_maps() -> None:
    torch.manual_seed(1)
    network = CIFL(channels=4, depth=3).double()
    image = torch.rand(1, 1, 20, 20, dtype=torch.double)
    changed = image.clone()
    changed[0, 0, 10, 10] += 1
    differs = (network.maps(changed) != network.maps(image)).any(1)[0].nonzero()
    assert differs.min(0).values.tolist() == [10 - network.radius] * 2
    assert differs.max(0).values.tolist() == [10 + network.radius] * 2


def test_batch_is_its_cases_one_by_one() -> None:
    network, images = CIFL(channels=8), torch.rand(3, 1, 24, 24)
    one_by_one = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(network(images), one_by_one, atol=1e-5)


def test_output_is_float32_inside_autocast() -> None:
    network, image = CIFL(channels=8), torch.rand(2, 1, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        features = network(image)
    assert features.dtype == torch.float32
    assert torch.allclose(features.flatten(2).square().mean(2), torch.ones(2, 16), atol=1e-4)


class TestUnitMaps:
    def test_channel_norm_without_centring_is_the_plain_l2_norm(self) -> None:
        maps = torch.rand(2, 3, 5, 6)
        expected = maps.flatten(2) / torch.linalg.vector_norm(maps.flatten(2), dim=2, keepdim=True)
        assert torch.allclose(unit_maps(maps, center=False), expected)

    def test_centred_cosine_is_pearson_correlation(self) -> None:
        maps = torch.rand(1, 4, 7, 7)
        units = unit_maps(maps)[0]
        assert torch.allclose(units @ units.T, torch.corrcoef(maps[0].flatten(1)), atol=1e-5)

    def test_constant_maps_become_0(self) -> None:
        assert unit_maps(torch.full((1, 2, 8, 8), 3.0)).abs().max() == 0

    def test_masked_maps_are_those_of_the_voxels_inside(self) -> None:
        maps, mask = torch.rand(1, 4, 6, 6), torch.zeros(1, 1, 6, 6)
        mask[..., 1:5, 2:] = 1
        cut = maps[..., 1:5, 2:]
        for norm in ("channel", "voxel"):
            units = unit_maps(maps, norm, mask=mask).reshape(1, 4, 6, 6)
            assert torch.allclose(units[..., 1:5, 2:].flatten(2), unit_maps(cut, norm), atol=1e-6)
            assert units[..., 0, :].abs().max() == 0

    def test_voxel_norm_sums_to_1(self) -> None:
        assert torch.allclose(unit_maps(torch.rand(2, 4, 8, 8), "voxel").square().sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize(
    "settings", [{"spatial_dims": 1}, {"depth": 1}, {"channels": 0}, {"norm": "instance"}], ids=str
)
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        CIFL(**settings)  # type: ignore[arg-type]
