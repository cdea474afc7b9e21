"""Canonicalisation by networks whose answers are known."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DenseNet
from torch import nn

from robustmed_monai.inferers.risc import RotationCorrectionInferer, fit_temperature
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.utils.errors import ConfigError

SIZE = 12


class CornerRotNet(nn.Module):
    """Reads the rotation off a bright corner; logits are ``sharpness`` times the corners' brightness."""

    def __init__(self, sharpness: float = 40.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        corners = torch.stack(
            [image[:, 0, 0, 0], image[:, 0, 0, -1], image[:, 0, -1, -1], image[:, 0, -1, 0]], 1
        )
        return self.sharpness * corners


class RowClassifier(nn.Module):
    """Two classes: brightness of the left and of the right half; knows nothing of turned images."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = image[:, 0, 1:-1, 1:-1]
        return (
            torch.stack([inner[:, : SIZE // 2 - 1].mean((1, 2)), inner[:, SIZE // 2 - 1 :].mean((1, 2))], 1)
            * 9
            - 1
        )


@pytest.fixture
def images() -> torch.Tensor:
    """Upright: the corner at the top left (x = 0, y = 0) is bright."""
    generator = torch.Generator().manual_seed(2)
    made = torch.rand(5, 1, SIZE, SIZE, generator=generator) * 0.5
    made[..., 0, 0] = 1
    return made


INDEX = torch.tensor([0, 1, 2, 3, 1])


def upright(images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = RowClassifier()(images)
    return logits.softmax(1)


class TestCorrections:
    def test_hard_is_the_classifier_on_upright_images(self, images: torch.Tensor) -> None:
        found = RotationCorrectionInferer(CornerRotNet())(rotate(images, INDEX), RowClassifier())
        assert found["rotation"].tolist() == INDEX.tolist()
        assert found["angle"].tolist() == [0, 90, 180, 270, 90]
        assert torch.equal(found["corrected"], images)
        torch.testing.assert_close(found["pred"], upright(images))

    def test_none_leaves_the_image_alone(self, images: torch.Tensor) -> None:
        turned = rotate(images, INDEX)
        found = RotationCorrectionInferer(correction="none")(turned, RowClassifier())
        torch.testing.assert_close(found["pred"], upright(turned))
        assert list(found) == ["pred"]

    def test_average_is_the_mean_over_rotations_and_invariant(self, images: torch.Tensor) -> None:
        inferer = RotationCorrectionInferer(correction="average")
        expected = torch.stack([upright(rotate(images, k)) for k in range(4)]).mean(0)
        torch.testing.assert_close(inferer(images, RowClassifier())["pred"], expected)
        turned = inferer(rotate(images, INDEX), RowClassifier())["pred"]
        torch.testing.assert_close(turned, expected)

    def test_soft_weights_by_the_posterior(self, images: torch.Tensor) -> None:
        inferer = RotationCorrectionInferer(CornerRotNet(2.0), correction="soft", min_weight=0.0)
        found = inferer(images, RowClassifier())
        views = torch.stack([upright(rotate(images, -k)) for k in range(4)], 1)
        torch.testing.assert_close(found["pred"], (found["posterior"][..., None] * views).sum(1))

    def test_soft_goes_from_average_to_hard(self, images: torch.Tensor) -> None:
        turned = rotate(images, INDEX)
        classifier = RowClassifier()
        results = {
            temperature: RotationCorrectionInferer(
                CornerRotNet(), correction="soft", temperature=temperature
            )(turned, classifier)["pred"]
            for temperature in (1e-2, 1e6)
        }
        torch.testing.assert_close(results[1e-2], upright(images))
        average = RotationCorrectionInferer(correction="average")(turned, classifier)["pred"]
        torch.testing.assert_close(results[1e6], average, atol=1e-4, rtol=1e-4)

    def test_a_least_weight_looks_at_fewer_views(self, images: torch.Tensor) -> None:
        class Counting(RowClassifier):
            seen = 0

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                Counting.seen += len(image)
                return super().forward(image)

        RotationCorrectionInferer(CornerRotNet(), correction="soft")(images, Counting())
        assert Counting.seen == len(images)

    def test_eight_rotations(self) -> None:
        smooth = torch.zeros(1, 1, 24, 24)
        smooth[..., 13:17, 7:11] = 0.9

        class Told(nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return nn.functional.one_hot(torch.full((len(image),), 3), 8).float() * 50

        found = RotationCorrectionInferer(Told(), 8)(rotate(smooth, 3, 8), RowClassifier())
        assert found["angle"].tolist() == [135]
        assert (found["corrected"] - rotate(smooth, 0, 8)).abs().max() < 0.25


class TestRotationSet:
    def test_makes_the_answer_independent_of_how_the_image_lies(self, images: torch.Tensor) -> None:
        torch.manual_seed(0)
        rotnet = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 4))
        inferer = RotationCorrectionInferer(rotnet, correction="soft", rotation_set=True)
        plain = RotationCorrectionInferer(rotnet, correction="soft")
        straight, turned = inferer(images, RowClassifier()), inferer(rotate(images, INDEX), RowClassifier())
        torch.testing.assert_close(straight["pred"], turned["pred"])
        assert turned["rotation"].tolist() == ((straight["rotation"] + INDEX) % 4).tolist()
        other = [plain(x, RowClassifier())["pred"] for x in (images, rotate(images, INDEX))]
        assert (other[0] - other[1]).abs().max() > 0.01

    def test_a_rotnet_that_is_right_stays_right(self, images: torch.Tensor) -> None:
        found = RotationCorrectionInferer(CornerRotNet(), rotation_set=True)(
            rotate(images, INDEX), RowClassifier()
        )
        assert found["rotation"].tolist() == INDEX.tolist()


class TestAbstention:
    def test_below_the_confidence_views_are_averaged(self, images: torch.Tensor) -> None:
        turned = rotate(images, INDEX)
        unsure = turned.clone()
        unsure[0] = 0.3
        inferer = RotationCorrectionInferer(CornerRotNet(), min_confidence=0.9)
        found = inferer(unsure, RowClassifier())
        assert found["abstained"].tolist() == [True, False, False, False, False]
        average = RotationCorrectionInferer(correction="average")(unsure[:1], RowClassifier())["pred"]
        torch.testing.assert_close(found["pred"][:1], average)
        torch.testing.assert_close(found["pred"][1:], upright(images)[1:])

    def test_slices_of_one_volume_are_asked_together(self, images: torch.Tensor) -> None:
        slices = rotate(images, 2)
        slices[1, :, 2:] *= 0.5
        slices[1, :, 0, 0], slices[1, :, -1, -1] = 1, 0.6  # alone, this slice would be taken for upright
        alone = RotationCorrectionInferer(CornerRotNet())(slices, RowClassifier())["rotation"]
        pooled = RotationCorrectionInferer(CornerRotNet(), pool=True)(slices, RowClassifier())["rotation"]
        assert alone.tolist() == [2, 0, 2, 2, 2]
        assert pooled.tolist() == [2] * 5


class TestContract:
    @pytest.mark.parametrize("correction", ["hard", "soft", "average"])
    def test_a_batch_is_its_images_and_any_monai_classifier_fits(
        self, images: torch.Tensor, correction: str
    ) -> None:
        classifier = DenseNet(2, 1, 3, init_features=4, growth_rate=4, block_config=(1, 1))
        inferer = RotationCorrectionInferer(CornerRotNet(3.0), correction=correction, batch_size=2)
        big = nn.functional.interpolate(images, (32, 32))
        whole = inferer(big, classifier)["pred"]
        assert classifier.training, "the mode is given back"
        single = torch.cat([inferer(x[None], classifier)["pred"] for x in big])
        torch.testing.assert_close(whole, single, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole.sum(1), torch.ones(5))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"correction": "both"}, "choose one of hard, soft, average, none"),
            ({"num_rotations": 3}, "num_rotations=3"),
            ({"correction": "hard"}, "needs a RotNet"),
            ({"correction": "average", "min_confidence": 0.5}, "needs a RotNet"),
            ({"rotnet": CornerRotNet(), "min_confidence": 1.5}, r"min_confidence=1.5 must lie in \[0, 1\]"),
            ({"rotnet": CornerRotNet(), "temperature": 0.0}, "temperature=0.0 above 0"),
            ({"rotnet": CornerRotNet(), "min_weight": 0.3}, "min_weight=0.3"),
        ],
    )
    def test_settings_out_of_range(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            RotationCorrectionInferer(**settings)  # type: ignore[arg-type]

    def test_no_posterior_without_a_rotnet(self, images: torch.Tensor) -> None:
        with pytest.raises(ConfigError, match="no RotNet to ask"):
            RotationCorrectionInferer(correction="average").posterior(images)


def test_temperature_is_that_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20000, 4, generator=generator) * 2
    labels = torch.multinomial(truth.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(truth * 3, labels) == pytest.approx(3, rel=0.06)
