from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from robustmed_monai.data_prep import fastmri_plus
from robustmed_monai.utils.errors import DataError

HEAD = "file,slice,study_level,x,y,width,height,label\n"
# The volume of the findings: boxes on slice 4 (x 3..7, y 2..4 and x 10..11, y 5..7 of the flipped image).
ILL = "file_brain_AXT1_201_6002695"
GLOBAL = "file_brain_AXT1_201_6002697"
NORMAL = "file_brain_AXT1_201_6002699"
UNLISTED = "file_brain_AXT1_202_2020003"
CSV = f"""{ILL},4,No,3,2,4,2,Nonspecific white matter lesion
{ILL},4,No,10,5,1,2,Edema
{ILL},9,No,1,1,2,2,Edema
{GLOBAL},0,Yes,,,,,Global label: Small vessel chronic white matter ischemic change
{NORMAL},0,Yes,,,,,Normal for age
file_brain_AXFLAIR_200_6002425,4,No,3,2,4,2,Edema
"""


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Volumes of 8 slices, 16 rows and 12 columns in two folders, as fastMRI unpacks."""
    root = tmp_path / "fastmri"
    for number, name in enumerate((ILL, GLOBAL, NORMAL, UNLISTED)):
        folder = root / ("multicoil_train", "multicoil_val")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["reconstruction_rss"] = rng.random((8, 16, 12)).astype(np.float32) * 1e-4
    (root / "brain.csv").write_text(HEAD + CSV)
    names = (ILL, GLOBAL, NORMAL, UNLISTED, "file_brain_AXFLAIR_200_6002425")
    (root / "brain_file_list.csv").write_text("\n".join(names) + "\n")
    return root


def test_boxes_masks_and_normals(source: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    content = load(fastmri_plus.prepare(source, tmp_path / "out", splits=(1, 0, 0)))
    assert {item["subject"] for item in content["training"]} == {NORMAL, UNLISTED}
    ill, other = sorted(content["test"], key=lambda item: str(item["subject"]))
    assert ill["level"] == 4
    assert ill["boxes"] == [[3, 2, 7, 4], [10, 5, 11, 7]]
    assert ill["box_kinds"] == ["nonspecific_white_matter_lesion", "edema"]
    assert ill["kind"] == "nonspecific_white_matter_lesion"
    assert other["kind"] == "small_vessel_chronic_white_matter_ischemic_change"
    assert "boxes" not in other
    expected = np.zeros((16, 12), dtype=np.uint8)
    expected[2:4, 3:7] = expected[5:7, 10:11] = 255
    np.testing.assert_array_equal(pixels(tmp_path / "out" / ill["mask"]), expected)
    with h5py.File(source / "multicoil_train" / f"{ILL}.h5") as file:
        volume = np.asarray(file["reconstruction_rss"])
    shown = np.clip(volume[4, ::-1] / np.percentile(volume, 98), 0, 1) * 255
    np.testing.assert_allclose(pixels(tmp_path / "out" / ill["image"]), shown, atol=0.5001)
    before = snapshot(tmp_path / "out")
    fastmri_plus.prepare(source, tmp_path / "out", splits=(1, 0, 0))
    assert snapshot(tmp_path / "out") == before


def test_boxes_follow_pixels_that_are_made_square(
    source: Path, tmp_path: Path, load: Any, pixels: Any
) -> None:
    with h5py.File(source / "multicoil_train" / f"{ILL}.h5", "r+") as file:
        volume = np.zeros((8, 16, 12), dtype=np.float32)
        # The findings of slice 4, in the file's upside-down rows.
        volume[4, 16 - 4 : 16 - 2, 3:7] = volume[4, 16 - 7 : 16 - 5, 10:11] = 1
        file["reconstruction_rss"][:] = volume
        space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>16</x><y>24</y>"
        header = space.format("encodedSpace", 8, 8) + space.format("reconSpace", 16, 12)
        file["ismrmrd_header"] = header.encode()
    content = load(fastmri_plus.prepare(source, tmp_path / "out", splits=(1, 0, 0), percentile=100))
    ill = next(item for item in content["test"] if item["subject"] == ILL)
    assert ill["pixel_mm"] == 1.0
    shown, mask = (pixels(tmp_path / "out" / ill[key]) for key in ("image", "mask"))
    assert shown.shape == mask.shape == (16, 23)
    # Where a finding shines more than half there is its box.
    assert not ((shown > 128) & (mask == 0)).any()
    assert ill["boxes"] == [[6, 2, 14, 4], [20, 5, 22, 7]]


def test_slices_without_a_box_are_left_out(source: Path, tmp_path: Path) -> None:
    path = fastmri_plus.prepare(source, tmp_path / "out", slices=3)
    ill = [item for item in json.loads(path.read_text())["test"] if item["subject"] == ILL]
    assert [item["level"] for item in ill] == [4]
    skipped = json.loads((tmp_path / "out/prepare_report.json").read_text())["skipped"]
    assert skipped == {"other contrast": 1, "slice without a box in a volume with findings": 2}


def test_changed_annotations_are_taken_over(source: Path, tmp_path: Path) -> None:
    fastmri_plus.prepare(source, tmp_path / "out")
    (source / "brain.csv").write_text(HEAD + CSV.replace("No,3,2,4,2", "No,4,2,4,2"))
    content = json.loads(fastmri_plus.prepare(source, tmp_path / "out").read_text())
    ill = next(item for item in content["test"] if item["subject"] == ILL)
    assert ill["boxes"][0] == [4, 2, 8, 4]


def _no_reconstruction(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((2, 2), dtype=np.complex64)


def _not_finite(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["reconstruction_rss"][0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (Path.unlink, "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "no readable HDF5"),
        (_no_reconstruction, "no reconstruction_rss"),
        (_not_finite, "NaN"),
    ],
)
def test_a_bad_volume_is_named_and_the_rest_goes_on(
    source: Path, tmp_path: Path, spoil: Callable[[Path], Any], text: str
) -> None:
    spoil(source / "multicoil_train" / f"{NORMAL}.h5")
    path = fastmri_plus.prepare(source, tmp_path / "out", splits=(0, 0, 1))
    assert {item["subject"] for item in json.loads(path.read_text())["test"]} == {ILL, GLOBAL, UNLISTED}
    (problem,) = json.loads((tmp_path / "out/prepare_report.json").read_text())["problems"]
    assert f"{NORMAL}.h5" in problem["file"]
    assert text in problem["problem"]


def test_a_bad_row_is_named(source: Path, tmp_path: Path) -> None:
    (source / "brain.csv").write_text(HEAD + CSV + f"{ILL},4,No,x,1,2,2,Edema\n{ILL},4,No,99,1,2,2,Edema\n")
    path = fastmri_plus.prepare(source, tmp_path / "out", splits=(0, 0, 1))
    row, outside = json.loads((tmp_path / "out/prepare_report.json").read_text())["problems"]
    assert row["file"].endswith("brain.csv:8")
    assert "no pixel inside" in outside["problem"]
    assert ILL not in {item["subject"] for item in json.loads(path.read_text())["test"]}


@pytest.mark.parametrize("name", ["brain.csv", "brain_file_list.csv"])
def test_a_missing_table_is_an_error(source: Path, tmp_path: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(DataError, match=name):
        fastmri_plus.prepare(source, tmp_path / "out")


def test_tables_of_their_own_folder_and_command_line(source: Path, tmp_path: Path) -> None:
    tables = tmp_path / "fastmri-plus/Annotations"
    tables.mkdir(parents=True)
    for name in ("brain.csv", "brain_file_list.csv"):
        (source / name).rename(tables / name)
    argv = ["--source", str(source), "--output", str(tmp_path / "out"), "--annotations", str(tables)]
    assert fastmri_plus.main([*argv, "--splits", "0", "0", "1", "--contrasts", "AXT1"]) == 0
    assert len(json.loads((tmp_path / "out/datalist.json").read_text())["test"]) == 4
