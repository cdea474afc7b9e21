"""I6 over the real path: 100 volumes of all formats through the config of RA, each back where it was.

And one of each format through the configs of the other bundles, which read and write by the same modules: a
config that went around them would be found out here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import save_weights

Array = np.ndarray[Any, Any]
SIDE = 6
# Where this network is asked, an image is its own pseudo-healthy image: what comes back is what went in.
SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "channels": [4, 8, 8],
    "latent_size": 8,
    "device": "cpu",
    "inferer#inferer": "$lambda image, network: {'pred': image, 'anomaly_map': image[:, :1]}",
    "preprocessing#transforms#1#percentile": 100.0,
    "preprocessing#transforms#2#size": SIDE,
    "writer#sheets": {},
}

_FEATURES = {"out_channels": 2, "channels": 4, "depth": 2, "norm": "channel", "center": True}
# Tiny networks of the other bundles: overrides, what their weights' info says, the result that is looked at.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "pchvae": ({"channels": [4, 6, 6, 8], "high_channels": 4, "image_size": 32}, {}, "anomaly_map"),
    "risc": (
        {"layers": None},
        {
            "rotnet": {"depth": 10, "width": 0.125, "temperature": 1.5},
            "classifier": {"depth": 10, "width": 0.125, "num_classes": 2},
        },
        "corrected",
    ),
    "unoranic": ({}, {}, "anatomy_image"),
    "cifl": ({}, {"spatial_dims": 2, **_FEATURES}, "features"),
    "cifl_segmentation": (
        {},
        {"image_size": 32, "num_classes": 4, "channels": [4, 8], "features": _FEATURES},
        "labels",
    ),
}


def random_affine(rng: np.random.Generator, rotated_only: bool = False) -> Array:
    """Rotations to 45 degrees about every axis, anisotropic voxels; any axis order, handedness and shear."""
    sizes = np.array([0.5, 0.5, 5.0]) if rng.random() < 0.5 else rng.uniform(0.4, 4, 3)
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if rotated_only:
        axes = np.eye(3)
    elif rng.random() < 0.2:
        axes = axes + rng.uniform(-0.2, 0.2, (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = (
        Rotation.from_euler("xyz", rng.uniform(-45, 45, 3), degrees=True).as_matrix() @ axes @ np.diag(sizes)
    )
    affine[:3, 3] = rng.uniform(-120, 120, 3)
    return affine


def write_nifti(path: Path, voxels: Array, affine: Array) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)


def write_qform_only(path: Path, voxels: Array, affine: Array) -> None:
    image = nib.Nifti1Image(voxels, None)
    image.set_qform(affine, code=1)
    image.set_sform(None, code=0)
    nib.save(image, path)


def write_nrrd(path: Path, voxels: Array, affine: Array) -> None:
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
    }
    nrrd.write(str(path), voxels, header | {"encoding": "gzip"})


def write_mgz(path: Path, voxels: Array, affine: Array) -> None:
    nib.save(nib.MGHImage(voxels, affine), path)


def write_dicom(path: Path, voxels: Array, affine: Array) -> None:
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    series = generate_uid()
    path.mkdir()
    for k in np.random.default_rng(0).permutation(SIDE):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.4"), generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID = UID("1.2.3"), series
        data.Modality, data.InstanceNumber = "MR", int(k) + 1
        data.Rows = data.Columns = SIDE
        data.PixelSpacing = np.round(sizes[[1, 0]], 10).tolist()
        data.SliceThickness = round(float(sizes[2]), 10)
        data.ImageOrientationPatient = np.round((lps[:3, :2] / sizes[:2]).T.ravel(), 10).tolist()
        data.ImagePositionPatient = np.round(lps[:3, 3] + k * lps[:3, 2], 8).tolist()
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = voxels[..., k].T.astype(np.uint16).tobytes()
        data.save_as(path / f"IM{k}", enforce_file_format=True)


Write = Callable[[Path, Array, Array], None]
FORMATS: list[tuple[int, str, Write]] = [
    (35, ".nii.gz", write_nifti),
    (15, ".nii", write_nifti),
    (10, ".nii", write_qform_only),
    (20, ".nrrd", write_nrrd),
    (10, ".mgz", write_mgz),
    (10, "", write_dicom),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Array, Array]]]:
    """A folder of 100 volumes, and by name the voxels and affine that each was written with."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(6)
    written: dict[str, tuple[Array, Array]] = {}
    for count, suffix, write in FORMATS:
        for _ in range(count):
            name = f"v{len(written):03d}"
            affine = random_affine(rng, rotated_only=write in (write_qform_only, write_mgz, write_dicom))
            voxels = rng.integers(1, 1000, (SIDE,) * 3).astype(np.int16)
            write(folder / f"{name}{suffix}", voxels, affine)
            written[name] = (voxels, affine)
    return folder, written


