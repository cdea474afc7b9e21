"""A user's images and classifier: each range, type, size, order of axes and output is right or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DenseNet121
from torch import nn
from torch.nn import functional as F

from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.inferers.risc_inputs import check_images, class_probabilities, for_rotnet
from robustmed_monai.networks.risc import RotNet
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, NonFiniteImageError

GENERATOR = torch.Generator().manual_seed(0)
UNIT = F.interpolate(torch.rand(2, 1, 6, 6, generator=GENERATOR), size=(32, 32), mode="bicubic").clamp(0, 1)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Corners(nn.Module):
    """RotNet of 8 pixels: the rotation is that of a bright corner; it notes what it was shown."""

    num_rotations, image_size, in_channels = 4, 8, 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image
        corners = [image[:, 0, :3, :3], image[:, 0, :3, -3:], image[:, 0, -3:, -3:], image[:, 0, -3:, :3]]
        return 40 * torch.stack([corner.mean((1, 2)) for corner in corners], 1)


class Classifier(nn.Module):
    """Notes the images that it is shown."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image
        return torch.stack([image.float().mean((1, 2, 3)), -image.float().mean((1, 2, 3))], 1) * 4


def bright_corner(size: int, channels: int = 1) -> torch.Tensor:
    """Upright images (2, C, X, Y), brighter to the left than to the right."""
    images = torch.zeros(2, channels, size, size)
    images[..., : size // 2, :] = 0.2
    images[..., : 3 * size // 8, : 3 * size // 8] = 1
    return images


class TestRange:
    @pytest.mark.parametrize("count", [4, 8])
    @pytest.mark.parametrize(
        ("images", "value_range"),
        [
            (UNIT * 2 - 1, (-1, 1)),
            (UNIT * 255, (0, 255)),
            (
                (UNIT.expand(-1, 3, -1, -1) - MEAN[:, None, None]) / STD[:, None, None],
                (-MEAN / STD, (1 - MEAN) / STD),
            ),
        ],
        ids=["-1 to 1", "0 to 255", "ImageNet"],
    )
    def test_the_classifier_sees_the_range_that_it_knows(
        self, images: torch.Tensor, value_range: Any, count: int
    ) -> None:
        classifier = Classifier()
        value_range = tuple(v.tolist() if isinstance(v, torch.Tensor) else v for v in value_range)
        told = RotNet(count, width=0.125, depth=10)
        for parameter in told.head.parameters():
            nn.init.zeros_(parameter)  # takes all for upright
        with pytest.raises(ConfigError, match=r"give value_range=\(black, white\)"):
            RotationCorrectionInferer(told)(images, classifier)
        RotationCorrectionInferer(told, value_range=value_range)(images, classifier)
        unit = rotate(UNIT.expand_as(images), 0, count)
        low, high = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in value_range)
        torch.testing.assert_close(classifier.seen, unit * (high - low) + low, atol=1e-4, rtol=1e-5)

    @pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535), (torch.bool, 1)])
    def test_white_of_whole_numbers_is_that_of_their_type(self, dtype: torch.dtype, white: int) -> None:
        images = (bright_corner(8) > 0.5).float().mul(white).to(dtype)
        assert check_images(images).unit.unique().tolist() == [0, 1]
        classifier = Classifier()
        RotationCorrectionInferer(Corners())(images, classifier)
        assert classifier.seen.amax() == 1

    @pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
    def test_other_whole_numbers_are_refused_unless_white_is_said(self, dtype: torch.dtype) -> None:
        images = (UNIT * 1000).to(dtype)
        with pytest.raises(ConfigError, match="its white is not known"):
            check_images(images)
        torch.testing.assert_close(check_images(images, (0, 1000)).unit, UNIT, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floating_types_keep_theirs(self, dtype: torch.dtype) -> None:
        classifier = Classifier()
        RotationCorrectionInferer(Corners())(UNIT.to(dtype), classifier)
        assert classifier.seen.dtype == dtype

    @pytest.mark.parametrize(
        ("images", "value_range", "error", "message"),
        [
            (UNIT, (1, 1), ConfigError, "black must lie below white"),
            (UNIT, ([0, 0], [1, 1]), ConfigError, "2 limits for 1 channels"),
            (UNIT / 0, None, NonFiniteImageError, "NaN or infinite"),
            (UNIT[..., :30], None, ImageShapeError, "pad them to squares"),
            (UNIT[0], None, ImageShapeError, r"\(B, C, X, Y\)"),
        ],
    )
    def test_what_is_refused(
        self, images: torch.Tensor, value_range: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            check_images(images, value_range)

    def test_nothing_is_asked_where_nothing_is_rotated(self) -> None:
        classifier = Classifier()
        RotationCorrectionInferer(correction="none")(UNIT * 900, classifier)
        assert torch.equal(classifier.seen, UNIT * 900)


class TestSizeAndChannels:
    @pytest.mark.parametrize("size", [5, 8, 28, 64, 224])
    def test_rotnet_sees_its_own_size_and_the_classifier_the_images(self, size: int) -> None:
        rotnet, classifier = Corners(), Classifier()
        index = torch.tensor([3, 2])
        found = RotationCorrectionInferer(rotnet)(rotate(bright_corner(size), index), classifier)
        assert rotnet.seen.shape == (2, 1, 8, 8)
        assert found["rotation"].tolist() == [3, 2]
        assert torch.equal(classifier.seen, bright_corner(size))

    def test_a_grey_rotnet_is_asked_about_rgb_and_an_rgb_one_about_grey(self) -> None:
        rotnet, classifier = Corners(), Classifier()
        rgb = rotate(bright_corner(16, 3), 1)
        assert RotationCorrectionInferer(rotnet)(rgb, classifier)["rotation"].tolist() == [1, 1]
        assert classifier.seen.shape[1] == 3
        assert for_rotnet(UNIT, nn.Conv2d(3, 1, 1)).shape[1] == 3

    def test_other_channels_are_refused(self) -> None:
        with pytest.raises(ImageShapeError, match="images of 2 channels, RotNet takes 1"):
            RotationCorrectionInferer(Corners())(UNIT.expand(-1, 2, -1, -1), Classifier())

    def test_another_number_of_rotations_than_that_of_rotnet_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="give the number that it was trained with"):
            RotationCorrectionInferer(Corners(), num_rotations=8)(UNIT, Classifier())
        assert RotationCorrectionInferer(RotNet(8, width=0.125)).num_rotations == 8


class TestAxes:
    @pytest.mark.parametrize("correction", ["hard", "soft", "none"])
    def test_rows_and_columns_are_the_same_picture(self, correction: str) -> None:
        seen, answers = [], []
        for axes in ("XY", "YX"):
            rotnet, classifier = Corners(), Classifier()
            pictures = rotate(bright_corner(8), torch.tensor([1, 3]))
            images = pictures.transpose(-1, -2) if axes == "YX" else pictures
            inferer = RotationCorrectionInferer(rotnet, correction=correction, axes=axes)
            answers.append(inferer(images, classifier))
            seen.append(classifier.seen.transpose(-1, -2) if axes == "YX" else classifier.seen)
            assert answers[-1]["angle"].tolist() == [90, 270]
        assert torch.equal(*seen)
        assert torch.equal(answers[0]["corrected"], answers[1]["corrected"].transpose(-1, -2))

    def test_unsaid_axes_of_images_that_monai_did_not_read_are_warned_of_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        inferer = RotationCorrectionInferer(Corners())
        inferer(MetaTensor(UNIT), Classifier())
        assert not caplog.records
        for _ in range(2):
            inferer(UNIT, Classifier())
        assert ["axes='YX'" in record.message for record in caplog.records] == [True]
        RotationCorrectionInferer(Corners(), axes="XY")(UNIT, Classifier())
        assert len(caplog.records) == 1


class TestOutputs:
    LOGITS = torch.tensor([[-4.0], [3.0]])

    def test_one_logit_is_a_probability(self) -> None:
        expected = torch.sigmoid(self.LOGITS)
        assert torch.equal(class_probabilities(self.LOGITS), expected)
        network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1)
        inferer = RotationCorrectionInferer(correction="none", outputs="logits")
        with torch.no_grad():
            torch.testing.assert_close(inferer(UNIT, network)["pred"], network.eval()(UNIT).sigmoid())

    def test_several_labels_do_not_share_their_probability(self) -> None:
        logits = torch.tensor([[2.0, 2.0, -1.0]])
        assert torch.equal(class_probabilities(logits, "multilabel"), logits.sigmoid())
        torch.testing.assert_close(class_probabilities(logits).sum(), torch.tensor(1.0))

    @pytest.mark.parametrize(
        "outputs",
        [
            torch.tensor([[0.2, 0.8]]),
            torch.tensor([[0.3]]),
            torch.tensor([[1.0, 0.0, 0.0]]),
            torch.tensor([[0.9, 0.2, 0.7], [0.1, 0.8, 0.6]]),
            torch.rand(8, 5, generator=GENERATOR),
        ],
    )
    def test_probabilities_are_kept_or_refused_but_never_taken_for_logits(
        self, outputs: torch.Tensor
    ) -> None:
        with pytest.raises(ConfigError, match="look like probabilities already; say outputs="):
            class_probabilities(outputs)
        assert torch.equal(class_probabilities(outputs, "probabilities"), outputs)

    def test_logits_that_are_said_to_be_logits_are(self) -> None:
        half = torch.tensor([[0.5]])
        assert torch.equal(class_probabilities(half, "logits"), half.sigmoid())

    def test_logits_are_no_probabilities(self) -> None:
        with pytest.raises(ConfigError, match=r"found values from -4 to 3; say outputs='logits'"):
            class_probabilities(self.LOGITS, "probabilities")

    @pytest.mark.parametrize(
        "outputs", [torch.zeros(2), torch.zeros(2, 3, 4, 4), (torch.zeros(2, 3),), {"a": 1}]
    )
    def test_other_shapes_are_refused(self, outputs: Any) -> None:
        with pytest.raises(ConfigError, match=r"expected a tensor \(B, classes\)"):
            RotationCorrectionInferer(correction="none")(UNIT, lambda image: outputs)
