from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmed_monai.transforms.batch_affine import BatchRandAffine, apply_affine, sample_affine
from robustmed_monai.utils.errors import ConfigError

STILL: dict[str, Any] = {
    "rotate_range": 0.0,
    "translate_range": 0.0,
    "scale_range": (1.0, 1.0),
    "flip_prob": 0.0,
}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 16, 16, generator=_generator(7))


class TestMeaning:
    def test_zero_ranges_are_the_identity(self, images: Tensor) -> None:
        matrices = sample_affine(6, _generator(), 0.0, 0.0, (1.0, 1.0), 0.0)
        torch.testing.assert_close(matrices, torch.eye(2, 3).expand(6, 2, 3))
        moved = BatchRandAffine(**STILL)({"image": images}, _generator())["image"]
        torch.testing.assert_close(moved, images, atol=1e-6, rtol=0)

    def test_flip_is_left_to_right_and_twice_nothing(self, images: Tensor) -> None:
        """The first spatial axis is x, from the right of the patient to the left or the other way round."""
        flip = BatchRandAffine(**(STILL | {"flip_prob": 1.0}))
        once = flip({"image": images}, _generator())
        torch.testing.assert_close(once["image"], images.flip(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(flip(once, _generator())["image"], images, atol=1e-5, rtol=0)

    def test_half_of_all_are_flipped(self) -> None:
        matrices = sample_affine(4000, _generator(), 0.0, 0.0, (1.0, 1.0), 0.5)
        assert float((matrices[:, 1, 1] < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
        # y is never flipped.
        assert (matrices[:, 0, 0] > 0).all()

    @pytest.mark.parametrize(("row", "axis"), [(1, 2), (0, 3)], ids=["x", "y"])
    def test_shifts_are_shares_of_the_side(self, images: Tensor, row: int, axis: int) -> None:
        matrices = torch.eye(2, 3).repeat(6, 1, 1)
        matrices[:, row, 2] = 0.5
        # A quarter of 16 pixels; what comes in from outside is 0.
        moved = apply_affine(images, matrices)
        torch.testing.assert_close(moved.narrow(axis, 0, 12), images.narrow(axis, 4, 12), atol=1e-5, rtol=0)
        assert not moved.narrow(axis, 12, 4).any()

    def test_zoom_above_one_lets_the_content_grow(self) -> None:
        image = torch.zeros(1, 1, 32, 32)
        image[..., 12:20, 12:20] = 1.0
        grown = BatchRandAffine(**(STILL | {"scale_range": (1.5, 1.5)}))({"image": image}, _generator())[
            "image"
        ]
        assert float(grown.sum()) == pytest.approx(64 * 1.5**2, rel=0.02)

    def test_a_quarter_turn_is_rot90(self, images: Tensor) -> None:
        matrix = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).repeat(6, 1, 1)
        torch.testing.assert_close(apply_affine(images, matrix), images.rot90(1, (2, 3)), atol=1e-5, rtol=0)

    def test_an_oblong_image_is_turned_and_not_sheared(self) -> None:
        image = torch.zeros(1, 1, 64, 128)
        image[..., 22:42, 54:74] = 1
        settings = STILL | {"rotate_range": 45.0}
        turned = BatchRandAffine(**settings)({"image": image}, _generator(3))["image"]
        places = (turned[0, 0] > 0.5).nonzero().double()
        assert len(places) == pytest.approx(400, rel=0.06)
        # A square has the same second moments whichever way it lies.
        torch.testing.assert_close(places.T.cov(), torch.eye(2).double() * 33.3, atol=3.0, rtol=0)

    def test_draws_stay_in_their_ranges_and_fill_them(self) -> None:
        matrices = sample_affine(5000, _generator(), 10.0, 0.1, (0.9, 1.25), 0.5).double()
        linear = matrices[:, :, :2]
        zoom = 1 / torch.linalg.det(linear).abs().sqrt()
        angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
        shift = matrices[:, :, 2] / 2
        for values, low, high in ((zoom, 0.9, 1.25), (angle, -10, 10), (shift, -0.1, 0.1)):
            assert low - 1e-5 <= float(values.min()) < low + 0.02 * (high - low)
            assert high - 0.02 * (high - low) < float(values.max()) <= high + 1e-5

    def test_nearest_makes_no_new_values(self, images: Tensor) -> None:
        labels = (images * 4).floor() / 4
        moved = BatchRandAffine(mode="nearest")({"image": labels}, _generator())["image"]
        assert set(moved.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75}


class TestBatch:
    def test_draws_can_be_replayed(self, images: Tensor) -> None:
        augment = BatchRandAffine()
        one, two, other = (augment({"image": images}, _generator(seed))["image"] for seed in (3, 3, 4))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_generator_goes_on(self, images: Tensor) -> None:
        generator = _generator()
        first, second = (BatchRandAffine()({"image": images}, generator)["image"] for _ in range(2))
        assert not torch.equal(first, second)

    def test_the_global_seed_does_not_matter(self, images: Tensor) -> None:
        before = torch.get_rng_state()
        BatchRandAffine()({"image": images}, _generator())
        assert torch.equal(torch.get_rng_state(), before)

    def test_every_sample_has_a_draw_of_its_own(self) -> None:
        image = torch.rand(1, 1, 16, 16, generator=_generator()).expand(6, -1, -1, -1)
        moved = BatchRandAffine()({"image": image}, _generator())["image"]
        assert all(not torch.equal(moved[i], moved[j]) for i in range(6) for j in range(i))

    def test_a_batch_is_its_samples_under_their_matrices(self, images: Tensor) -> None:
        augment = BatchRandAffine(7.0, 0.05, (0.8, 1.1), 0.5)
        matrices = sample_affine(6, _generator(), *augment.ranges)
        moved = augment({"image": images}, _generator())["image"]
        for i in range(6):
            torch.testing.assert_close(apply_affine(images[i : i + 1], matrices[i : i + 1]), moved[i : i + 1])

    def test_channels_move_together_and_other_entries_stay(self, images: Tensor) -> None:
        batch = {"image": torch.cat([images, images / 2], 1), "index": torch.arange(6)}
        moved = BatchRandAffine()(batch, _generator())
        torch.testing.assert_close(moved["image"][:, 1], moved["image"][:, 0] / 2)
        assert moved["index"] is batch["index"]
        assert torch.equal(batch["image"][:, :1], images), "the given batch is not changed"

    @pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
    def test_layout_in_memory_is_kept(self, images: Tensor, layout: torch.memory_format) -> None:
        given = torch.cat([images, images], 1).contiguous(memory_format=layout)
        moved = BatchRandAffine()({"image": given}, _generator())["image"]
        assert moved.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale_range": (0.0, 1.0)},
        {"scale_range": (1.1, 0.9)},
        {"flip_prob": 1.5},
        {"rotate_range": math.nan},
    ],
)
def test_ranges_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
        BatchRandAffine(**wrong)  # type: ignore[arg-type]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose 'bilinear' or 'nearest'"):
        BatchRandAffine(mode="cubic")
