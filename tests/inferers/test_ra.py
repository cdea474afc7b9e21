from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.exposure import equalize_adapthist as skimage_clahe
from torch import Tensor, nn

from robustmed_monai.inferers.perceptual import EncoderPerceptual
from robustmed_monai.inferers.ra import (
    AnomalyMapInferer,
    image_score,
    perceptual_product,
    residual_map,
)
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.utils.errors import ConfigError, WeightsError

SWITCHES = [
    (equalize, perceptual, again, residual)
    for equalize in (True, False)
    for perceptual in ("encoder", "none")
    for again in (True, False)
    for residual in (True, False)
    if residual or perceptual != "none"
]


@pytest.fixture(scope="module")
def network() -> ReversedAutoEncoder:
    """A network whose statistics fit its input, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ReversedAutoEncoder(1, 32, (4, 8, 8), 8, "batch").train()
        with torch.no_grad():
            for _ in range(20):
                made(torch.rand(8, 1, 32, 32))
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Five smooth images with structure of several sizes."""
    generator = torch.Generator().manual_seed(1)
    coarse, fine = (torch.rand(5, 1, n, n, generator=generator) for n in (4, 32))
    smooth = nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return (0.8 * smooth + 0.2 * fine).clamp(0, 1)


def _clahe(batch: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(skimage_clahe(x[0].double().numpy()))[None].float() for x in batch])


