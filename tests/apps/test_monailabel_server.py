"""A real MONAI Label server with the app, in the environment of the extra `label`, asked over the loopback.

Its interpreter is named by ROBUSTMED_LABEL_PYTHON, or lies in `.venv-label`, which `make label-demo` makes.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.apps.monailabel.methods import METHODS, weight_files
from robustmed_monai.apps.monailabel.server import make_app_folder
from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.weight_info import info_digest
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = REPOSITORY / "bundles"
MODELS = [name for name in METHODS if not METHODS[name].bundle]
TRAINED = [name for name in MODELS if METHODS[name].trainable]
VOLUMES = ("healthy", "lesion")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the bundles; what trains gets a small network, three of them assess what they do not know."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in MODELS:
        root = folder / name
        shutil.copytree(BUNDLES / name, root, ignore=shutil.ignore_patterns("docs"))
        if METHODS[name].trainable:
            train = root / "configs" / "train.json"
            tiny = {"features_weights": None, "image_size": 32, "channels": [4, 8]}
            write_json(train, {**read_json(train), **tiny})
    for name in ("pchvae", "unoranic"):
        _forget(folder / name, "training_statistics")
    _publish(folder / "risc", _open_minded(load_info(folder / "risc" / "models" / "model.pt")))
    return folder


def _open_minded(info: dict[str, Any]) -> dict[str, Any]:
    """What RISC's weights say of themselves, without the statistics of the training images."""
    known = {k: v for k, v in info["classifier"].items() if k != "training_statistics"}
    return {**info, "classifier": known}


def _forget(root: Path, key: str) -> dict[str, Any]:
    """Take a key out of what a bundle's weights say of themselves, and return what they said."""
    (path,) = weight_files(root)
    info = load_info(path)
    _publish(root, {k: v for k, v in info.items() if k != key})
    return info


def _publish(root: Path, info: dict[str, Any]) -> None:
    """Let the weights of a bundle say something of themselves, and its metadata the digests of both."""
    (path,) = weight_files(root)
    weights, metadata = load_weights(path), read_json(root / "configs" / "metadata.json")
    save_weights(weights, path, info)
    told = read_json(path.with_suffix(".json"))["info"]
    entry = {"sha256": sha256(path), "info_sha256": info_digest(told)}
    metadata["weights"][path.name] = {**metadata["weights"][path.name], **entry}
    write_json(root / "configs" / "metadata.json", metadata)


def _affine(server: Any) -> Any:
    return nib.Nifti1Image.from_filename(server.studies / "lesion.nii.gz").affine


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], bundles: Path, studies: Path) -> Any:
    return start_server(bundles, studies)


def test_what_is_served(server: Any) -> None:
    info = server.json("GET", "/info/")
    assert set(info["models"]) == set(METHODS)
    assert set(info["trainers"]) == set(TRAINED)
    urgencies = {m.urgency.name for name, m in METHODS.items() if name in MODELS and m.urgency}
    assert set(info["strategies"]) == {"random", *urgencies}
    assert info["models"]["ra"]["type"] == "segmentation"
    assert info["models"]["ra"]["labels"] == {"anomaly": 1}


@pytest.mark.parametrize("model", MODELS)
def test_a_volume_is_answered_with_a_volume_on_its_grid(server: Any, model: str) -> None:
    found = nib.Nifti1Image.from_bytes(gzip.decompress(server.infer(model, "lesion")))
    if model == "risc":
        # Turned back and padded to squares: its affine says where it lay.
        assert found.shape == (44, 44, 6)
        return
    assert found.shape == (40, 44, 6)
    np.testing.assert_allclose(found.affine, _affine(server), atol=1e-4)
    if METHODS[model].labels:
        assert found.get_data_dtype() == np.uint8
        assert set(np.unique(found.get_fdata())) <= {0, *METHODS[model].labels.values()}


def test_a_whole_head_is_answered_with_tissues_and_ventricles(server: Any) -> None:
    """In another contrast than T1, by the overlay of the bundle."""
    subject = virtual_subject(0, 2)
    dark = np.where(subject.image > 0.1, 1.1 - subject.image, subject.image)
    nib.save(nib.Nifti1Image(dark.astype(np.float32), AFFINE), server.studies / "head.nii.gz")
    found = nib.Nifti1Image.from_bytes(gzip.decompress(server.infer("whole_head", "head")))
    assert found.shape == subject.labels.shape
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    labels = found.get_fdata()
    assert set(np.unique(labels)) == {0, *METHODS["whole_head"].labels.values()}
    brain, true = labels > 0, subject.labels > 0
    assert 2 * (brain & true).sum() > 0.9 * (brain.sum() + true.sum())
    report = json.loads(server.infer("whole_head", "head", output="json"))
    assert 800 < report["volumes"]["inside of the skull"]["ml"] < 2200
    (server.studies / "head.nii.gz").unlink()


