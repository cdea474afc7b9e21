"""The synthesis as MONAI's transforms."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from robustmed_monai.transforms.synthesis import (
    DiffeomorphicDeform,
    LabelShapes,
    LabelsToImage,
    RandDiffeomorphicDeform,
    RandDiffeomorphicDeformd,
    RandLabelShapes,
    RandLabelShapesd,
    RandLabelsToImage,
    RandLabelsToImaged,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


@pytest.mark.parametrize("size", [(48, 40), (24, 20, 22)])
def test_chain_from_nothing(size: tuple[int, ...]) -> None:
    chain = Compose(
        [
            RandLabelShapesd("label", size, LabelShapes(5)),
            RandDiffeomorphicDeformd("label", prob=1.0, mode="nearest"),
            RandLabelsToImaged(("image", "image_2")),
        ]
    ).set_random_state(seed=3)
    first, second = chain({}), chain({})
    assert first["label"].shape == first["image"].shape == (1, *size)
    assert first["label"].dtype == torch.uint8
    assert first["image"].dtype == torch.float32
    assert not torch.equal(first["image"], first["image_2"])
    assert not torch.equal(first["label"], second["label"])
    again = chain.set_random_state(seed=3)({})
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_shapes_repeat_without_randomize() -> None:
    transform = RandLabelShapes((40, 40))
    transform.set_random_state(seed=0)
    shape = transform()
    assert torch.equal(transform(randomize=False), shape)
    assert not torch.equal(transform(), shape)
    two = RandLabelShapesd(("a", "b"), (40, 40))({})
    assert not torch.equal(two["a"], two["b"])


def test_images_keep_the_kind_of_the_labels() -> None:
    labels = np.kron(np.eye(4, dtype=np.int16) * 3, np.ones((8, 8), np.int16))[None]
    transform = RandLabelsToImage()
    transform.set_random_state(seed=0)
    image = transform(labels)
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.float32
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    meta = transform(MetaTensor(torch.from_numpy(labels), affine=affine), randomize=False)
    assert isinstance(meta, MetaTensor)
    torch.testing.assert_close(meta.affine, affine.to(meta.affine))
    np.testing.assert_array_equal(meta.numpy(), image)


def test_real_label_values_get_the_contrast_asked_for() -> None:
    labels = torch.tensor([0, 41, 2, 3]).repeat_interleave(64).view(1, 16, 16)
    t2 = LabelsToImage(means=[0, 0.3, 0.6, 0.9], std=(0, 0), blur=0, bias_std=0, gamma_std=0, stretch=False)
    image = torch.as_tensor(RandLabelsToImage(t2, label_values=(0, 2, 3, 41))(labels))
    assert [round(float(image[labels == value].mean()), 4) for value in (0, 2, 3, 41)] == [0, 0.3, 0.6, 0.9]
    with pytest.raises(ConfigError, match="label 41"):
        RandLabelsToImage(t2, label_values=(0, 2, 3, 4))(labels)
    with pytest.raises(ImageShapeError, match="give"):
        RandLabelsToImage()(labels[0])


def test_values_are_found_when_not_given_and_0_is_the_background() -> None:
    labels = torch.tensor([7, 900]).repeat_interleave(32).view(1, 8, 8)
    to_image = LabelsToImage(zero_background=1.0, std=(0, 0), blur=0, bias_std=0, stretch=False)
    transform = RandLabelsToImage(to_image)
    transform.set_random_state(seed=0)
    assert torch.as_tensor(transform(labels)).min() > 0


def test_deformation_is_shared_by_the_keys() -> None:
    ramp = torch.arange(40.0).view(1, 40, 1).expand(1, 40, 40) / 40
    data: dict[Hashable, torch.Tensor] = {"image": ramp, "label": (ramp > 0.5).to(torch.uint8)}
    transform = RandDiffeomorphicDeformd(
        ("image", "label"), DiffeomorphicDeform(std=4.0), prob=1.0, mode=("bilinear", "nearest")
    )
    transform.set_random_state(seed=1)
    moved = {key: torch.as_tensor(value) for key, value in transform(data).items()}
    assert moved["label"].dtype == torch.uint8
    assert (moved["image"] - ramp).abs().max() > 0.02
    clear = (moved["image"] - 0.5).abs() > 0.03
    assert torch.equal((moved["image"] > 0.5)[clear], moved["label"].bool()[clear])


def test_coin_and_kind_of_the_deformation() -> None:
    image = np.random.default_rng(0).random((2, 30, 30), dtype=np.float32)
    never = RandDiffeomorphicDeform(prob=0.0)(image)
    np.testing.assert_array_equal(never, image)
    transform = RandDiffeomorphicDeform(prob=1.0)
    transform.set_random_state(seed=0)
    moved = transform(image)
    assert isinstance(moved, np.ndarray)
    assert np.abs(moved - image).max() > 0.01
    np.testing.assert_array_equal(transform(image, randomize=False), moved)


def test_wrong_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="spatial_size"):
        RandLabelShapes((8,))
