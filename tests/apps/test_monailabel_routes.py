"""What may be asked of the MONAI Label server, by the table that the guard reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from robustmed_monai.apps.monailabel import checks
from robustmed_monai.apps.monailabel.methods import METHODS
from robustmed_monai.apps.monailabel.routes import find, table
from robustmed_monai.utils.errors import RequestError

STRANGE = [
    "a b",
    "$__import__('os')",
    "case#1",
    "@weights",
    "%x",
    "[1,2]",
    "{a}",
    "1e5",
    "True",
    "ü",
    "~",
    "-x",
]


class _Served:
    """An app of the studies ``head`` and what `STRANGE` has."""

    tasks = 0

    def known(self) -> Mapping[str, Collection[str]]:
        kinds = {"infer": METHODS, "batch/infer": METHODS, "train": ["cifl_segmentation"]}
        return {**kinds, "activelearning": ["random"], "scoring": []}

    def has_image(self, name: str) -> bool:
        return name in ("head", *STRANGE)

    def has_label(self, name: str, tag: str) -> bool:
        return (name, tag) == ("head", "final")

    def has_session(self, name: str) -> bool:
        return False

    def pending(self, kind: str) -> int:
        return self.tasks

    def image_types(self) -> Sequence[str]:
        return [".nii.gz", ".nii", ".png"]


SERVED = _Served()
ROUTES = table(SERVED, dicomweb=False, sign_on=False)


def _status(method: str, path: str, **given: Any) -> int:
    """What the table says of a request; ``files`` maps parts to names."""
    try:
        route, name = find(ROUTES, method, path)
        if route.name:
            route.name(name, "address")
        checks.keys(route.query, given.get("query", {}), "address")
        checks.keys(route.fields, given.get("fields", {}), "form")
        checks.keys(route.files, given.get("files", {}), "form")
        checks.keys(route.body or {}, given.get("body", {}), "body")
        if route.also:
            route.also(given.get("query", {}), list(given.get("files", {}).values()))
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/info/", 200),
        ("POST", "/info/", 405),
        ("PUT", "/model/ra", 403),
        ("DELETE", "/model/ra", 403),
        ("GET", "/model/info/ra", 200),
        ("POST", "/infer/nope", 404),
        ("POST", "/infer/wsi/ra", 404),
        ("POST", "/infer/wsi_v2/ra", 404),
        ("POST", "/infer/../ra", 404),
        ("POST", "/infer/ra/", 404),
        ("POST", "/reload", 403),
        ("GET", "/", 403),
        ("GET", "/docs", 403),
        ("GET", "/logs/", 403),
        ("GET", "/logs/gpu", 403),
        ("GET", "/proxy/dicom/studies", 404),
        ("GET", "/auth/", 404),
        ("GET", "/ohif/../../x", 404),
        ("GET", "/ohif/viewer", 200),
        ("GET", "/static//etc/passwd", 404),
        ("GET", "/static/..\\x", 404),
        ("TRACE", "/info/", 405),
        ("OPTIONS", "/datastore/image", 405),
        ("GET", "/session/../../x", 404),
        ("GET", "/session/x", 404),
    ],
)
def test_only_what_the_table_lists_is_answered(method: str, path: str, status: int) -> None:
    assert _status(method, path) == status


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_means_itself(name: str) -> None:
    assert _status("POST", "/infer/ra", query={"image": name}) == 200
    moving = json.dumps({"moving": name})
    assert (
        _status("POST", "/infer/cifl_registration", query={"image": "head"}, fields={"params": moving}) == 200
    )
    assert _status("PUT", "/datastore/image", query={"image": name}, files={"file": "x.nii.gz"}) == 200
    assert _status("PUT", "/datastore/image", files={"file": f"{name}.nii.gz"}) == 200


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".lock", "a\0", "a\nb", "x" * 201, "\ud800"]
)
def test_a_path_is_no_name(name: str) -> None:
    assert _status("PUT", "/datastore/image", query={"image": name}, files={"file": "x.nii.gz"}) == 400
    assert _status("PUT", "/datastore/image", files={"file": f"{name}/x.nii.gz"}) == 400
    assert _status("POST", "/infer/ra", query={"image": name or "nope"}) == 404
    assert _status("PUT", "/datastore/label", query={"image": "head", "tag": name}) == 400


@pytest.mark.parametrize(
    ("model", "params", "status"),
    [
        ("ra", {"result": "anomaly_map"}, 200),
        ("ra", {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}, 200),
        ("ra", {"restore_label_idx": False, "client_id": "user-xyz", "label_prompt": [1, 2]}, 200),
        ("pchvae", {"threshold": 0.5}, 200),
        ("pchvae", {"threshold": "0.5"}, 200),
        ("ra", {"threshold": 0.5}, 400),
        ("pchvae", {"threshold": "$print(1)"}, 400),
        ("pchvae", {"threshold": True}, 400),
        ("pchvae", {"threshold": [1]}, 400),
        ("ra", {"image": "/etc/passwd"}, 400),
        ("ra", {"model": "risc"}, 400),
        ("ra", {"weights": "$1"}, 400),
        ("ra", {"output_dir": "/tmp"}, 400),
        ("ra", {"moving": "head"}, 400),
        ("cifl_registration", {"moving": "/etc/passwd"}, 404),
        ("cifl_registration", {"moving": 0}, 400),
        ("ra", {"result": "../x"}, 400),
        ("ra", {"device": "$1"}, 400),
        ("ra", {"device": "cuda:0"}, 200),
        ("ra", {"label_tag": "../../x", "save_label": True}, 400),
        ("ra", {"save_label": "yes"}, 400),
        ("ra", {"result_extension": "/../x"}, 400),
    ],
)
def test_parameters_of_a_model_are_those_that_it_lists(model: str, params: Any, status: int) -> None:
    assert _status("POST", f"/infer/{model}", fields={"params": json.dumps(params)}) == status
    assert _status("POST", f"/batch/infer/{model}", body=params) == status


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "1",
        "null",
        '{"result": NaN}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '"' + "x" * 70_000,
        "9" * 9_000,
    ],
    ids=range(9),
)
def test_text_that_is_no_object_is_refused(text: str) -> None:
    assert _status("POST", "/infer/ra", fields={"params": text}) in (400, 413)


def test_what_the_server_keeps_of_an_image_is_its_own() -> None:
    for key in ("urgency", "strategy", "name", "ts", "path", "id", "score"):
        text = json.dumps({key: {"ra_anomaly_score": {"score": 1}}})
        assert _status("PUT", "/datastore/image/info", query={"image": "head"}, fields={"info": text}) == 400
        named = {"query": {"image": "new"}, "files": {"file": "x.png"}}
        assert _status("PUT", "/datastore/image", fields={"params": text}, **named) == 400
    note = {"note": {"by": ["me", 1, None]}}
    fields = {"info": json.dumps(note)}
    assert _status("PUT", "/datastore/image/info", query={"image": "head"}, fields=fields) == 200
    fields = {"info": json.dumps({"a": 0}).replace("0", "[" * 50 + "]" * 50)}
    assert _status("PUT", "/datastore/image/info", query={"image": "head"}, fields=fields) == 400


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("scan.nii.gz", 200),
        ("scan.NII.GZ", 200),
        ("scan.json", 400),
        ("scan", 400),
        ("scan.nii.gz.exe", 400),
        ("x" * 300 + ".nii", 400),
        ("../scan.nii", 400),
    ],
)
def test_an_upload_is_an_image_by_its_name(name: str, status: int) -> None:
    assert _status("POST", "/infer/ra", files={"file": name}) == status
    assert _status("PUT", "/datastore/image", query={"image": "new"}, files={"file": name}) == status
    assert _status("PUT", "/datastore/label", query={"image": "head"}, files={"label": name}) == status


def test_a_name_with_dots_has_to_be_given() -> None:
    """MONAI Label cuts it at the first dot: a.1.nii.gz and a.2.nii.gz would be one image."""
    assert _status("PUT", "/datastore/image", files={"file": "a.1.nii.gz"}) == 400
    assert _status("PUT", "/datastore/image", query={"image": "a.1"}, files={"file": "a.1.nii.gz"}) == 200


def test_a_label_that_is_not_there_is_neither_sent_nor_removed() -> None:
    for method, key in (("DELETE", "id"), ("GET", "label"), ("HEAD", "image")):
        assert _status(method, "/datastore/label", query={key: "head", "tag": "final"}) == 200
        assert _status(method, "/datastore/label", query={key: "head", "tag": "original"}) == 404
        assert _status(method, "/datastore/label", query={key: "nope", "tag": "final"}) == 404


@pytest.mark.parametrize("value", [0, -1, 1.5, "$print(1)", None, True, [1], 1e9, "1e3", "٣"])
def test_a_setting_of_a_training_is_a_number(value: Any) -> None:
    assert _status("POST", "/train/cifl_segmentation", body={"max_epochs": value}) == 400
    assert _status("POST", "/train/", body={"cifl_segmentation": {"max_epochs": value}}) == 400
    assert _status("POST", "/train/", body={"cifl_segmentation": {"max_epochs": 3, "client_id": "x"}}) == 200


@pytest.mark.parametrize("path", ["/train/", "/train/cifl_segmentation", "/batch/infer/ra"])
def test_long_tasks_wait_in_a_queue_with_a_bound(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SERVED, "tasks", 3)
    assert _status("POST", path) == 200
    monkeypatch.setattr(SERVED, "tasks", 4)
    assert _status("POST", path) == 503


@pytest.mark.parametrize(
    ("path", "found"), [("wado/studies/1.2/series", True), ("../system", False), ("a/%2e%2e/b", False)]
)
def test_a_dicomweb_server_is_asked_through_this_one_below_its_address(path: str, found: bool) -> None:
    routes = table(SERVED, dicomweb=True, sign_on=False)
    if found:
        assert find(routes, "GET", f"/proxy/dicom/{path}")[0].lane == "files"
    else:
        with pytest.raises(RequestError, match="no such address"):
            find(routes, "GET", f"/proxy/dicom/{path}")
