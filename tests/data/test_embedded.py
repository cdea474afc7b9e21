"""The embedded data: what it holds, that the same seed gives the same bits, and that its cache is safe."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.data import NibabelReader, PILReader
from numpy.typing import NDArray

from robustmed_monai.data import embedded, embedded_dataset, load_datalist
from robustmed_monai.data.virtual_subjects import virtual_subject
from robustmed_monai.transforms.brain_region import find_brain_region
from robustmed_monai.transforms.lesion_painting import MATERIAL
from robustmed_monai.transforms.lesions import size_name
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import sha256, write_json

FEW = {"training": 1, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def few() -> Any:
    """Four subjects instead of 48."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "SUBJECTS", FEW)
        yield


@pytest.fixture(scope="module")
def dataset(few: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_dataset(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the making of the data by one small file; the list counts how often it is made."""
    made: list[Path] = []

    def make(folder: Path, seed: int) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "x.png").write_bytes(b"x")
        time.sleep(0.1)
        write_json(folder / "datalist.json", {"digests": {"x.png": sha256(folder / "x.png")}})

    monkeypatch.setattr(embedded, "_make", make)
    return made


def load(path: str) -> NDArray[np.float32]:
    reader = PILReader() if path.endswith(".png") else NibabelReader()
    array, _ = reader.get_data(reader.read(path))
    return array.astype(np.float32)


def test_full_size_is_over_200_slices() -> None:
    # The module's fixture shrinks the number of subjects of this process; the source says the true one.
    text = Path(embedded.__file__).read_text(encoding="utf-8")
    assert 'SUBJECTS = {"training": 28, "validation": 8, "test": 12}' in text
    assert (28 + 8 + 12) * len(embedded.LEVELS) >= 200


def test_sections_hold_what_the_contract_says(dataset: Path) -> None:
    content = json.loads((dataset / "datalist.json").read_text(encoding="utf-8"))
    assert {section: len(content[section]) for section in FEW} == {"training": 5, "validation": 5, "test": 20}
    subjects = [{item["subject"] for item in content[section]} for section in FEW]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 4
    assert all(item["healthy"] for section in ("training", "validation") for item in content[section])
    assert Counter(item["healthy"] for item in content["test"]) == {True: 10, False: 10}
    assert {item["level"] for item in content["training"]} == set(range(5))
    for section in FEW:
        assert len({frozenset(item) - {"contrast"} for item in content[section]}) == 1
    files = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    assert set(content["digests"]) == files - {"datalist.json"}


def test_lesions_take_turns_and_are_known(dataset: Path) -> None:
    items = load_datalist(dataset, "test", verify=True)
    healthy = {(i["subject"], i["level"]): i for i in items if i["healthy"]}
    sick = [i for i in items if not i["healthy"]]
    assert max(Counter(i["kind"] for i in sick).values()) <= 3
    for item in sick:
        before = load(healthy[item["subject"], item["level"]]["image"]) / 255
        after, mask = load(item["image"]) / 255, load(item["mask"])
        assert set(np.unique(mask)) == {0, 1}
        assert size_name(int(mask.sum())) == item["size"]
        change = np.abs(after - before)
        assert change[mask > 0].mean() > MATERIAL
        if item["kind"] not in ("mass_effect", "enlarged_ventricles"):
            assert change[mask == 0].max() < MATERIAL + 1 / 255
    assert not any(load(i["mask"]).any() for i in healthy.values())


def test_slices_have_the_layout_of_the_volumes(dataset: Path) -> None:
    volumes = load_datalist(dataset / "volumes.json", "training")
    image: Any = nibabel.load(volumes[0]["image"])
    assert nibabel.aff2axcodes(image.affine) == ("R", "P", "S")
    np.testing.assert_allclose(np.abs(np.diag(image.affine))[:3], 1.8)
    volume = np.asarray(image.dataobj)
    labels: Any = nibabel.load(volumes[0]["label"])
    tissue = np.asarray(labels.dataobj)
    for item in load_datalist(dataset, "training"):
        index = embedded.LEVELS[item["level"]]
        np.testing.assert_array_equal(load(item["image"]), volume[:, :, index])
        np.testing.assert_array_equal(load(item["label"]), tissue[:, :, index])


def test_lesion_volumes_come_with_masks(dataset: Path) -> None:
    items = load_datalist(dataset / "volumes.json", "test")
    assert Counter(item["healthy"] for item in items) == {True: 2, False: 2}
    healthy = {i["subject"]: load(i["image"]) for i in items if i["healthy"]}
    for item in items:
        mask = load(item["mask"]) > 0
        assert mask.any() != item["healthy"]
        if not item["healthy"]:
            change = np.abs(load(item["image"]) - healthy[item["subject"]])
            assert change[mask].mean() > 255 * MATERIAL


def test_images_look_like_heads(dataset: Path) -> None:
    for item in load_datalist(dataset, "validation"):
        image, labels = load(item["image"]) / 255, load(item["label"])
        fluid, grey, white = (np.median(image[labels == k]) for k in (1, 2, 3))
        assert fluid + 0.15 < grey < white - 0.1
        region = find_brain_region(image.astype(np.float32))
        brain = find_brain_region(image.astype(np.float32), labels.astype(np.uint8)).brain
        assert 2 * (region.brain & brain).sum() / (region.brain.sum() + brain.sum()) > 0.93
        # A bright scalp over a dark skull.
        assert np.percentile(image[region.head & ~brain], 90) > 0.5
        assert np.percentile(image[region.head & ~brain], 25) < 0.3
        assert image[:, :3].max() < 0.1


def test_subjects_differ_in_ventricles_and_cortex() -> None:
    subjects = [virtual_subject(0, index) for index in (0, 1, 2)]
    volumes = sorted(int(s.ventricles.sum()) for s in subjects)
    assert volumes[0] > 1000
    assert volumes[-1] > 1.15 * volumes[0]
    for a, b in ((0, 1), (1, 2)):
        same = (subjects[a].labels == 3) & (subjects[b].labels == 3)
        dice = 2 * same.sum() / ((subjects[a].labels == 3).sum() + (subjects[b].labels == 3).sum())
        assert 0.5 < dice < 0.9
    for subject in subjects:
        assert (subject.labels[subject.ventricles] == 1).all()


def test_damage_is_noticed_and_the_same_bits_are_made_again(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / dataset.name
    shutil.copytree(dataset, copy)
    target = next((copy / "images").iterdir())
    content = bytearray(target.read_bytes())
    content[-20] ^= 1
    target.write_bytes(bytes(content))
    assert embedded_dataset(tmp_path) == copy
    assert (copy / "datalist.json").read_bytes() == (dataset / "datalist.json").read_bytes()
    load_datalist(copy, "test", verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{copy.name}.lock", copy.name]


def test_another_seed_gives_other_subjects() -> None:
    assert not np.array_equal(virtual_subject(0, 0).labels, virtual_subject(1, 0).labels)


def test_cache_is_used_again_and_repaired(tmp_path: Path, quick: list[Path]) -> None:
    folder = embedded_dataset(tmp_path, seed=3)
    assert folder == tmp_path / "embedded-v1-seed3"
    embedded_dataset(tmp_path, seed=3)
    assert len(quick) == 1
    for damage in (
        lambda: (folder / "x.png").write_bytes(b"y"),
        lambda: (folder / "x.png").unlink(),
        lambda: (folder / "datalist.json").write_text('{"digests": {', encoding="utf-8"),
        lambda: (folder / "datalist.json").write_text("[]", encoding="utf-8"),
    ):
        damage()
        assert embedded_dataset(tmp_path, seed=3) == folder
        assert (folder / "x.png").read_bytes() == b"x"
    assert len(quick) == 5


def test_two_at_once_make_it_once(tmp_path: Path, quick: list[Path]) -> None:
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(embedded_dataset(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "embedded-v1-seed0"] * 3
    assert len(quick) == 1


def test_interrupted_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, seed: int) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_make", broken)
    with pytest.raises(KeyboardInterrupt):
        embedded_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".embedded-v1-seed0.lock"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, quick: list[Path]) -> None:
    (tmp_path / ".embedded-v1-seed0-killed" / "new").mkdir(parents=True)
    embedded_dataset(tmp_path)
    assert not (tmp_path / ".embedded-v1-seed0-killed").exists()


def test_place_follows_the_environment(
    tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTMED_CACHE", str(tmp_path / "env"))
    assert embedded_dataset() == tmp_path / "env" / "embedded-v1-seed0"
    monkeypatch.delenv("ROBUSTMED_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert embedded_dataset() == tmp_path / "home/.cache/robustmed_monai/embedded-v1-seed0"


def test_unusable_arguments_are_refused(tmp_path: Path, quick: list[Path]) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="ROBUSTMED_CACHE"):
        embedded_dataset(tmp_path / "file")
    with pytest.raises(ConfigError, match="found -1"):
        embedded_dataset(tmp_path, seed=-1)
