"""GRAZPEDWRI-DX and the COVID-19 Radiography Database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmed_monai.data_prep import chest_xray, grazpedwri
from robustmed_monai.utils.errors import DataError

COLUMNS = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,"
    "ao_classification,cast,diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,device_manufacturer"
)
# patient: (ao_classification, cast, fracture_visible, YOLO lines)
WRISTS: dict[int, tuple[str, str, str, str | None]] = {
    1: ("", "", "", ""),
    2: ("", "", "", None),
    3: ("23r-M/2.1", "", "1", "3 0.5 0.25 0.5 0.125\n8 0.1 0.1 0.1 0.1\n"),
    4: ("", "1", "", ""),
    5: ("", "", "", "8 0.1 0.1 0.1 0.1\n"),
    6: ("23r-M/2.1", "", "", ""),
    7: ("", "", "", "7 0.5 0.5 1.0 1.0\n5 0.25 0.25 0.5 0.5\n"),
}


def stem(patient: int, view: int = 1) -> str:
    return f"{patient:04d}_1297860395_0{view}_WRI-L{view}_M014"


def row(patient: int, view: int = 1) -> str:
    ao, cast, fracture, _ = WRISTS[patient]
    head = f"{stem(patient, view)},{patient},1,1297860395,M,14.1,L,{view},1"
    return f"{head},{ao},{cast},,,{fracture},,0.144,Siemens"


@pytest.fixture
def wrists(tmp_path: Path, write_png: Any, rng: np.random.Generator) -> Path:
    root = tmp_path / "graz"
    labels = root / "folder_structure/yolov5/labels"
    labels.mkdir(parents=True)
    for patient, (_, _, _, yolo) in WRISTS.items():
        pixels = rng.integers(0, 40000, (16, 8)).astype(np.uint16)
        write_png(root / f"images_part{1 + patient % 4}" / f"{stem(patient)}.png", pixels)
        if yolo is not None:
            (labels / f"{stem(patient)}.txt").write_text(yolo)
    # A second, normal image of the patient with a fracture.
    write_png(root / "images_part1" / f"{stem(3, 2)}.png", np.full((16, 8), 9, dtype=np.uint16))
    normal = row(3, 2).replace(",23r-M/2.1", ",").replace(",1,,0.144", ",,,0.144")
    rows = [row(patient) for patient in WRISTS] + [normal]
    (root / "dataset.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    return root


def test_wrists(wrists: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    content = load(grazpedwri.prepare(wrists, tmp_path / "out", splits=(1, 0, 0)))
    assert [item["subject"] for item in content["training"]] == ["1", "2"]
    by_name = {Path(item["image"]).stem: item for item in content["test"]}
    assert set(by_name) == {stem(3), stem(3, 2), stem(7)}
    # Not to mix a patient's normal image into the training when another of his shows a fracture.
    assert by_name[stem(3, 2)]["healthy"]
    fracture = by_name[stem(3)]
    assert fracture["kind"] == "fracture"
    assert fracture["boxes"] == [[2, 3, 6, 5]]
    mask = np.zeros((16, 8), dtype=np.uint8)
    mask[3:5, 2:6] = 255
    np.testing.assert_array_equal(pixels(tmp_path / "out" / fracture["mask"]), mask)
    both = by_name[stem(7)]
    assert both["box_kinds"] == ["soft_tissue", "periosteal_reaction"]
    assert both["boxes"] == [[0, 0, 8, 16], [0, 0, 4, 8]]
    assert both["kind"] == "soft_tissue"
    raw = pixels(wrists / "images_part4" / f"{stem(3)}.png").astype(float)
    expected = np.clip(raw / np.percentile(raw, 98), 0, 1) * 255
    np.testing.assert_allclose(pixels(tmp_path / "out" / fracture["image"]), expected, atol=0.5001)
    skipped = json.loads((tmp_path / "out/prepare_report.json").read_text())["skipped"]
    assert skipped == {
        "no finding, but ao_classification": 1,
        "no finding, but cast": 1,
        "no finding, but text": 1,
    }
    before = snapshot(tmp_path / "out")
    grazpedwri.prepare(wrists, tmp_path / "out", splits=(1, 0, 0))
    assert snapshot(tmp_path / "out") == before


def test_wrists_with_side_markers(wrists: Path, tmp_path: Path) -> None:
    argv = [
        "--source",
        str(wrists),
        "--output",
        str(tmp_path / "out"),
        "--keep_text",
        "--splits",
        "1",
        "0",
        "0",
    ]
    assert grazpedwri.main(argv) == 0
    content = json.loads((tmp_path / "out/datalist.json").read_text())
    assert [item["subject"] for item in content["training"]] == ["1", "2", "5"]


def test_wrist_problems_file_by_file(wrists: Path, tmp_path: Path) -> None:
    (wrists / "images_part2" / f"{stem(1)}.png").unlink()
    cut = wrists / "images_part3" / f"{stem(2)}.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    label = wrists / "folder_structure/yolov5/labels" / f"{stem(3)}.txt"
    label.write_text(label.read_text() + "12 0 0 0 0\n")
    grazpedwri.prepare(wrists, tmp_path / "out")
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    assert {Path(entry["file"]).name for entry in report["problems"]} == {
        f"{stem(1)}.png",
        f"{stem(2)}.png",
        f"{stem(3)}.txt:3",
    }


@pytest.mark.parametrize(("name", "text"), [("dataset.csv", r"dataset\.csv"), ("folder_structure", "yolov5")])
def test_wrists_without_their_tables(wrists: Path, tmp_path: Path, name: str, text: str) -> None:
    (wrists / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=text):
        grazpedwri.prepare(wrists, tmp_path / "out")


@pytest.fixture
def chests(tmp_path: Path, write_png: Any, rng: np.random.Generator) -> Path:
    root = tmp_path / "archive/COVID-19_Radiography_Dataset"
    for group in ("Normal", "Lung_Opacity", "Viral Pneumonia", "COVID"):
        for number in range(1, 4):
            name = f"{group}-{number}.png"
            shape = (30, 30, 3) if group == "Viral Pneumonia" else (30, 30)
            write_png(root / group / "images" / name, rng.integers(0, 256, shape).astype(np.uint8))
            lung = np.zeros((20, 20), dtype=np.uint8)
            lung[2:10, 4:8] = 255
            write_png(root / group / "masks" / name, lung)
        (root / f"{group}.metadata.xlsx").write_text("not read")
    return root.parent


def test_chests(chests: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    content = load(chest_xray.prepare(chests, tmp_path / "out", splits=(1, 0, 0)))
    assert len(content["training"]) == 3
    assert sorted({item["kind"] for item in content["test"]}) == ["covid", "lung_opacity", "viral_pneumonia"]
    assert len(content["test"]) == 9
    assert not any("mask" in item for item in content["training"] + content["test"])
    lung = pixels(tmp_path / "out" / content["training"][0]["label"])
    expected = np.zeros((30, 30), dtype=np.uint8)
    expected[3:15, 6:12] = 255
    np.testing.assert_array_equal(lung, expected)
    image = content["training"][0]["image"]
    original = chests / "COVID-19_Radiography_Dataset/Normal" / image
    np.testing.assert_array_equal(pixels(tmp_path / "out" / image), pixels(original))
    before = snapshot(tmp_path / "out")
    chest_xray.prepare(chests, tmp_path / "out", splits=(1, 0, 0))
    assert snapshot(tmp_path / "out") == before


def test_chest_problems_file_by_file(chests: Path, tmp_path: Path, damage: Any) -> None:
    root = chests / "COVID-19_Radiography_Dataset"
    damage(root / "COVID/images/COVID-2.png")
    (root / "Normal/masks/Normal-1.png").unlink()
    for path in (root / "Lung_Opacity/images").iterdir():
        path.unlink()
    assert chest_xray.main(["--source", str(root), "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    assert [Path(entry["file"]).relative_to(root).as_posix() for entry in report["problems"]] == [
        "Normal/masks/Normal-1.png",
        "Lung_Opacity/images",
        "COVID/images/COVID-2.png",
    ]
    assert chest_xray.main(["--source", str(root), "--output", str(tmp_path / "strict"), "--strict"]) == 1
    with pytest.raises(DataError, match="nothing usable"):
        chest_xray.prepare(tmp_path, tmp_path / "none")
