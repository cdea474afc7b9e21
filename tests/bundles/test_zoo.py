"""What the model zoo's CI checks (ci/verify_bundle.py), for every bundle; its numbers are in the names.

MONAI's own checks are called where they work offline.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from packaging.version import Version

import robustmed_monai
from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.weights import verify_bundle_weights

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
LIMIT = 25 * 2**20
SCHEMA = "meta_schema_20240725.json"
# MONAI, torch and numpy have keys of their own; what the package needs beside them.
OWN_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


@pytest.fixture(params=sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))
def root(request: pytest.FixtureRequest) -> Path:
    """Folder of one bundle."""
    return BUNDLES / str(request.param)


@pytest.fixture
def metadata(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "configs" / "metadata.json").read_text())
    return content


class TestFiles:
    def test_1_large_files_come_by_large_files_yml(self, root: Path) -> None:
        """None is needed while every file is under the zoo's limit of 25 MB."""
        large = [
            p.relative_to(root).as_posix()
            for p in root.rglob("*")
            if p.is_file() and p.stat().st_size > LIMIT
        ]
        listing = root / "large_files.yml"
        if not listing.is_file():
            assert not large, "list them in large_files.yml with url, hash_val and hash_type sha256"
            return
        parsed = ConfigParser.load_config_file(listing)["large_files"]
        assert {entry["path"] for entry in parsed} >= set(large)
        for entry in parsed:
            assert not Path(entry["path"]).is_absolute()
            assert ".." not in Path(entry["path"]).parts
            assert entry["hash_type"] == "sha256"
            assert re.fullmatch("[0-9a-f]{64}", entry["hash_val"])

    def test_2_licence(self, root: Path) -> None:
        assert (root / "LICENSE").read_text() == (BUNDLES.parent / "LICENSE").read_text()

    def test_3_weights(self, root: Path, metadata: dict[str, Any]) -> None:
        digests = verify_bundle_weights(root)
        assert "model.pt" in digests
        others = {p.name for p in (root / "models").iterdir()}
        expected = {*digests, *(f"{Path(name).stem}.json" for name in digests), ".gitkeep"}
        assert others <= expected, "models/ holds weights and their digests alone"
        shortest = min((n for n in others if n.endswith(".pt")), key=len)
        assert shortest == "model.pt", "MONAI Label loads the shortest name"

    def test_nothing_else_is_in_the_folder(self, root: Path) -> None:
        allowed = {"LICENSE", "configs", "docs", "models", "large_files.yml"}
        assert {p.name for p in root.iterdir()} <= allowed
        assert not list(root.rglob("*.py")), "code lives in the installed package"


class TestMetadata:
    def test_4_version_is_in_the_changelog(self, metadata: dict[str, Any]) -> None:
        assert metadata["version"] == robustmed_monai.VERSION
        assert metadata["changelog"][metadata["version"]]
        assert [*metadata["changelog"]] == sorted(metadata["changelog"], key=Version, reverse=True)

    def test_5_has_what_the_schema_asks(self, metadata: dict[str, Any]) -> None:
        """The required keys and forms of the official schema, for where that is not at hand."""
        texts = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"]
        for key in (*texts, "description", "authors", "copyright", "name", "intended_use", "data_source"):
            assert isinstance(metadata[key], str), key
            assert metadata[key], key
        assert metadata["schema"].endswith(SCHEMA)
        assert "optional_packages_version" not in metadata
        assert isinstance(metadata["references"], list)
        formats = [v for k, v in metadata.items() if k.endswith("_data_format")]
        assert "network_data_format" in metadata
        for tensor in (t for f in formats for side in ("inputs", "outputs") for t in f[side].values()):
            assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)
            assert isinstance(tensor["num_channels"], int)
            assert all(isinstance(side, int | str) for side in tensor["spatial_shape"])
        inputs, outputs = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
        assert set(inputs) != {"image"} or next(iter(outputs)) == "pred", "MONAI Label asks for these names"

    def test_5_verify_metadata(self, root: Path, data_root: Path, tmp_path: Path) -> None:
        # MONAI takes a schema that is there instead of fetching it.
        path = data_root / "schema" / SCHEMA
        known: dict[str, Any] = {"filepath": str(path), "hash_val": sha256(path), "hash_type": "sha256"}
        verify_metadata(meta_file=str(root / "configs" / "metadata.json"), **known)
        broken = json.loads((root / "configs" / "metadata.json").read_text())
        del next(iter(broken["network_data_format"]["outputs"].values()))["dtype"]
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="'dtype' is a required property"):
            verify_metadata(meta_file=str(tmp_path / "broken.json"), **known)

    def test_10_requirements_are_exact_pins(self, metadata: dict[str, Any]) -> None:
        """get_bundle_requirements.py installs these with ==; they must not be under the package's floors."""
        setup = configparser.ConfigParser()
        setup.read(BUNDLES.parent / "setup.cfg")
        lines = setup["options"]["install_requires"].split()
        floors = dict(line.split(">=") for line in lines if ">=" in line)
        pins = metadata["required_packages_version"]
        pins = {**pins, **{package: metadata[key] for key, package in OWN_KEYS.items()}}
        assert pins["robustmed_monai"] == robustmed_monai.VERSION
        for package, version in pins.items():
            assert str(Version(version)) == version or Version(version)
            if package in floors:
                assert Version(version) >= Version(floors[package]), package


