from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Transform
from PIL import Image
from torch.utils.data import DataLoader

from robustmed_monai.data.slice_dataset import SliceDataset, identity_collate, slice_transforms
from robustmed_monai.utils.errors import CorruptImageError, DataError

SHAPE = (12, 16, 10)
# The first slice and the last two of every volume are empty.
FILLED = range(1, 8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """12 columns (x) by 16 rows (y), brighter to the right."""
    values = np.linspace(40, 200, 12)[:, None].repeat(16, 1).astype(np.uint8)
    Image.fromarray(values.T).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def volume(tmp_path: Path) -> dict[str, str]:
    """A volume in RPS axes whose slice k has the intensity 10 k, with a mask in the slices 3 and 4."""
    voxels = np.zeros(SHAPE, np.float32)
    for k in FILLED:
        voxels[2:10, 3:13, k] = 10 * k
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:6, 5:9, 3:5] = 1
    affine = np.diag([1.0, -1.0, 1.0, 1.0])
    for name, values in (("image", voxels), ("mask", mask)):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    return {"image": str(tmp_path / "image.nii.gz"), "mask": str(tmp_path / "mask.nii.gz")}


def read(item: dict[str, Any], size: int = 16, **settings: Any) -> dict[str, torch.Tensor]:
    return SliceDataset([item], slice_transforms(size, **settings), progress=None).tensors


class TestSliceTransforms:
    def test_picture_is_one_slice_with_its_axes(self, picture: Path) -> None:
        found = read({"image": str(picture)}, slice_range=(0.4, 0.5))["image"]
        assert found.shape == (1, 1, 16, 16)
        assert found.dtype == torch.float32
        columns = found[0, 0, 2:14, 8]
        assert torch.equal(columns, columns.sort().values), "x of the picture is the first axis"
        assert not found[0, 0, :2].any(), "padded to a square, centred"
        assert float(found.max()) == 1.0

    def test_mask_goes_with_its_slices_and_stays_binary(self, volume: dict[str, str]) -> None:
        found = read(volume)
        assert found["mask"].shape == found["image"].shape
        assert [i + 1 for i, m in enumerate(found["mask"]) if m.any()] == [3, 4]
        # Padded by two columns on either side, not resized.
        assert found["mask"][2, 0].nonzero().tolist() == [[x, y] for x in (6, 7) for y in range(5, 9)]
        assert set(read(volume, 29)["mask"].unique().tolist()) == {0.0, 1.0}

    def test_are_those_of_the_configs(self) -> None:
        configs = Path(__file__).parents[2] / "bundles"
        for path in ("ra/configs/train.json", "unoranic/configs/train_supervised.json"):
            parser = ConfigParser(ConfigParser.load_config_file(configs / path))
            parser.update({"image_size": 16, "spacing": 2.0, "slice_range": [0.2, 0.4]})
            written = parser.get_parsed_content("train#preprocessing")
            for one, other in zip(
                written.transforms, slice_transforms(16, 2.0, (0.2, 0.4)).transforms, strict=True
            ):
                assert type(one) is type(other)
                assert _settings(one) == _settings(other)

    def test_a_damaged_file_is_named(self, picture: Path) -> None:
        picture.write_bytes(picture.read_bytes()[:-20])
        with pytest.raises(CorruptImageError, match=r"picture\.png"):
            read({"image": str(picture)})


def _settings(value: Any) -> Any:
    """What a transform was made of."""
    if isinstance(value, Transform):
        return {k: _settings(v) for k, v in vars(value).items() if not k.startswith("_")}
    return value


class TestSliceDataset:
    @pytest.fixture
    def items(self, volume: dict[str, str], picture: Path) -> list[dict[str, Any]]:
        return [{"image": str(picture), "healthy": True}, {**volume, "healthy": False}]

    def test_holds_every_slice_with_its_item(self, items: list[dict[str, Any]]) -> None:
        data = SliceDataset(items, slice_transforms(16), progress=None)
        assert len(data) == 1 + len(FILLED)
        assert data.tensors["index"].tolist() == [0] + [1] * 7
        # The slices of an abnormal volume that its mask leaves out are healthy.
        assert data.tensors["healthy"].tolist() == [True, True, True, False, False, True, True, True]
        assert not data.tensors["mask"][0].any(), "an item without a mask has nothing outlined"
        assert [m.any().item() for m in data.tensors["mask"]] == [not h for h in data.tensors["healthy"]]

    def test_slices_of_an_abnormal_volume_without_mask_are_abnormal(self, volume: dict[str, str]) -> None:
        data = SliceDataset(
            [{"image": volume["image"], "healthy": False}], slice_transforms(16), progress=None
        )
        assert "mask" not in data.tensors
        assert not data.tensors["healthy"].any()

    def test_an_abnormal_picture_is_abnormal_even_where_nothing_is_outlined(
        self, picture: Path, tmp_path: Path
    ) -> None:
        Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / "none.png")
        item = {"image": str(picture), "mask": str(tmp_path / "none.png"), "healthy": False}
        assert SliceDataset([item], slice_transforms(16), progress=None).tensors["healthy"].tolist() == [
            False
        ]

    def test_items_without_a_word_are_healthy(self, picture: Path) -> None:
        data = SliceDataset([{"image": str(picture)}], slice_transforms(16), progress=None)
        assert data.tensors["healthy"].tolist() == [True]

    def test_a_batch_is_its_items(self, items: list[dict[str, Any]]) -> None:
        data = SliceDataset(items, slice_transforms(16), progress=None)
        batch = data.__getitems__([5, 0, 3])
        for place, index in enumerate((5, 0, 3)):
            for key, value in data[index].items():
                assert torch.equal(batch[key][place], value)

    def test_loader_gives_whole_batches(self, items: list[dict[str, Any]]) -> None:
        data = SliceDataset(items, slice_transforms(16), progress=None)
        loader = DataLoader(data, batch_size=3, collate_fn=identity_collate)  # type: ignore[arg-type]
        batches = list(loader)
        assert [len(batch["image"]) for batch in batches] == [3, 3, 2]
        for key, whole in data.tensors.items():
            assert torch.equal(torch.cat([batch[key] for batch in batches]), whole)

    def test_batches_are_copies(self, items: list[dict[str, Any]]) -> None:
        data = SliceDataset(items, slice_transforms(16), progress=None)
        data.__getitems__([0])["image"].zero_()
        assert data.tensors["image"][0].any()

    def test_needs_items(self) -> None:
        with pytest.raises(DataError, match="no images to read; check --dataset_dir"):
            SliceDataset([], slice_transforms(16))
