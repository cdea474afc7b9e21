from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.data.invariance_views import brain_batches, shape_batches
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import write_json


class Pairs:
    """Stands in for a source of synthesised pairs."""

    def batch(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(6, 1, 24, 24, generator=generator)
        return {"image": image, "label": torch.zeros(3, 1, 24, 24, dtype=torch.uint8)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five validation pictures of 40 x 40 pixels, the first three with labels on their left half."""
    rng = np.random.default_rng(0)
    label = np.zeros((40, 40), np.uint8)
    label[:, :20] = 170
    Image.fromarray(label).save(tmp_path / "label.png")
    items: list[dict[str, str]] = []
    for k in range(5):
        pixels = rng.integers(10, 255, (40, 40)).astype(np.uint8)
        pixels[30:] = 0
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        items.append({"image": f"{k}.png", **({"label": "label.png"} if k < 3 else {})})
    write_json(
        tmp_path / "datalist.json", {"name": "x", "license": "x", "description": "x", "validation": items}
    )
    return tmp_path


def test_shapes_are_the_first_batches_and_their_inverses() -> None:
    source: Any = Pairs()
    batches = shape_batches(source, 2)
    assert [b["kind"] for b in batches] == ["shapes"] * 2
    assert torch.equal(batches[1]["image"][:6], source.batch(1)["image"])
    assert torch.equal(batches[0]["image"][6:], 1 - batches[0]["image"][:3])
    assert batches[0]["mask"].shape == (3, 1, 24, 24)
    assert batches[0]["mask"].min() == 1


class TestBrains:
    def test_views_differ_inside_the_brain_only_where_inverted(self, pictures: Path) -> None:
        first, second = brain_batches(str(pictures), image_size=40, batch_size=3)
        assert (len(first["image"]), len(second["image"])) == (9, 6)
        (image, other, inverted), mask = first["image"].split(3), first["mask"]
        # The label covers the left half; MONAI's first axis is the picture's column.
        assert mask[:, :, :20].min() == 1
        assert mask[:, :, 20:].max() == 0
        assert torch.equal(inverted, torch.where(mask > 0, 1 - image, image))
        assert (other - image).abs().mean() > 0.05
        assert 0 <= other.min() <= other.max() <= 1

    def test_without_a_label_the_foreground_is_the_mask(self, pictures: Path) -> None:
        second = brain_batches(str(pictures), image_size=40, batch_size=3)[1]
        assert torch.equal(second["mask"], (second["image"][:2] > 0).float())

    def test_batches_are_the_same_every_time_and_limited(self, pictures: Path) -> None:
        first, again = (brain_batches(str(pictures), image_size=32, limit=3) for _ in range(2))
        assert all(torch.equal(first[0][k], again[0][k]) for k in ("image", "mask"))
        assert sum(len(b["mask"]) for b in first) == 3
        other = brain_batches(str(pictures), image_size=32, limit=3, seed=1)
        assert not torch.equal(first[0]["image"], other[0]["image"])

    def test_a_single_image_at_the_end_is_left_out(self, pictures: Path) -> None:
        assert [len(b["mask"]) for b in brain_batches(str(pictures), image_size=32, batch_size=4)] == [4]

    def test_volumes_are_cut_to_cubes(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for k in range(2):
            volume = rng.integers(1, 255, (20, 26, 18)).astype(np.uint8)
            nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), tmp_path / f"{k}.nii.gz")
            label = np.zeros_like(volume)
            label[10:] = 1
            nib.save(nib.Nifti1Image(label, np.diag([-1.0, 1, 1, 1])), tmp_path / f"{k}-label.nii.gz")
        items = [{"image": f"{k}.nii.gz", "label": f"{k}-label.nii.gz"} for k in range(2)]
        write_json(
            tmp_path / "d.json", {"name": "x", "license": "x", "description": "x", "validation": items}
        )
        (batch,) = brain_batches(str(tmp_path / "d.json"), spatial_dims=3, image_size=16)
        assert batch["image"].shape == (6, 1, 16, 16, 16)
        assert batch["mask"].shape == (2, 1, 16, 16, 16)
        # The source's first axis points to the left, the network's to the right.
        assert batch["mask"][:, :, :8].min() == 1
        assert batch["mask"][:, :, 8:].max() == 0

    def test_batches_of_one_are_refused(self, pictures: Path) -> None:
        with pytest.raises(ConfigError, match="at least 2"):
            brain_batches(str(pictures), batch_size=1)

    def test_a_single_image_is_refused(self, pictures: Path) -> None:
        with pytest.raises(DataError, match="at least 2 to compare"):
            brain_batches(str(pictures), image_size=32, limit=1)