class TestFactors:
    @pytest.mark.parametrize(("equalize", "perceptual", "again", "residual"), SWITCHES)
    def test_map_is_the_product_of_those_switched_on(
        self, network: Any, images: Tensor, equalize: bool, perceptual: str, again: bool, residual: bool
    ) -> None:
        """A = |q(x_ph) - q(x)| * P(x_ph, x) * P(q(x_ph), q(x)), with scikit-image's CLAHE as q."""
        image, ph = images, images.flip(0)
        inferer = AnomalyMapInferer(
            equalize=equalize, perceptual=perceptual, perceptual_equalized=again, residual=residual, sigma=1.5
        )
        q_image, q_ph = _clahe(image), _clahe(ph)
        expected = torch.ones(5, 1, 32, 32)
        if residual:
            expected = expected * ((q_ph - q_image).abs() if equalize else (ph - image).abs())
        if perceptual == "encoder":
            distance = EncoderPerceptual(network.encoder, inferer.layers)
            with torch.no_grad():
                expected = expected * gaussian_blur(distance(ph, image), 1.5)
                if again:
                    expected = expected * gaussian_blur(distance(q_ph, q_image), 1.5)
        torch.testing.assert_close(inferer.compare(image, ph, network), expected, atol=2e-5, rtol=1e-3)

    def test_residual_alone_is_the_plain_difference(self, network: Any, images: Tensor) -> None:
        found = AnomalyMapInferer(equalize=False, perceptual="none")(images, network)
        assert torch.equal(found["anomaly_map"], (images - found["pred"]).abs())

    def test_residual_is_the_mean_over_channels(self, images: Tensor) -> None:
        colour = torch.cat([images, images + 0.2, images - 0.4], 1)
        plain = torch.cat([images] * 3, 1)
        torch.testing.assert_close(residual_map(colour, plain), torch.full_like(images, 0.2))

    def test_product_of_two_pairs_is_the_product_of_each(self, images: Tensor) -> None:
        def distance(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs()

        pairs = [(images, images.flip(2)), (images.flip(0), images)]
        each = [perceptual_product([pair], distance, 2.0) for pair in pairs]
        torch.testing.assert_close(perceptual_product(pairs, distance, 2.0), each[0] * each[1])


class TestLaws:
    @pytest.mark.parametrize("perceptual", ["encoder", "none"])
    def test_batch_is_its_singles(self, network: Any, images: Tensor, perceptual: str) -> None:
        inferer = AnomalyMapInferer(perceptual=perceptual)
        together = inferer(images, network)
        for i in range(len(images)):
            for key, value in inferer(images[i : i + 1], network).items():
                torch.testing.assert_close(value, together[key][i : i + 1], atol=1e-6, rtol=1e-4)

    def test_twice_gives_the_same_bits_and_the_network_stays_as_it_is(
        self, network: Any, images: Tensor
    ) -> None:
        before = {k: v.clone() for k, v in network.state_dict().items()}
        first, second = (AnomalyMapInferer()(images, network) for _ in range(2))
        assert network.training
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        for key in ("pred", "anomaly_map"):
            assert torch.equal(first[key], second[key])
            assert not first[key].requires_grad
            assert first[key].dtype == torch.float32
            assert first[key].shape == images.shape
        network.eval()
        assert torch.equal(AnomalyMapInferer()(images, network)["anomaly_map"], first["anomaly_map"])
        network.train()

    @pytest.mark.parametrize(("equalize", "perceptual", "again", "residual"), SWITCHES)
    def test_identical_images_have_no_anomaly(
        self, network: Any, images: Tensor, equalize: bool, perceptual: str, again: bool, residual: bool
    ) -> None:
        inferer = AnomalyMapInferer(equalize, perceptual, again, residual)
        assert not inferer.compare(images, images.clone(), network).any()

    @pytest.mark.parametrize("first", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("second", [0.0, 1.0])
    def test_constant_images_give_finite_maps(self, network: Any, first: float, second: float) -> None:
        pair = torch.full((2, 1, 32, 32), first), torch.full((2, 1, 32, 32), second)
        maps = AnomalyMapInferer().compare(*pair, network)
        assert torch.isfinite(maps).all()
        assert (maps >= 0).all()
        assert torch.isfinite(AnomalyMapInferer()(pair[0], network)["anomaly_map"]).all()

    def test_meta_tensors_are_welcome(self, network: Any, images: Tensor) -> None:
        inferer = AnomalyMapInferer()
        found = inferer(MetaTensor(images), network)
        torch.testing.assert_close(
            torch.as_tensor(found["anomaly_map"]).as_subclass(Tensor), inferer(images, network)["anomaly_map"]
        )

    def test_a_change_is_found_where_it_is(self, images: Tensor) -> None:
        class Healthy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = ReversedAutoEncoder(1, 32, (4, 8, 8), 8, "affine").encoder

            def forward(self, _: Tensor) -> Tensor:
                return images

        changed = images.clone()
        changed[:, :, 20:25, 4:9] = 1.0
        maps = AnomalyMapInferer(sigma=1.0)(changed, Healthy())["anomaly_map"]
        for each in maps[:, 0]:
            x, y = divmod(int(each.argmax()), 32)
            assert 20 <= x < 25
            assert 4 <= y < 9


class TestRefusals:
    def test_of_no_factor_at_all(self) -> None:
        with pytest.raises(ConfigError, match="leave no factor"):
            AnomalyMapInferer(perceptual="none", residual=False)

    def test_of_an_unknown_difference(self, network: Any, images: Tensor) -> None:
        with pytest.raises(ConfigError, match="'encode' is unknown; use 'encoder', 'lpips' or 'none'"):
            AnomalyMapInferer(perceptual="encode")(images, network)

    def test_of_a_network_without_encoder(self, images: Tensor) -> None:
        with pytest.raises(ConfigError, match="give the network's encoder, or use 'lpips' or 'none'"):
            AnomalyMapInferer()(images, nn.Identity())

    def test_of_layers_that_the_encoder_has_not(self, network: Any, images: Tensor) -> None:
        with pytest.raises(ConfigError, match="the encoder has layers 0 to 2"):
            AnomalyMapInferer(layers=(1, 3))(images, network)

    def test_of_lpips_without_its_weights(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"(?s)perceptual='lpips' needs .*perceptual='encoder'"):
            AnomalyMapInferer(perceptual="lpips", weights_path=str(tmp_path / "squeezenet.pth"))


class TestScore:
    def test_reductions_are_numpys(self, rng: np.random.Generator) -> None:
        maps = rng.random((3, 1, 20, 25)).astype(np.float32)
        flat = np.sort(maps.reshape(3, -1))
        expected = {"mean": flat.mean(1), "max": flat[:, -1], "top": flat[:, -5:].mean(1)}
        for reduction, value in expected.items():
            np.testing.assert_allclose(
                image_score(torch.from_numpy(maps), reduction).numpy(), value, rtol=1e-5
            )
        # Ten per cent of 500 pixels.
        np.testing.assert_allclose(
            image_score(torch.from_numpy(maps), "top", 0.1).numpy(), flat[:, -50:].mean(1), rtol=1e-5
        )

    def test_of_the_top_takes_at_least_one_pixel(self) -> None:
        assert image_score(torch.tensor([[[[0.0, 1.0]]]]), "top", 0.01).tolist() == [1.0]

    def test_unknown_reductions_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="'median' is unknown; use 'mean', 'max' or 'top'"):
            image_score(torch.zeros(1, 1, 2, 2), "median")
