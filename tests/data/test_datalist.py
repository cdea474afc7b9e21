"""Every source becomes the same kind of list, and what is wrong with a source is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from robustmed_monai.data.datalist import Item, load_datalist, training_spacing
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import sha256, write_json


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def datalist(folder: Path, **changes: object) -> Path:
    touch(folder, "a.png", "b.png", "c.png", "masks/c.png")
    content = {
        "training": [{"image": "a.png", "healthy": True, "subject": "1"}],
        "validation": [{"image": "b.png", "healthy": True}],
        "test": [{"image": "c.png", "mask": "masks/c.png", "healthy": False, "kind": "hyper"}],
        "digests": {name: sha256(folder / name) for name in ("a.png", "b.png", "c.png", "masks/c.png")},
    }
    return write_json(folder / "datalist.json", content | changes)


@pytest.mark.parametrize("give_file", [True, False])
def test_datalist_gets_absolute_paths_and_keeps_the_rest(tmp_path: Path, give_file: bool) -> None:
    source = datalist(tmp_path)
    items = load_datalist(source if give_file else tmp_path, "test")
    expected = {
        "image": str(tmp_path / "c.png"),
        "mask": str(tmp_path / "masks" / "c.png"),
        "healthy": False,
        "kind": "hyper",
    }
    assert items == [expected]


def test_absolute_paths_of_a_datalist_stay(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "x.nii.gz")
    path = str(tmp_path / "elsewhere" / "x.nii.gz")
    datalist(tmp_path / "list", training=[{"image": path}])
    assert load_datalist(tmp_path / "list", "training") == [{"image": path}]


def test_relative_dataset_dir_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datalist(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert load_datalist("set", "training")[0]["image"] == str(tmp_path / "set" / "a.png")


def test_missing_listed_files_are_named_and_counted(tmp_path: Path) -> None:
    datalist(tmp_path, training=[{"image": f"gone{i}.png"} for i in range(5)])
    with pytest.raises(DataError, match=r"5 file\(s\) \(.*gone0.png, .*gone1.png, .*gone2.png, \.\.\.\)"):
        load_datalist(tmp_path, "training")


@pytest.mark.parametrize("section", ["training", "validation"])
def test_unhealthy_items_outside_test_are_refused(tmp_path: Path, section: str) -> None:
    datalist(tmp_path, **{section: [{"image": "a.png"}, {"image": "c.png", "healthy": False}]})
    with pytest.raises(DataError, match=rf"'{section}' lists 1 file\(s\) \(c.png\) as not healthy"):
        load_datalist(tmp_path, section)


@pytest.mark.parametrize("content", [[], None, "a.png"])
def test_empty_or_missing_section_is_refused_and_others_named(tmp_path: Path, content: object) -> None:
    datalist(tmp_path, validation=content)
    with pytest.raises(DataError, match=r"no items in section 'validation', found \['training'"):
        load_datalist(tmp_path, "validation")


def test_item_without_image_is_refused(tmp_path: Path) -> None:
    datalist(tmp_path, test=[{"image": "c.png"}, {"img": "c.png"}])
    with pytest.raises(DataError, match="item 1 of 'test'"):
        load_datalist(tmp_path, "test")


def test_json_that_is_no_datalist_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", ["a.png"])
    with pytest.raises(DataError, match="not a datalist"):
        load_datalist(path, "test")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json: cannot be read as JSON"):
        load_datalist(path, "test")


def test_verify_finds_an_altered_file(tmp_path: Path) -> None:
    datalist(tmp_path)
    assert load_datalist(tmp_path, "test", verify=True)
    (tmp_path / "masks" / "c.png").write_bytes(b"other")
    assert load_datalist(tmp_path, "test")
    with pytest.raises(DataError, match=r"1 file\(s\) \(masks/c.png\) missing or not as recorded"):
        load_datalist(tmp_path, "test", verify=True)


def test_verify_needs_digests(tmp_path: Path) -> None:
    datalist(tmp_path / "list", digests={})
    touch(tmp_path / "plain", "a.png", "b.png", "c.png")
    for folder in ("list", "plain"):
        with pytest.raises(DataError, match="digests"):
            load_datalist(tmp_path / folder, "test", verify=True)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "VALID", "test")]
)
def test_subfolders_are_the_sections(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name in names:
        touch(tmp_path / name, "z_2.PNG", "deep/z_1.nii.gz", "notes.txt", ".hidden/x.png")
    for section in SECTIONS:
        found = [Path(item["image"]).name for item in load_datalist(tmp_path, section)]
        assert found == ["z_1.nii.gz", "z_2.PNG"]


def test_masks_and_labels_beside_images_belong_to_them(tmp_path: Path) -> None:
    touch(tmp_path, "val/images/s_1.png", "val/images/s_2.png", "val/labels/s_1.nii.gz")
    first, second = load_datalist(tmp_path, "validation")
    assert first["label"] == str(tmp_path / "val/labels/s_1.nii.gz")
    assert not {"mask", "label"} & set(second)
    assert first["healthy"] is second["healthy"] is True
    touch(tmp_path, "val/masks/s_2.png")
    with pytest.raises(DataError, match=r"s_2.png: has a mask .*, but validation holds healthy images only"):
        load_datalist(tmp_path, "validation")


@pytest.mark.parametrize("place", ["test/lesion/{}/1.png", "test/{}/lesion/1.png", "Test/lesion/{}/1.png"])
def test_masks_are_no_images_wherever_they_lie(tmp_path: Path, place: str) -> None:
    image, mask = place.format("images"), place.format("masks")
    touch(tmp_path, image, mask, "test/good/2.png" if place[0] == "t" else "Test/good/2.png")
    found = {item["kind"]: item for item in load_datalist(tmp_path, "test")}
    assert found["lesion"]["image"] == str(tmp_path / image)
    assert found["lesion"]["mask"] == str(tmp_path / mask)
    assert (found["lesion"]["healthy"], found["healthy"]["healthy"], len(found)) == (False, True, 2)


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_masks_without_images_are_refused_by_name(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, "test/lesion/1.png", f"test/lesion/{folder}/1.png")
    with pytest.raises(DataError, match=rf"{folder}/1.png: is in a folder of {folder} but there is no image"):
        load_datalist(tmp_path, "test")


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/._a.png", "train/.trash/b.png")
    assert [Path(item["image"]).name for item in load_datalist(tmp_path, "training")] == ["a.png"]


def test_results_of_inference_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.png" for name in "abc"), "a/anomaly_mask.png", "out/b/anomaly_map.png")
    write_json(tmp_path / "summary.json", {"images": [], "failed": {}})
    for folder in ("a", "out/b"):
        write_json(tmp_path / folder / "scores.json", {"image": "a.png", "made_from": {}})
    sections = ("training", "validation", "test")
    found = [Path(item["image"]).name for name in sections for item in load_datalist(tmp_path, name)]
    assert sorted(found) == ["a.png", "b.png", "c.png"]


def test_one_section_in_two_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "training/b.png")
    with pytest.raises(DataError, match="train and training are both training; keep one"):
        load_datalist(tmp_path, "training")


def test_subfolders_of_test_name_the_kind(tmp_path: Path) -> None:
    touch(tmp_path / "test", "Normal/1.png", "tumour/2.png", "3.png")
    loose, normal, tumour = load_datalist(tmp_path, "test")
    assert "healthy" not in loose
    assert (normal["kind"], normal["healthy"]) == ("healthy", True)
    assert (tumour["kind"], tumour["healthy"]) == ("tumour", False)


def test_plain_folder_is_split_by_subject_once_and_for_all(tmp_path: Path) -> None:
    names = [f"sub-{subject:02d}_slice-{k}.png" for subject in range(20) for k in range(3)]
    touch(tmp_path / "a", *names)
    touch(tmp_path / "b", *reversed(names))
    parts = {section: load_datalist(tmp_path / "a", section) for section in SECTIONS}
    assert {section: len(items) for section, items in parts.items()} == {
        "training": 48,
        "validation": 6,
        "test": 6,
    }
    subjects = [{item["subject"] for item in items} for items in parts.values()]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 20
    again = [Path(item["image"]).name for item in load_datalist(tmp_path / "b", "test")]
    assert again == [Path(item["image"]).name for item in parts["test"]]


def test_a_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *[f"sub-{subject:02d}_slice-{k}.png" for subject in range(20) for k in range(3)])
    with caplog.at_level("INFO", logger="robustmed_monai"):
        load_datalist(tmp_path, "training")
    assert caplog.messages == [
        f"training: 48 images of 60 in {tmp_path} (80 %, split by subject), validation 6, test 6"
    ]


def test_the_number_of_images_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "test/good/1.png", "test/crack/2.png", "test/crack/3.png")
    with caplog.at_level("INFO", logger="robustmed_monai"):
        load_datalist(tmp_path, "test")
        load_datalist(datalist(tmp_path / "list"), "training")
    assert caplog.messages == [
        f"test: 3 images in {tmp_path / 'test'}, 2 of them abnormal",
        f"training: 1 images in {tmp_path / 'list/datalist.json'}",
    ]


def test_a_folder_of_test_images_is_all_tested(tmp_path: Path) -> None:
    touch(tmp_path / "flat", *[f"{number}.png" for number in range(10)])
    assert len(load_datalist(tmp_path / "flat", "test", split=False)) == 10
    touch(tmp_path / "kinds", "good/1.png", "crack/images/2.png", "crack/masks/2.png")
    ill, well = load_datalist(tmp_path / "kinds", "test", split=False)
    assert (ill["kind"], ill["mask"]) == ("crack", str(tmp_path / "kinds/crack/masks/2.png"))
    assert well["healthy"]
    # Where there are sections, the folder is not all test.
    touch(tmp_path / "whole", "train/1.png", "test/2.png")
    assert len(load_datalist(tmp_path / "whole", "test", split=False)) == 1


def test_subjects_with_a_mask_are_not_trained_on(tmp_path: Path) -> None:
    touch(tmp_path, *[f"images/sub-{subject:02d}_slice-{k}.png" for subject in range(12) for k in range(2)])
    touch(tmp_path, *[f"masks/sub-{subject:02d}_slice-0.png" for subject in range(6)])
    parts = {section: load_datalist(tmp_path, section) for section in SECTIONS}
    ill = {f"sub-{subject:02d}" for subject in range(6)}
    assert ill < {item["subject"] for item in parts["test"]}
    assert not ill & {item["subject"] for section in SECTIONS[:2] for item in parts[section]}
    assert sum(not item.get("healthy", True) for item in parts["test"]) == 6
    # Folders in a folder that is split name no kinds.
    touch(tmp_path / "other", *[f"{name}/{name}.png" for name in "abcde"])
    assert not any("kind" in item for item in load_datalist(tmp_path / "other", "test"))


def test_slices_of_one_case_stay_together(tmp_path: Path) -> None:
    touch(tmp_path, *[f"case_{case}_slice_{k}.png" for case in range(3) for k in range(4)])
    for section in SECTIONS:
        assert len({Path(i["image"]).name.split("_slice")[0] for i in load_datalist(tmp_path, section)}) == 1


@pytest.mark.parametrize(
    "names",
    [
        [f"case{c}/{k}.nii.gz" for c in range(6) for k in ("t1", "t2", "flair")],
        [f"case{c}/images/{k:03d}.png" for c in range(6) for k in range(2)],
        [f"sub-{c}/ses-{s}/anat/T1w.nii.gz" for c in range(6) for s in range(2)],
    ],
)
def test_files_called_alike_belong_to_their_folders(tmp_path: Path, names: list[str]) -> None:
    """By their own names all T1 would train, and all T2 of the same people be the test."""
    touch(tmp_path, *names)
    parts = {section: load_datalist(tmp_path, section) for section in SECTIONS}
    homes = [{Path(i["image"]).relative_to(tmp_path).parts[0] for i in items} for items in parts.values()]
    assert len(set.union(*homes)) == sum(map(len, homes)) == 6
    subjects = {item["subject"] for items in parts.values() for item in items}
    assert subjects == set.union(*homes)
    touch(tmp_path / "kinds" / "test", *[f"{kind}/{name}" for kind in ("good", "crack") for name in names])
    assert {item["subject"] for item in load_datalist(tmp_path / "kinds", "test")} == subjects


def test_problems_of_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        load_datalist(tmp_path / "nowhere", "test")
    with pytest.raises(DataError, match="no images found"):
        load_datalist(tmp_path, "test")
    touch(tmp_path / "few", "a.png", "b.png")
    with pytest.raises(DataError, match=r"2 subject\(s\) cannot be split"):
        load_datalist(tmp_path / "few", "training")
    touch(tmp_path / "half" / "train", "a.png")
    with pytest.raises(DataError, match=r"no subfolder for section 'test', found \['train'\]"):
        load_datalist(tmp_path / "half", "test")
    with pytest.raises(ConfigError, match="found 'valid'"):
        load_datalist(tmp_path, "valid")


@pytest.mark.parametrize("name", [None, "embedded"])
def test_default_is_the_embedded_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    datalist(tmp_path)
    monkeypatch.setattr("robustmed_monai.data.embedded.embedded_dataset", lambda: tmp_path)
    assert load_datalist(name, "training")[0]["image"] == str(tmp_path / "a.png")


class TestTrainingSpacing:
    @pytest.fixture
    def items(self, tmp_path: Path) -> list[Item]:
        """Two pictures, both 60 mm at their longer side."""
        for name, size in (("a.png", (40, 30)), ("b.png", (60, 80))):
            Image.new("L", size).save(tmp_path / name)
        sides = {"a.png": 1.5, "b.png": 0.75}
        return [{"image": str(tmp_path / name), "pixel_mm": side} for name, side in sides.items()]

    def test_pictures_of_one_width_tell_it(self, items: list[Item]) -> None:
        assert training_spacing(items, 32, 1.8) == 60 / 32
        assert training_spacing(items, [32, 32], None) == 60 / 32

    def test_otherwise_that_of_the_config_counts(self, items: list[Item]) -> None:
        first, second = items
        assert training_spacing([first, {**second, "pixel_mm": 0.9}], 32, 1.8) == 1.8
        assert training_spacing([first, {"image": second["image"]}], 32, 1.8) == 1.8
        # Volumes are cut by it.
        assert training_spacing([{"image": "a.nii.gz", "pixel_mm": 0.9}], 32, 1.8) == 1.8
