from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from robustmed_monai.inferers.controls import (
    MeanImageControl,
    PCAControl,
    ResizedInferer,
    ZScoreControl,
    head_area,
    intensity,
    no_anomaly,
)
from robustmed_monai.utils.errors import DataError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 12, 10, generator=torch.Generator().manual_seed(0))


def test_every_control_is_a_detector(images: Tensor) -> None:
    for channels in (1, 3):
        batch = images.expand(-1, channels, -1, -1)
        mean = MeanImageControl([{"image": batch}])
        for control in (intensity, no_anomaly, head_area, mean):
            found = control(batch)
            # Only what reconstructs has a reconstruction to be measured.
            assert set(found) == {"anomaly_map", *(["pred"] if control is mean else [])}
            assert found["anomaly_map"].shape == images.shape
            assert (found["anomaly_map"] >= 0).all()
            single = control(batch[2:3])
            assert all(torch.equal(single[key], found[key][2:3]) for key in found)


def test_intensity_is_the_image_and_no_anomaly_finds_nothing(images: Tensor) -> None:
    assert torch.equal(intensity(images)["anomaly_map"], images)
    assert not no_anomaly(images)["anomaly_map"].any()


def test_area_counts_the_head() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 2:5, 3:9] = 0.4
    image[..., 0, 0] = 0.1
    assert float(head_area(image)["anomaly_map"].sum()) == 18
    assert float(head_area(image, 0.5)["anomaly_map"].sum()) == 0


def test_mean_image_does_not_depend_on_the_batches(images: Tensor) -> None:
    whole = MeanImageControl([{"image": images}])
    parts = MeanImageControl({"image": part} for part in images.split(3))
    torch.testing.assert_close(whole.mean, images.mean(0, keepdim=True))
    torch.testing.assert_close(parts.mean, whole.mean)
    found = parts(images)
    torch.testing.assert_close(found["anomaly_map"], (images - images.mean(0)).abs())
    assert "mean" in parts.state_dict()


def test_mean_image_needs_images() -> None:
    with pytest.raises(DataError, match="no training images; give a data set with a training section"):
        MeanImageControl([])


def _heads(count: int, generator: torch.Generator) -> Tensor:
    """Smooth images in which two patterns vary."""
    x, y = torch.meshgrid(torch.linspace(0, 1, 24), torch.linspace(0, 1, 20), indexing="ij")
    first, second = torch.rand(2, count, 1, 1, 1, generator=generator)
    heads: Tensor = 0.2 + 0.3 * first * x + 0.3 * second * y**2
    return heads


def test_models_without_a_network_find_what_no_training_image_has() -> None:
    generator = torch.Generator().manual_seed(1)
    training = [{"image": _heads(20, generator)}, {"image": _heads(10, generator)}]
    for control in (ZScoreControl(training, sigma=1.0), PCAControl(training, components=2, sigma=1.0)):
        image = _heads(4, generator)
        healthy = control(image)["anomaly_map"]
        image[:, :, 10:14, 8:12] += 0.3
        found = control(image)["anomaly_map"]
        assert found.shape == image.shape
        highest = found.flatten(1).argmax(1)
        rows, columns = highest // 20, highest % 20
        assert ((rows >= 10) & (rows < 14) & (columns >= 8) & (columns < 12)).all()
        assert (found.amax((1, 2, 3)) > 2 * healthy.amax((1, 2, 3))).all()
        assert torch.allclose(control(image[1:2])["anomaly_map"], found[1:2], atol=1e-6)


def test_principal_components_reconstruct_what_they_span() -> None:
    generator = torch.Generator().manual_seed(2)
    control = PCAControl([{"image": _heads(30, generator)}], components=2)
    image = _heads(5, generator)
    assert torch.allclose(control(image)["pred"], image, atol=1e-4)
    # More components than the images have change nothing.
    whole = PCAControl([{"image": _heads(30, torch.Generator().manual_seed(2))}], components=30)
    assert len(whole.axes) < 30
    assert torch.allclose(whole(image)["pred"], image, atol=1e-4)


def test_the_z_score_counts_in_spreads() -> None:
    training = torch.rand(400, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    control = ZScoreControl([{"image": training}], sigma=0.0)
    image = training[:1].clone()
    image[..., 6, 6] = control.mean[..., 6, 6] + 0.4
    expected = 0.4 / float(training[:, 0, 6, 6].std(correction=0))
    assert float(control(image)["anomaly_map"][0, 0, 6, 6]) == pytest.approx(expected, rel=1e-4)


def _same(image: Tensor, network: torch.nn.Module) -> dict[str, Tensor]:
    return {"pred": network(image), "anomaly_map": network(image)}


def test_a_map_of_another_size_is_smoothed_at_the_size_of_the_image() -> None:
    image = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(4))
    network = torch.nn.Identity()
    plain, smooth = (ResizedInferer(_same, 12, sigma)(image, network) for sigma in (0.0, 2.0))
    assert torch.equal(plain["pred"], smooth["pred"])
    expected = gaussian_filter(plain["anomaly_map"].numpy(), (0, 0, 2, 2), mode="reflect")
    assert smooth["anomaly_map"].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("control", [ZScoreControl, PCAControl])
def test_without_training_images_there_is_no_model(control: type) -> None:
    with pytest.raises(DataError, match="training section"):
        control([])
