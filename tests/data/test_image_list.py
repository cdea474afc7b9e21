from __future__ import annotations

from pathlib import Path

import pytest

from robustmed_monai.data.image_folder import image_stem
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
        touch(tmp_path, "b.png", "a/z.nii.gz", "a/A.NII", "c.mgz", "notes.txt", "a/model.pt", "._b.png")
        touch(tmp_path, ".cache/x.png")
        assert listed(tmp_path) == ["a/A.NII", "a/z.nii.gz", "b.png", "c.mgz"]

    def test_each_folder_of_dicom_files_is_an_image(self, tmp_path: Path) -> None:
        touch(tmp_path, "p1/s1/IM0", "p1/s1/IM1", "p1/s2/0001", content=DICOM)
        touch(tmp_path, "p2/a.dcm", "p2/b.DCM", "p1/scan.nii.gz", "p3/notes", "p1/s1/report.pdf")
        assert listed(tmp_path) == ["p1/s1", "p1/s2", "p1/scan.nii.gz", "p2"]

    def test_a_folder_of_other_files_is_taken_at_its_word(self, tmp_path: Path) -> None:
        touch(tmp_path, "IM0001")
        assert list_images(tmp_path) == [{"image": str(tmp_path)}]

    def test_folders_of_pictures_may_be_volumes(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png", "a/2.png", "b/1.tif", "b/2.tif", "b/whole.nii", "c/single.png")
        assert listed(tmp_path, stacks=True) == ["a", "b", "b/whole.nii", "c/single.png"]
        assert len(listed(tmp_path)) == 6

    def test_results_are_no_input(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "out/a/anomaly_map.png", "outer/b.png")
        assert listed(tmp_path, exclude=tmp_path / "out") == ["a.png", "outer/b.png"]


class TestDatalists:
    def test_all_sections_or_one(self, tmp_path: Path) -> None:
        items = {"training": [{"image": "a.png"}], "test": [{"image": "x/b.png"}, {"image": "a.png"}]}
        write_json(tmp_path / "datalist.json", items)
        touch(tmp_path, "mask.png")
        assert listed(tmp_path) == ["a.png", "x/b.png"], "each once, and what is not listed is none of it"
        assert listed(tmp_path, "test") == ["x/b.png", "a.png"]
        assert list_images(tmp_path / "datalist.json") == list_images(tmp_path)

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