def test_what_is_no_head_is_answered_with_the_reason(server: Any) -> None:
    status, found = server.ask("POST", "/infer/whole_head?image=lesion&output=json")
    assert status == 400
    assert b"not aligned to the MNI152 template" in found


def test_an_image_of_another_kind_is_answered_with_the_reason(server: Any, bundles: Path) -> None:
    info = load_info(BUNDLES / "risc" / "models" / "model.pt")
    _publish(bundles / "risc", info)
    status, found = server.ask("POST", "/infer/risc?image=lesion&output=json")
    _publish(bundles / "risc", _open_minded(info))
    assert status == 400
    assert b"risc: assesses nothing here, so there is no corrected" in found


@pytest.mark.parametrize("model", MODELS)
def test_a_picture_is_answered_with_a_picture_of_its_size(server: Any, model: str) -> None:
    with Image.open(io.BytesIO(server.infer(model, "slice"))) as picture:
        assert picture.size == ((44, 44) if model == "risc" else (40, 44))


@pytest.mark.parametrize("model", MODELS)
def test_the_report_of_the_bundle_comes_as_json(server: Any, model: str) -> None:
    report = json.loads(server.infer(model, "lesion", output="json"))
    assert report["model"] == model
    assert report["result"] == METHODS[model].result
    urgency = METHODS[model].urgency
    score = urgency.score(report) if urgency else None
    # An ellipsoid is no brain: what knows its training data says so instead of a number.
    knows = model in ("ra", "feature_memory")
    assert (score is None) == (knows or urgency is None), report["warnings"]


def test_file_and_report_come_together_by_default(server: Any) -> None:
    status, found = server.ask("POST", "/infer/ra?image=lesion", {"params": "{}"})
    assert status == 200
    assert b'name="params"' in found
    assert b'filename="anomaly_mask-' in found


@pytest.mark.parametrize("params", [{}, {"threshold": 0.2}])
def test_the_mask_is_the_map_above_its_threshold(server: Any, params: dict[str, float]) -> None:
    report = json.loads(server.infer("pchvae", "lesion", params, output="json"))
    maps = nib.Nifti1Image.from_bytes(
        gzip.decompress(server.infer("pchvae", "lesion", {**params, "result": "anomaly_map"}))
    )
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(server.infer("pchvae", "lesion", params)))
    assert maps.get_data_dtype() == np.float32
    expected = maps.get_fdata() >= np.float32(report["threshold"])
    assert expected.any()
    assert (report["threshold"], report["threshold_fpr"]) == (0.2, None) or not params
    np.testing.assert_array_equal(mask.get_fdata(), expected)


def test_weights_without_a_calibration_say_so_instead_of_guessing(server: Any, bundles: Path) -> None:
    info = _forget(bundles / "pchvae", "calibration")
    try:
        status, found = server.ask("POST", "/infer/pchvae?image=slice", {"params": "{}"})
        assert (status, "not calibrated" in json.loads(found)["detail"]) == (400, True)
        asked = {"result": "anomaly_map"}
        assert "threshold" not in json.loads(server.infer("pchvae", "slice", asked, output="json"))
    finally:
        _publish(bundles / "pchvae", info)


def test_viewers_get_a_plain_nrrd(server: Any, tmp_path: Path) -> None:
    import SimpleITK

    (tmp_path / "mask.nii.gz").write_bytes(server.infer("ra", "lesion"))
    # What Slicer and OHIF send.
    sent = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    (tmp_path / "mask.nrrd").write_bytes(server.infer("ra", "lesion", sent))
    assert b"encoding: raw" in (tmp_path / "mask.nrrd").read_bytes()[:2000]
    plain, ours = (SimpleITK.ReadImage(str(tmp_path / f"mask.{kind}")) for kind in ("nii.gz", "nrrd"))
    assert plain.GetPixelID() == ours.GetPixelID() == SimpleITK.sitkUInt8
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(ours, name)(), getattr(plain, name)(), atol=1e-4)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(ours), SimpleITK.GetArrayFromImage(plain))


def test_an_upload_is_answered_like_a_study(server: Any) -> None:
    files = {"file": server.studies / "slice.png"}
    status, found = server.ask("POST", "/infer/ra?output=image", {"params": "{}"}, files)
    assert status == 200
    assert found == server.infer("ra", "slice")


