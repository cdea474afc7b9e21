"""The commands of the issue, spelled as a user spells them, and what their mistakes get to read."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.weights import load_info

Overrides = dict[str, Any]
Command = Callable[..., Any]


def _files(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder that is no leftover of Python."""
    paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in paths}


class TestTrain:
    @pytest.mark.slow
    def test_from_the_repository_in_a_new_process(
        self, process: Command, repository: Path, tiny: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        before = _files(repository / "bundles" / "ra")
        words = ("--config_file", "bundles/ra/configs/train.json")
        done = process(repository, *words, output_dir=tmp_path / "out", **tiny)
        assert done.code == 0, done.last_line
        # The same seed in another process: the same bits.
        assert sha256(tmp_path / "out" / "model.pt") == sha256(trained / "model.pt")
        assert _files(repository / "bundles" / "ra") == before, "a bundle's folder is never written to"

    def test_from_the_bundle(
        self, command: Command, repository: Path, tiny: Overrides, tmp_path: Path
    ) -> None:
        tiny |= {"max_epochs": 1, "warmup_epochs": 0}
        words = ("--config_file", "configs/train.json")
        done = command(repository / "bundles" / "ra", *words, output_dir=tmp_path, **tiny)
        assert done.code == 0, done.last_line
        assert load_info(tmp_path / "model.pt")["epoch"] == 1

    def test_a_renamed_copy_from_elsewhere(
        self, command: Command, configs: Path, tiny: Overrides, tmp_path: Path
    ) -> None:
        root = tmp_path / "meine Bündel" / "ra-copy"
        shutil.copytree(configs, root / "configs")
        before = _files(root)
        here = tmp_path / "some where"
        here.mkdir()
        tiny |= {"max_epochs": 1, "warmup_epochs": 0}
        done = command(here, "--config_file", str(root / "configs" / "train.json"), **tiny)
        assert done.code == 0, done.last_line
        assert load_info(here / "out" / "ra" / "train" / "model.pt")["epoch"] == 1
        assert _files(root) == before

    def test_two_configs_and_an_override_deep_inside(
        self, command: Command, configs: Path, tiny: Overrides, tmp_path: Path
    ) -> None:
        for name in ("max_epochs", "warmup_epochs"):
            del tiny[name]
        words = ("--config_file", "['train.json','paper.json']", "--train#trainer#max_epochs", "2")
        done = command(configs, *words, output_dir=tmp_path, **tiny)
        assert done.code == 0, done.last_line
        assert load_info(tmp_path / "model.pt")["epoch"] in (1, 2)

    @pytest.mark.parametrize(
        ("words", "nearest"),
        [
            (("--max_epoch", "2"), "max_epochs"),
            (("--train#trainer#max_epoch", "2"), "train#trainer#max_epochs"),
            (("--loss#lambda_embedding", "0"), "loss#lambda_emb"),
            (("--datset_dir", "here"), "dataset_dir"),
        ],
    )
    def test_unknown_overrides_are_refused(
        self, command: Command, configs: Path, tmp_path: Path, words: tuple[str, str], nearest: str
    ) -> None:
        done = command(tmp_path, "--config_file", str(configs / "train.json"), *words)
        assert done.code == 1
        assert done.last_line.startswith(
            f"ConfigError: {words[0]}: the config has no such key; the nearest is --{nearest}."
        )
        assert not list(tmp_path.iterdir())

    def test_a_wrong_dataset_is_named(
        self, command: Command, configs: Path, tiny: Overrides, tmp_path: Path
    ) -> None:
        tiny |= {"dataset_dir": tmp_path / "nowhere", "output_dir": tmp_path / "out"}
        done = command(tmp_path, "--config_file", str(configs / "train.json"), **tiny)
        assert done.code == 1
        assert (
            done.last_line
            == f"DataError: dataset_dir {tmp_path / 'nowhere'}: no such file or folder; check the path."
        )
        assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pt", ".json", ".png")]


class TestInference:
    def _infer(self, run: Command, configs: Path, folder: Path, given: Path | None, **overrides: Any) -> Any:
        words = () if given is None else ("--input", str(given))
        return run(folder, "--config_file", str(configs / "inference.json"), *words, **overrides)

    @pytest.fixture
    def tiny_weights(self, tiny_network: Overrides, trained: Path) -> Overrides:
        return {**tiny_network, "weights": trained / "model.pt"}

    def test_from_elsewhere(
        self, command: Command, configs: Path, dataset_dir: Path, tiny_weights: Overrides, tmp_path: Path
    ) -> None:
        done = self._infer(command, configs, tmp_path, dataset_dir / "test-0.png", **tiny_weights)
        assert done.code == 0, done.last_line
        assert (tmp_path / "out" / "ra" / "inference" / "test-0" / "anomaly_map.png").is_file()

    @pytest.mark.slow
    def test_without_input_in_a_new_process(self, process: Command, configs: Path, tmp_path: Path) -> None:
        done = self._infer(process, configs, tmp_path, None)
        assert done.code == 1
        assert done.last_line.startswith("DataError: no input: give --input an image file")
        assert not [p for p in tmp_path.rglob("*") if p.is_file()]

    @pytest.mark.parametrize("case", ["missing", "empty folder", "folder without images", "corrupt", "text"])
    def test_what_cannot_be_used_is_named(
        self, command: Command, configs: Path, tiny_weights: Overrides, tmp_path: Path, case: str
    ) -> None:
        given = tmp_path / "given"
        message = {
            "missing": f"DataError: --input {given}: no such file or folder; check the path.",
            "empty folder": f"DataError: --input {given}: holds no image; supported are .nii, .nii.gz, .png",
            "folder without images": f"DataError: --input {given}: holds no image; supported are",
            "corrupt": f"  {given}/scan.nii.gz: the compressed data are damaged or cut off",
            "text": f"  {given}/scan.nii: not a NIfTI file",
        }[case]
        if case != "missing":
            given.mkdir()
        if case == "folder without images":
            (given / "notes.txt").write_text("no image")
        if case == "corrupt":
            image = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4))
            (given / "scan.nii.gz").write_bytes(gzip.compress(image.to_bytes())[:-1])
        if case == "text":
            (given / "scan.nii").write_text("no image " * 100)
        done = self._infer(command, configs, tmp_path, given, **tiny_weights)
        assert done.code == 1
        assert done.last_line.startswith(message)
        out = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert out <= {"summary.json"}, "a file that cannot be used leaves nothing but the note of it"