@pytest.fixture
def infer(repository: Path, tmp_path: Path, sources: Any) -> Callable[..., Path]:
    """`infer(**overrides)` runs the config of RA on the folder and returns where the results are."""
    network = ReversedAutoEncoder(1, 32, (4, 8, 8), 8, "batch")
    save_weights(network.state_dict(), tmp_path / "model.pt", {"calibration": {"thresholds": {"0.05": 0.5}}})

    def run(**overrides: Any) -> Path:
        known = {"weights": str(tmp_path / "model.pt"), "input": str(sources[0])}
        config = repository / "bundles" / "ra" / "configs" / "inference.json"
        workflow = ConfigWorkflow(
            str(config),
            logging_file=False,
            workflow_type="infer",
            **(SETTINGS | known | {"output_dir": str(tmp_path / "out")} | overrides),
        )
        workflow.initialize()
        workflow.run()
        return tmp_path / "out"

    return run


def test_i6_inference_of_100_volumes_in_two_shares(infer: Callable[..., Path], sources: Any) -> None:
    _, written = sources
    torch.manual_seed(0)
    out = infer(rank=1, world_size=2)
    assert len(list(out.glob("*/scores.json"))) == 50
    assert not (out / "summary.json").exists(), "half of them are missing"
    infer(rank=0, world_size=2)
    summary = read_json(out / "summary.json")
    assert [entry["folder"] for entry in summary["images"]] == list(written)
    assert summary["failed"] == {}

    corners = np.array([[x, y, z, 1] for x in (0, SIDE) for y in (0, SIDE) for z in (0, SIDE)]).T
    worst = 0.0
    for name, (voxels, affine) in written.items():
        for file in ("pseudo_healthy", "anomaly_map", "anomaly_mask"):
            image: Any = nib.load(out / name / f"{file}.nii.gz")
            assert image.shape == voxels.shape
            distance = np.linalg.norm(((image.affine - affine) @ corners)[:3], axis=0)
            worst = max(worst, float(distance.max()))
            expected = {"pseudo_healthy": voxels, "anomaly_map": voxels / voxels.max()}.get(file)
            if expected is not None:
                np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-5, err_msg=name)
    assert worst < 1e-3, "mm"

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "summary.json"}
    infer(world_size=1)
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "summary.json"}
    assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in before.items() if p.is_file()}
    assert read_json(out / "summary.json") == summary


def test_a_share_without_images_has_nothing_to_do(infer: Callable[..., Path], sources: Any) -> None:
    folder, _ = sources
    given = str(folder / "v000.nii.gz")
    out = infer(input=given, rank=1, world_size=2)
    assert list(out.iterdir()) == []
    infer(input=given, rank=0, world_size=2)
    assert [entry["folder"] for entry in read_json(out / "summary.json")["images"]] == ["v000"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_bundles_bring_every_format_back(
    name: str, repository: Path, sources: Any, tmp_path: Path
) -> None:
    folder, written = sources
    firsts = [0, *accumulate(count for count, *_ in FORMATS)][:-1]
    names = [f"v{number:03d}" for number in firsts]
    (tmp_path / "some").mkdir()
    for path in (p for p in folder.iterdir() if p.name.split(".")[0] in names):
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / "some" / path.name)

    overrides, info, result = OTHERS[name]
    config = repository / "bundles" / name / "configs" / "inference.json"
    weights, out = tmp_path / "model.pt", tmp_path / "out"
    settings = {**overrides, "weights": str(weights), "device": "cpu"}
    # Some configs take the sizes of the network from the weights' info.
    save_weights({"nothing": torch.zeros(1)}, weights, info)
    parser = ConfigParser()
    parser.read_config(config)
    parser.update(settings)
    save_weights(parser.get_parsed_content("network_def").state_dict(), weights, info)
    workflow = ConfigWorkflow(
        str(config),
        logging_file=False,
        workflow_type="infer",
        **settings,
        input=str(tmp_path / "some"),
        output_dir=str(out),
    )
    workflow.initialize()
    workflow.run()

    summary = read_json(out / "summary.json")
    assert ([entry["folder"] for entry in summary["images"]], summary["failed"]) == (names, {})
    # RISC turns a volume about its middle.
    ends = [(SIDE - 1) / 2] if name == "risc" else [0, SIDE]
    points = np.array([[x, y, z, 1] for x in ends for y in ends for z in ends]).T
    for folder_name in names:
        voxels, affine = written[folder_name]
        image: Any = nib.load(out / folder_name / f"{result}.nii.gz")
        assert image.shape[:3] == voxels.shape
        assert np.linalg.norm(((image.affine - affine) @ points)[:3], axis=0).max() < 1e-3, "mm"
