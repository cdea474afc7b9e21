"""RA and pchVAE on whole heads: only the heights that the shipped weights know are assessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import load_info

pytestmark = pytest.mark.slow


def infer(bundle: str, repository: Path, source: Path, output: Path) -> None:
    """Run a bundle's inference for whole heads."""
    configs = repository / "bundles" / bundle / "configs"
    workflow = ConfigWorkflow(
        [str(configs / "inference.json"), str(configs / "whole_head.json")],
        workflow_type="infer",
        logging_file=False,
        input=str(source),
        output_dir=str(output),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual head as a file."""
    path = tmp_path_factory.mktemp("source") / "head.nii.gz"
    nib.save(nib.Nifti1Image(virtual_subject(0, 40).image, AFFINE), path)
    return path


@pytest.mark.parametrize("bundle", ["ra", "pchvae"])
def test_only_known_heights_are_assessed(bundle: str, head: Path, repository: Path, tmp_path: Path) -> None:
    infer(bundle, repository, head, tmp_path)
    report = read_json(tmp_path / "head/scores.json")
    assert report["assessed"] == 7
    assert [each["height_mm"] for each in report["slices"]] == [18, 20, 22, 24, 26, 28, 30]
    assert report["warnings"][0].startswith("assessed the heights +18 to +30 mm, parts of ")
    found: Any = nib.load(tmp_path / "head/anomaly_map.nii.gz")
    heights = AFFINE[2, 3] + AFFINE[2, 2] * np.arange(80)
    used = np.asarray(found.dataobj).max((0, 1)) > 0
    # The head is tilted by a few degrees.
    assert used[np.abs(heights - 24) < 4].all()
    assert not used[np.abs(heights - 24) > 25].any()


def test_a_normalised_head_is_the_same_head(head: Path, repository: Path, tmp_path: Path) -> None:
    """What a z-score per volume left, negative air and all, gets the scores of the scanner's intensities."""
    source: Any = nib.load(head)
    values = source.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image((values - values.mean()) / values.std(), AFFINE), tmp_path / "z.nii.gz")
    infer("ra", repository, head, tmp_path / "out")
    infer("ra", repository, tmp_path / "z.nii.gz", tmp_path / "out")
    plain, normalised = (read_json(tmp_path / f"out/{name}/scores.json") for name in ("head", "z"))
    assert normalised["assessed"] == plain["assessed"] == 7
    assert normalised["score"] == pytest.approx(plain["score"], rel=0.02)
    assert any("as in normalised images and CT" in each for each in normalised["warnings"])
    images: list[Any] = [nib.load(tmp_path / f"out/{name}/pseudo_healthy.nii.gz") for name in ("head", "z")]
    pseudo = [np.asarray(image.dataobj) for image in images]
    seen = pseudo[0] != 0
    restored = pseudo[1] * values.std() + values.mean()
    assert np.abs(restored - pseudo[0])[seen].mean() < 0.02 * values.max()


def test_what_is_no_head_is_not_assessed(repository: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((40, 40, 40), dtype=np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([4.0, 4, 4, 1])), tmp_path / "noise.nii.gz")
    infer("ra", repository, tmp_path / "noise.nii.gz", tmp_path / "out")
    report = read_json(tmp_path / "out/noise/scores.json")
    assert report["assessed"] == 0
    assert report["score"] is None
    assert "not aligned to the MNI152 template" in report["warnings"][0]
    assert not any("empty" in sentence for sentence in report["warnings"]), "the file is not empty"
    found: Any = nib.load(tmp_path / "out/noise/anomaly_map.nii.gz")
    assert not np.asarray(found.dataobj).any()
    assert not list((tmp_path / "out/noise").glob("*.png"))


def test_a_whole_head_meets_the_weights_that_saw_random_scanners(repository: Path) -> None:
    configs = repository / "bundles/ra/configs"
    parser = ConfigParser()
    parser.read_config([str(configs / "inference.json"), str(configs / "whole_head.json")])
    weights = Path(parser.get_parsed_content("weights"))
    assert weights.name == "scanners.pt"
    info = load_info(weights)
    assert "scanners.json" in info["provenance"]["command"]
    assert info["spacing"] == load_info(weights.with_name("model.pt"))["spacing"]