class TestConfigs:
    def test_6_properties_of_inference(self, root: Path, tmp_path: Path) -> None:
        workflow = ConfigWorkflow(
            str(root / "configs" / "inference.json"),
            logging_file=False,
            workflow_type="infer",
            output_dir=str(tmp_path),
        )
        required = {"bundle_root", "device", "dataset_dir", "dataset", "evaluator", "network_def", "inferer"}
        content = json.loads((root / "configs" / "inference.json").read_text())
        assert required <= set(content), "a missing one is a KeyError in check_properties"
        assert workflow.parser.get("network_def") is not None
        assert content["bundle_root"]["name"] == root.name

    def test_7_verify_net_in_out(self, root: Path, metadata: dict[str, Any]) -> None:
        if set(metadata["network_data_format"]["inputs"]) != {"image"}:
            pytest.skip("MONAI's check looks at one input called image alone")
        with warnings.catch_warnings():
            # Norms of the smallest maps warn of nothing that matters for shapes.
            warnings.simplefilter("ignore", UserWarning)
            verify_net_in_out(
                net_id="network_def",
                meta_file=str(root / "configs" / "metadata.json"),
                config_file=str(root / "configs" / "inference.json"),
                device="cpu",
            )

    def test_configs_keep_the_zoos_words_and_no_personal_path(self, root: Path) -> None:
        for path in (root / "configs").glob("*.json"):
            text = path.read_text()
            assert not re.search(r"[\"'](/home|/work|/root|/Users|/tmp|[A-Z]:\\\\)", text), path.name
            if path.name != "metadata.json":
                assert json.loads(text)["_desc_"], path.name
        train = json.loads((root / "configs" / "train.json").read_text())
        assert {"bundle_root", "dataset_dir", "output_dir", "device", "seed", "resume", "max_epochs"} <= set(
            train
        )

    def test_configs_are_literals_references_and_named_functions(self, root: Path) -> None:
        """What a reader and an audit can follow: few expressions, none with a branch or a loop inside."""
        hidden = (ast.Lambda, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        for path in (root / "configs").glob("*.json"):
            expressions = re.findall(r'"\$((?:[^"\\]|\\.)*)"', path.read_text())
            assert len(expressions) <= 12, path.name
            for text in expressions:
                tree = ast.parse(re.sub(r"@(\w+)((?:#\w+)*)", r"ref_\1", text))
                assert not any(isinstance(node, hidden) for node in ast.walk(tree)), (path.name, text)
        assert len((root / "configs" / "inference.json").read_text().splitlines()) <= 125

    def test_logging_passes_monais_screen(self, root: Path) -> None:
        """MONAI 1.6 refuses handlers and arguments other than these."""
        conf = configparser.ConfigParser()
        conf.read(root / "configs" / "logging.conf")
        for section in conf.sections():
            if "class" in conf[section]:
                assert conf[section]["class"].removeprefix("logging.") in ("StreamHandler", "Formatter")
            if "args" in conf[section]:
                assert ast.literal_eval(conf[section]["args"].replace("sys.stdout", "1")) == (1,)

    def test_8_torchrun_overlay(self, root: Path) -> None:
        content = json.loads((root / "configs" / "multi_gpu_train.json").read_text())
        first, last = (content.get(f"+{key}") or content[key] for key in ("initialize", "finalize"))
        assert "start_processes" in str(first[0])
        assert "distributed.finalize" in str(last[-1])