def test_a_session_of_slicer_is_answered_like_a_study(server: Any) -> None:
    files = {"files": server.studies / "slice.png"}
    session = server.json("PUT", "/session/?uncompress=false", files=files)["session_id"]
    status, found = server.ask("POST", f"/infer/ra?output=image&session_id={session}", {"params": "{}"})
    assert status == 200
    assert found == server.infer("ra", "slice")


BAD = {
    "no such model": ("POST", "/infer/nope?image=healthy", {}, 404, "there is no 'nope'"),
    "no such image": ("POST", "/infer/ra?image=nope", {}, 404, "no image 'nope'"),
    "no image": ("POST", "/infer/ra", {}, 400, "Neither Image nor File"),
    "no such session": ("POST", "/infer/ra?session_id=nope", {}, 404, "no session 'nope'"),
    "corrupt image": ("POST", "/infer/ra?image=broken", {}, 400, "damaged or cut off"),
    "no JSON": ("POST", "/infer/ra?image=healthy", {"params": "{"}, 400, "params: not JSON"),
    "no object": ("POST", "/infer/ra?image=healthy", {"params": "[1]"}, 400, "give a JSON object"),
    "another model": ("POST", "/infer/ra?image=slice", {"params": '{"model": "x"}'}, 400, "no 'model' here"),
    "no name": ("POST", "/infer/ra?image=slice", {"params": '{"image": 0}'}, 400, "no 'image' here"),
    "no such result": ("POST", "/infer/ra?image=slice", {"params": '{"result": "x"}'}, 400, "anomaly_map"),
    "no such strategy": ("POST", "/activelearning/nope", {}, 404, "ra_anomaly_score"),
    "no such training": ("POST", "/train/ra", {}, 404, "there is no 'ra'"),
    "no such batch": ("POST", "/batch/infer/nope", {}, 404, "there is no 'nope'"),
    "no such scoring": ("POST", "/scoring/nope", {}, 404, "there is no 'nope'"),
    "no such image to load": ("GET", "/datastore/image?image=nope", {}, 404, "no image 'nope'"),
    "no such image to remove": ("DELETE", "/datastore/image?id=nope", {}, 404, "nope"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_answered_with_the_reason_and_the_server_lives_on(server: Any, case: str) -> None:
    method, path, fields, status, reason = BAD[case]
    answered, found = server.ask(method, path, fields)
    assert (answered, reason in json.loads(found)["detail"]) == (status, True), found
    assert server.ask("GET", "/info/")[0] == 200


def test_a_file_that_is_no_image_is_refused(server: Any) -> None:
    status, found = server.ask("POST", "/infer/ra", {"params": "{}"}, {"file": server.log})
    assert status == 400
    assert "not an image type" in json.loads(found)["detail"]


def test_a_label_for_no_image_is_refused(server: Any) -> None:
    files = {"label": server.studies / "healthy.nii.gz"}
    assert server.ask("PUT", "/datastore/label?image=nope", files=files)[0] == 404


def test_a_registration_without_a_second_image_is_refused(server: Any) -> None:
    status, found = server.ask("POST", "/infer/cifl_registration?image=healthy", {"params": "{}"})
    assert status == 400
    assert "moving" in json.loads(found)["detail"]


@pytest.mark.parametrize("name", ["pchvae_anomaly_score", "risc_uncertainty"])
def test_the_study_with_the_highest_score_comes_first(server: Any, name: str) -> None:
    model, urgency = next((k, m.urgency) for k, m in METHODS.items() if m.urgency and m.urgency.name == name)
    assert urgency
    scores = {}
    for image in (*VOLUMES, "slice"):
        score = urgency.score(json.loads(server.infer(model, image, output="json")))
        assert score is not None
        scores[image] = score
    # One image at a time when there is no time, the rest with the next request.
    assert server.json("POST", f"/activelearning/{name}", body={"max_seconds": 0})["waiting"] >= 1
    found = server.json("POST", f"/activelearning/{name}")
    # RISC is equally unsure of all to which it gives no class.
    assert scores[found["id"]] == pytest.approx(max(scores.values()), rel=1e-4)
    assert found["score"] == pytest.approx(scores[found["id"]], rel=1e-4)
    assert (found["scored"], found["unassessed"], found["waiting"], found["unusable"]) == (3, 0, 0, 1)


def test_a_study_that_could_not_be_assessed_comes_last_with_the_reason(server: Any, bundles: Path) -> None:
    found = server.json("POST", "/activelearning/ra_anomaly_score")
    assert (found["score"], found["scored"], found["unassessed"], found["unusable"]) == (None, 0, 3, 1)
    assert "outside of the training data" in found["reason"]
    # One that has a score, however low, comes before those.
    info = _forget(bundles / "ra", "training_statistics")
    files = {"file": ("slice.png", (server.studies / "slice.png").read_bytes())}
    assert server.ask("DELETE", "/datastore/?id=slice")[0] == 200
    try:
        assert server.ask("PUT", "/datastore/?image=slice", files=files)[0] == 200
        found = server.json("POST", "/activelearning/ra_anomaly_score")
        assert (found["id"], found["scored"], found["unassessed"]) == ("slice", 1, 2)
        assert found["score"] > 0
    finally:
        _publish(bundles / "ra", info)


def test_a_batch_goes_on_after_a_corrupt_file(server: Any) -> None:
    server.json("POST", "/batch/infer/unoranic?images=all", body={})
    done = _wait(server, "/batch/infer")
    assert done["status"] == "DONE", done
    assert {path.name for path in (server.studies / "labels" / "original").iterdir()} == {
        "healthy.nii.gz",
        "lesion.nii.gz",
        "slice.png",
    }


@pytest.mark.parametrize("model", TRAINED)
def test_a_training_needs_labels(server: Any, model: str) -> None:
    status, found = server.ask("POST", f"/train/{model}?run_sync=true", body={})
    assert status == 400
    assert "label at least two" in json.loads(found)["detail"]


def test_a_label_is_kept_and_its_image_does_not_come_again(server: Any, tmp_path: Path) -> None:
    voxels = np.zeros((40, 44, 6), np.uint8)
    voxels[8:32, 8:36], voxels[12:28, 12:32], voxels[16:24, 16:28] = 1, 2, 3
    nib.save(nib.Nifti1Image(voxels, _affine(server)), tmp_path / "label.nii.gz")
    before = server.json("POST", "/activelearning/risc_uncertainty")["scored"]
    for image in VOLUMES:
        files = {"label": tmp_path / "label.nii.gz"}
        found = server.json("PUT", f"/datastore/label?image={image}", fields={"params": "{}"}, files=files)
        assert found["image"] == image
        kept = server.studies / "labels" / "final" / f"{image}.nii.gz"
        assert kept.read_bytes() == (tmp_path / "label.nii.gz").read_bytes()
    assert server.json("GET", "/datastore/")["completed"] == 2
    for _ in range(2):
        status, found = server.ask("GET", "/datastore/dataset")
        assert status == 200
        with zipfile.ZipFile(io.BytesIO(found)) as archive:
            assert {f"label/{image}.nii.gz" for image in VOLUMES} <= set(archive.namelist())
    assert len(list(server.log.parent.glob("tmp/robustmed-label-*/*"))) == 1, "the second took its place"
    assert before == 3
    assert server.json("POST", "/activelearning/risc_uncertainty")["id"] == "slice"


@pytest.mark.parametrize("model", TRAINED)
def test_a_training_reads_the_labels_and_its_weights_answer_from_then_on(server: Any, model: str) -> None:
    before = server.json("GET", f"/model/info/{model}")["checksum"]
    request = {"max_epochs": 1, "batch_size": 2}
    assert server.json("POST", f"/train/{model}", body=request)["status"] in ("SUBMITTED", "RUNNING")
    done = _wait(server, "/train/")
    assert done["status"] == "DONE", done
    assert (server.output / model / "model.pt").is_file()
    assert server.json("GET", f"/model/info/{model}")["checksum"] != before
    assert nib.Nifti1Image.from_bytes(gzip.decompress(server.infer(model, "lesion"))).shape == (40, 44, 6)


@pytest.mark.parametrize("model", TRAINED)
def test_a_setting_of_a_training_is_a_number(server: Any, model: str) -> None:
    status, found = server.ask("POST", f"/train/{model}?run_sync=true", body={"max_epochs": "$print(1)"})
    assert status == 400
    assert "$print" in json.loads(found)["detail"]


def test_the_server_stops_and_has_written_nothing_into_the_package(server: Any) -> None:
    server.process.send_signal(signal.SIGINT)
    server.process.wait(60)
    package = Path(make_app_folder.__code__.co_filename).parent
    assert not {"model", "lib", "logs", "bin"} & {path.name for path in package.iterdir()}
    assert b"Traceback" not in server.log.read_bytes()


def _wait(server: Any, path: str, seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        task = server.json("GET", path)
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    return task
