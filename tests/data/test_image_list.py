from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.data import load_decathlon_datalist
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from robustmed_monai.data.image_folder import image_files, image_stem
from robustmed_monai.data.image_list import list_images, name_results
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import write_json


def touch(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def listed(folder: Path, *args: object, **kwargs: object) -> list[str]:
    items = list_images(folder, *args, **kwargs)  # type: ignore[arg-type]
    return [Path(item["image"]).relative_to(folder).as_posix() for item in items]


DICOM = b"\0" * 128 + b"DICM"


class TestFolders:
    def test_a_file_is_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch(tmp_path, "scan.nii.gz")
        monkeypatch.chdir(tmp_path)
        assert list_images("scan.nii.gz") == [{"image": str(tmp_path / "scan.nii.gz")}]

    def test_a_folder_gives_its_images_sorted_and_nothing_else(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.png", "a/z.nii.gz", "a/A.NII", "c.mgz", "d.mha", "notes.txt", "._b.png")
        touch(tmp_path, ".cache/x.png", ".cache/y/x.png")
        assert listed(tmp_path) == ["a/A.NII", "a/z.nii.gz", "b.png", "c.mgz", "d.mha"]

    def test_each_folder_of_dicom_files_is_an_image(self, tmp_path: Path) -> None:
        touch(tmp_path, "p1/s1/IM0", "p1/s1/IM1", "p1/s2/0001", content=DICOM)
        touch(tmp_path, "p2/a.dcm", "p2/b.DCM", "p1/scan.nii.gz", "p3/notes.txt", "p1/s1/report.pdf")
        assert listed(tmp_path) == ["p1/s1", "p1/s2", "p1/scan.nii.gz", "p2"]

    def test_a_folder_of_other_files_is_taken_at_its_word(self, tmp_path: Path) -> None:
        touch(tmp_path, "IM0001")
        assert list_images(tmp_path) == [{"image": str(tmp_path)}]

    def test_folders_of_pictures_may_be_volumes(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png", "a/2.png", "b/1.tif", "b/2.tif", "b/whole.nii", "c/single.png")
        assert listed(tmp_path, stacks=True) == ["a", "b", "b/whole.nii", "c/single.png"]
        assert len(listed(tmp_path)) == 6

    @pytest.mark.parametrize("out", ["out", "../in/out", "link/out", "../link/out"])
    def test_results_are_no_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
        root = tmp_path / "in"
        touch(root, "a.png", "out/a/anomaly_map.png", "outer/b.png")
        (root / "link").symlink_to(root)
        (tmp_path / "link").symlink_to(root)
        monkeypatch.chdir(root)
        assert listed(root, exclude=out) == ["a.png", "outer/b.png"]

    def test_results_of_earlier_runs_are_none_either(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "old/a/map.png", "run/b.png", "half/a/map.png", "bids/c.png")
        write_json(tmp_path / "old" / "summary.json", {"images": [], "failed": {}})
        write_json(tmp_path / "half" / "a" / "scores.json", {"image": "a", "made_from": {"settings": "1"}})
        write_json(tmp_path / "run" / "summary.json", {"images": 3})
        write_json(tmp_path / "bids" / "c.json", {"EchoTime": 3})
        (tmp_path / "bids" / "broken.json").write_text("{")
        assert listed(tmp_path) == ["a.png", "bids/c.png", "run/b.png"]

    def test_results_in_the_input_folder_itself(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "a/map.png")
        write_json(tmp_path / "a" / "scores.json", {"image": "a.png", "made_from": {}})
        write_json(tmp_path / "summary.json", {"images": [], "failed": {}})
        assert listed(tmp_path, exclude=tmp_path) == ["a.png"]

    def test_a_folder_of_results_only_is_said_to_be_one(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/map.png")
        write_json(tmp_path / "a" / "scores.json", {"image": "a.png", "made_from": {}})
        write_json(tmp_path / "summary.json", {"images": [], "failed": {}})
        with pytest.raises(DataError, match=r"holds no image; .* Results of earlier runs are left out"):
            list_images(tmp_path)


class TestLinks:
    def test_linked_folders_are_followed(self, tmp_path: Path) -> None:
        touch(tmp_path, "archive/s1/a.png", "archive/s1/deep/c.png", "study/s2/b.png")
        (tmp_path / "study" / "s1").symlink_to(tmp_path / "archive" / "s1")
        assert listed(tmp_path / "study") == ["s1/a.png", "s1/deep/c.png", "s2/b.png"]
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "only").symlink_to(tmp_path / "archive" / "s1")
        assert listed(tmp_path / "links") == ["only/a.png", "only/deep/c.png"]

    def test_each_folder_once_and_no_loops(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/b/a.png", "other/c.png")
        (tmp_path / "in" / "a").symlink_to(tmp_path / "in" / "b")
        (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
        for name in ("x", "y"):
            (tmp_path / "in" / name).symlink_to(tmp_path / "other")
        (tmp_path / "other" / "home").symlink_to(tmp_path)
        assert listed(tmp_path / "in") == ["b/a.png", "x/c.png"]

    def test_training_data_follow_them_too(self, tmp_path: Path) -> None:
        touch(tmp_path, "archive/a.png", "train/own.png")
        (tmp_path / "train" / "s1").symlink_to(tmp_path / "archive")
        (tmp_path / "archive" / "up").symlink_to(tmp_path / "train")
        found = [path.relative_to(tmp_path / "train").as_posix() for path in image_files(tmp_path / "train")]
        assert found == ["own.png", "s1/a.png"]


class TestWhatIsNotUsed:
    def test_types_that_are_not_read_are_errors(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "b.mhd", "c.hdr", "c.img", "d.bmp", "e.GIPL")
        with pytest.warns(
            UserWarning, match=r"not used are\n  .*b\.mhd: not a type that is read; convert it"
        ):
            items = list_images(tmp_path)
        assert [Path(i["image"]).name for i in items] == [
            "a.png",
            "b.mhd",
            "c.hdr",
            "c.img",
            "d.bmp",
            "e.GIPL",
        ]
        assert [item["image"] in item.get("error", "") for item in items] == [False] + [True] * 5

    def test_other_files_are_counted(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "model.pt", "b/weights.pt", "LICENSE", "notes.txt", "sub/scan.json")
        with pytest.warns(UserWarning, match=r"no images by their names: 2 \(\.pt\), 1 \(no suffix\)"):
            assert listed(tmp_path) == ["a.png"]

    def test_pipes_and_broken_links_are_not_opened(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png")
        os.mkfifo(tmp_path / "pipe")
        os.mkfifo(tmp_path / "pipe.nii")
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "zero").symlink_to("/dev/zero")
        with pytest.warns(UserWarning, match="not used are"):
            items = list_images(tmp_path)
        assert [Path(item["image"]).name for item in items if "error" in item] == ["gone.png", "pipe.nii"]
        for place in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(DataError, match="neither a file nor a folder; check the path"):
                list_images(place)

    def test_a_folder_that_cannot_be_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch(tmp_path, "mine/a.png", "theirs/b.png")
        iterdir = Path.iterdir

        def refuse(self: Path) -> Iterator[Path]:
            if self.name == "theirs":
                raise PermissionError(13, "Permission denied", str(self))
            return iterdir(self)

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.warns(UserWarning, match="theirs: cannot be opened"):
            items = list_images(tmp_path)
        assert items[0] == {"image": str(tmp_path / "mine" / "a.png")}
        assert items[1]["error"].startswith(f"{tmp_path / 'theirs'}: cannot be opened (Permission denied)")
        # Training on a part of what was given would be no help.
        with pytest.raises(DataError, match=r"theirs: cannot be opened \(Permission denied\); ask for"):
            list(image_files(tmp_path))


class TestXrays:
    def test_each_is_an_image(self, tmp_path: Path) -> None:
        for name in ("study/a.dcm", "study/b.dcm", "single/IM1", "series/1.dcm", "series/2.dcm"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            place = {"ImagePositionPatient": [0, 0, int(name[-5])]} if "series" in name else {}
            write_dicom(tmp_path / name, **place)
        assert listed(tmp_path) == ["series", "single/IM1", "study/a.dcm", "study/b.dcm"]
        assert list_images(tmp_path / "study" / "a.dcm") == [{"image": str(tmp_path / "study" / "a.dcm")}]


def write_dicom(path: Path, **fields: Any) -> None:
    """A grey image of 4 x 4 pixels; without a position it is an X-ray."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.1.1"), generate_uid()
    data.Rows = data.Columns = 4
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.PixelData = 15, 0, bytes(32)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


class TestDatalists:
    def test_all_sections_or_one(self, tmp_path: Path) -> None:
        items = {"training": [{"image": "a.png"}], "test": [{"image": "x/b.png"}, {"image": "a.png"}]}
        write_json(tmp_path / "datalist.json", items)
        touch(tmp_path, "mask.png")
        assert listed(tmp_path) == ["a.png", "x/b.png"], "each once, and what is not listed is none of it"
        assert listed(tmp_path, "test") == ["x/b.png", "a.png"]
        assert list_images(tmp_path / "datalist.json") == list_images(tmp_path)

    def test_a_decathlon_list_is_read_as_monai_reads_it(self, tmp_path: Path) -> None:
        content = {
            "training": [{"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"}],
            "test": ["./imagesTs/a.nii.gz"],
        }
        write_json(tmp_path / "dataset.json", content)
        touch(tmp_path, "labelsTr/b.nii.gz", "imagesTr/b.nii.gz", "imagesTs/a.nii.gz")
        for section in ("training", "test"):
            theirs = load_decathlon_datalist(tmp_path / "dataset.json", data_list_key=section)
            assert list_images(tmp_path, section) == [{"image": str(Path(item["image"]))} for item in theirs]
        assert len(list_images(tmp_path / "dataset.json")) == 2

    def test_another_dataset_json_is_none(self, tmp_path: Path) -> None:
        write_json(tmp_path / "dataset.json", {"numTraining": 2, "file_ending": ".nii.gz"})
        touch(tmp_path, "imagesTr/b.nii.gz")
        assert listed(tmp_path) == ["imagesTr/b.nii.gz"]

    def test_a_section_of_what_is_no_datalist_is_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "beside/b.png")
        write_json(tmp_path / "beside/dataset.json", {"numTraining": 2})
        for given in (tmp_path, tmp_path / "a.png", tmp_path / "beside"):
            with pytest.raises(ConfigError, match=r"section test: .* is no datalist and holds none"):
                list_images(given, "test")

    def test_refusals(self, tmp_path: Path) -> None:
        write_json(tmp_path / "list.json", {"test": [{"image": "a.png"}, {"label": "b.png"}]})
        with pytest.raises(DataError, match=r'item 1 of .* has no "image" path'):
            list_images(tmp_path / "list.json")
        with pytest.raises(ConfigError, match="section: found 'tset'; choose one of"):
            list_images(tmp_path / "list.json", "tset")
        with pytest.raises(DataError, match=r"no items in \['validation'\]; list images"):
            list_images(tmp_path / "list.json", "validation")
        write_json(tmp_path / "list.json", ["a.png"])
        with pytest.raises(DataError, match="no items in"):
            list_images(tmp_path / "list.json")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input: give --input an image file"):
        list_images(None)
    with pytest.raises(DataError, match=r"--input .*/nowhere: no such file or folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no image; supported are \.nii, \.nii\.gz, \.png, "):
        list_images(tmp_path)


class TestNames:
    def test_are_the_stems(self) -> None:
        assert image_stem(Path("/a/scan.1.nii.gz")) == "scan.1"
        assert image_stem(Path("/a/series.5")) == "series.5"
        assert name_results(["/a/x.nii", "/b/y.PNG"]) == {"/a/x.nii": "x", "/b/y.PNG": "y"}

    def test_tell_apart_what_is_called_alike(self) -> None:
        paths = [
            "/in/a/T1.mgz",
            "/in/b/T1.mgz",
            "/in/b/t1.nii",
            "/in/b/T1.nii",
            "/in/T1.mgz",
            "/in/c/b_T1.mgz",
        ]
        names = name_results(paths)
        assert list(names) == sorted(paths, key=list(names).index)
        assert names["/in/a/T1.mgz"] == "a_T1"
        assert names["/in/c/b_T1.mgz"] == "b_T1"
        folded = [name.lower() for name in names.values()]
        assert len(set(folded)) == len(paths), "also where the file system ignores case"

    def test_do_not_depend_on_other_names(self) -> None:
        some = name_results(["/in/a/T1.mgz", "/in/b/T1.mgz"])
        more = name_results(["/in/a/T1.mgz", "/in/a/T2.mgz", "/in/b/T1.mgz", "/in/c/T1.mgz"])
        assert some.items() <= more.items()


def test_several_inputs_are_listed_one_after_the_other(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii.gz"):
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in ("b.nii.gz", "a.nii.gz")]
    assert list_images(paths) == [{"image": path} for path in paths]
