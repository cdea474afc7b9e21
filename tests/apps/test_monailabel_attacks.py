"""A real MONAI Label server, attacked: nothing outside of the studies is read, written or removed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.apps.monailabel.routes import LANES

pytestmark = pytest.mark.slow

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
MODELS = ("ra", "cifl_registration", "cifl_segmentation")
STRANGE = "$__import__('os').system('touch owned') #1 @x [2]"
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies in a folder beside what is nobody's business, and the bundles."""
    folder = tmp_path_factory.mktemp("world")
    studies, private = folder / "studies", folder / "private"
    for place in (studies, private):
        place.mkdir()
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in (30, 34, 4)), indexing="ij")
    head = (500 * (np.square(grid).sum(0) < 0.9)).astype(np.int16)
    for path in (studies / "head.nii.gz", studies / "other.nii.gz", private / "secret.nii.gz"):
        nib.save(nib.Nifti1Image(head, np.diag([1.5, 1.5, 4, 1])), path)
    Image.fromarray((head[:, :, 2] / 4).astype(np.uint8)).save(studies / f"{STRANGE}.png")
    (private / "thesis.txt").write_text("years of work")
    (private / "session").mkdir()
    (private / "session" / "meta.info").write_text(json.dumps({"image": "/nowhere", "path": "/"}))
    (private / "session" / "results.csv").write_text("1,2")
    # What lies among the studies but leads out of them, or never ends.
    (studies / "link.nii.gz").symlink_to(private / "secret.nii.gz")
    os.mkfifo(studies / "pipe.nii.gz")
    (studies / "folder.nii.gz").mkdir()
    for number in range(12):
        shutil.copy(studies / "head.nii.gz", studies / "folder.nii.gz" / f"{number}.nii.gz")
    for name in MODELS:
        shutil.copytree(BUNDLES / name, folder / "bundles" / name, ignore=shutil.ignore_patterns("docs"))
    return folder


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], world: Path) -> Any:
    conf = {"models": ",".join(MODELS), "max_upload_mb": "4"}
    return start_server(world / "bundles", world / "studies", **conf)


@pytest.fixture(autouse=True)
def unharmed(world: Path, server: Any) -> Iterator[None]:
    """After each test all is as it was, nothing is left in the temporary folder, and the server answers."""
    temporary = server.log.parent / "tmp"
    before, left = _state(world), set(temporary.iterdir())
    yield
    assert server.json("GET", "/info/")["name"] == "robustmed_monai"
    assert _state(world) == before
    assert set(temporary.iterdir()) == left


def _state(world: Path) -> dict[str, str]:
    """Digest of each file but the server's own list and labels."""
    own = ("datastore_v2.json", ".lock", "labels")
    files = [
        p for p in sorted(world.rglob("*")) if p.is_file() and not set(own) & set(p.relative_to(world).parts)
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _refused(server: Any, status: int, *request: Any, **content: Any) -> str:
    """The sentence with which a request is refused."""
    answered, found = server.ask(*request, **content)
    assert answered == status, found[:500]
    reason = json.loads(found)["detail"]
    assert isinstance(reason, str)
    assert len(reason.split()) > 3, reason
    assert b"Traceback" not in found
    return reason


def _quoted(**query: str) -> str:
    return urllib.parse.urlencode(query)


def _tar(name: str, content: bytes = b"owned", link: str = "") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = 0 if link else len(content)
        info.type, info.linkname = (tarfile.SYMTYPE if link else tarfile.REGTYPE), link
        archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        "{private}/secret.nii.gz",
        "../private/secret.nii.gz",
        "link",
        "pipe",
        "folder",
        "folder.nii.gz",
        "/dev/zero",
        "/",
        ".",
        "..",
        "",
        "\0",
        "nope",
        "file:///etc/passwd",
    ],
)
def test_no_image_is_read_from_elsewhere(server: Any, world: Path, image: str) -> None:
    path = image.format(private=world / "private")
    wanted = 404 if image else 400
    started = time.monotonic()
    _refused(server, wanted, "POST", f"/infer/ra?{_quoted(image=path)}")
    moving = {"params": json.dumps({"moving": path})}
    _refused(server, 404, "POST", "/infer/cifl_registration?image=head", moving)
    for key in ("image", "id", "label"):
        for method, place in (
            ("GET", "image"),
            ("HEAD", "image"),
            ("DELETE", "image"),
            ("GET", "image/info"),
        ):
            status, _ = server.ask(method, f"/datastore/{place}?{_quoted(**{key: path})}")
            assert status in (400, 404, 405)
    assert time.monotonic() - started < 60, "nothing was run"


def test_a_list_of_images_is_no_image(server: Any, world: Path) -> None:
    secret = str(world / "private" / "secret.nii.gz")
    listed = json.dumps({"test": [{"image": secret}], "training": [{"image": secret}]}).encode()
    for name in ("x.json", "datalist.json", "x.JSON", "x.nii.json"):
        _refused(server, 400, "POST", "/infer/ra", files={"file": (name, listed)})
        _refused(server, 400, "PUT", "/session/", files={"files": (name, listed)})
        _refused(server, 400, "PUT", "/datastore/image?image=x", files={"file": (name, listed)})
    _refused(server, 400, "POST", "/infer/ra", files={"file": ("x.nii", listed)})
    for name in ("datalist.json", "a/pairs.json", "dataset.JSON"):
        _refused(
            server, 400, "PUT", "/session/?uncompress=true", files={"files": ("x.tgz", _tar(name, listed))}
        )


@pytest.mark.parametrize("link", ["", "/etc/passwd", "../../private/secret.nii.gz"])
@pytest.mark.parametrize("name", ["../../owned.nii", "{private}/owned.nii", "a/../../../owned.nii", "ok.nii"])
def test_an_archive_writes_nothing_elsewhere(server: Any, world: Path, name: str, link: str) -> None:
    if name == "ok.nii" and not link:
        return
    content = _tar(name.format(private=world / "private"), link=link)
    for suffix in (".tar", ".tar.gz", ".tgz"):
        _refused(server, 400, "PUT", "/session/?uncompress=true", files={"files": (f"x{suffix}", content)})


def test_a_bomb_is_not_unpacked(server: Any) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", b"\0" * (64 << 20))
    for content in (data.getvalue(), _tar("a.nii", b"\0" * (64 << 20))):
        reason = _refused(
            server, 413, "PUT", "/session/?uncompress=true", files={"files": ("x.zip", content)}
        )
        assert "at most 4194304" in reason
    files = {"file": ("a.nii.gz", b"\0" * (5 << 20))}
    for request in (("POST", "/infer/ra"), ("PUT", "/datastore/image?image=x")):
        _refused(server, 413, *request, files=files)
    _refused(server, 413, "POST", "/activelearning/random", body={"client_id": "x" * 300_000})


@pytest.mark.parametrize(
    "image",
    [
        "../../private/thesis",
        "{private}/thesis",
        "../private/new",
        "..",
        "a/b",
        "a\\b",
        ".hidden",
        "x" * 300,
        "a\nb",
        "a\0b",
        "link",
    ],
)
def test_no_image_is_written_elsewhere(server: Any, world: Path, image: str) -> None:
    name = image.format(private=world / "private")
    content = (world / "studies" / "head.nii.gz").read_bytes()
    for place in ("/datastore/", "/datastore/image"):
        files = {"file": ("x.nii.gz", content)}
        _refused(server, 400, "PUT", f"{place}?{_quoted(image=name)}", files=files)
    for named in ("../../private/thesis.txt", f"{'x' * 300}.nii.gz", "x." + "y" * 300, "x.txt", "x.svs", "x"):
        _refused(server, 400, "PUT", "/datastore/image", files={"file": (named, content)})


@pytest.mark.parametrize("tag", ["../../../private", "..", "a/b", "/tmp", "", ".x", "x" * 99, "$1"])
def test_no_label_is_written_elsewhere(server: Any, world: Path, tag: str) -> None:
    files = {"label": world / "studies" / "head.nii.gz"}
    _refused(server, 400, "PUT", f"/datastore/label?{_quoted(image='head', tag=tag)}", files=files)
    _refused(server, 400, "DELETE", f"/datastore/label?{_quoted(id='head', tag=tag)}")
    params = {"params": json.dumps({"save_label": True, "label_tag": tag})}
    _refused(server, 400, "POST", "/infer/ra?image=head", params)
    _refused(server, 400, "POST", "/batch/infer/ra", body={"label_tag": tag})


def test_a_link_among_the_labels_is_not_followed(server: Any, world: Path) -> None:
    place = world / "studies" / "labels" / "final" / "head.nii.gz"
    place.symlink_to(world / "private" / "thesis.txt")
    try:
        files = {"label": world / "studies" / "head.nii.gz"}
        reason = _refused(server, 400, "PUT", "/datastore/label?image=head", files=files)
        assert "leads out of the folder of studies" in reason
    finally:
        place.unlink()


def test_a_label_fits_its_image(server: Any, world: Path) -> None:
    small = io.BytesIO()
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(small, "png")
    for file in (
        ("label.png", small.getvalue()),
        ("label.nii.gz", b"text"),
        ("label.nii", gzip.compress(b"x")),
    ):
        _refused(server, 400, "PUT", "/datastore/label?image=head", files={"label": file})
    assert server.json("GET", "/datastore/")["completed"] == 0
    assert "nothing to send" in _refused(server, 404, "GET", "/datastore/dataset")


def test_no_session_is_a_path(server: Any, world: Path) -> None:
    inside = os.path.relpath(world / "private" / "session", server.log.parent / "sessions")
    for name in (inside, str(world / "private" / "session"), "../..", "..", "*", "\0"):
        _refused(server, 404, "POST", f"/infer/ra?{_quoted(session_id=name)}")
        for method in ("GET", "DELETE"):
            _refused(server, 404, method, f"/session/{urllib.parse.quote(name, safe='')}")


def test_sessions_are_bounded(server: Any, world: Path) -> None:
    files, names = {"files": world / "studies" / "head.nii.gz"}, []
    try:
        for _ in range(64):
            names.append(server.json("PUT", "/session/", files=files)["session_id"])
        assert "64 sessions" in _refused(server, 429, "PUT", "/session/", files=files)
    finally:
        for name in names:
            server.json("DELETE", f"/session/{name}")
    assert server.json("PUT", "/session/?expiry=1", files=files)["session_info"]["expiry"] == 1


def test_a_series_in_an_archive_is_one_image(server: Any, world: Path) -> None:
    """A folder of twelve images is refused before any of them is run."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(12):
            archive.write(world / "studies" / "head.nii.gz", f"{number}.nii.gz")
    session = server.json("PUT", "/session/?uncompress=true", files={"files": ("x.zip", data.getvalue())})
    started = time.monotonic()
    name = session["session_id"]
    assert "holds 12 images" in _refused(server, 400, "POST", f"/infer/ra?session_id={name}")
    assert time.monotonic() - started < 10
    server.json("DELETE", f"/session/{name}")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_weights_stay(server: Any, method: str) -> None:
    for model in (*MODELS, "info", "nope"):
        _refused(server, 403, method, f"/model/{model}", files={"file": ("model.pt", b"x")})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "10.0.0.1"},
    ],
)
def test_foreign_pages_and_machines_are_refused(server: Any, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/info/"),
        ("POST", "/activelearning/random"),
        ("GET", "/ohif/"),
        ("OPTIONS", "/datastore/image"),
        ("GET", "/datastore/image?image=head"),
    ):
        reason = _refused(server, 403, method, path, headers=headers)
        assert "server" in reason


def test_nothing_is_allowed_across_origins(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for method, path, wanted in (("GET", "/info/", 200), ("OPTIONS", "/info/", 405)):
        connection = HTTPConnection(host, int(port), timeout=60)
        origin = {"Origin": server.url, "Access-Control-Request-Method": "PUT"}
        connection.request(method, path, headers=origin)
        answer = connection.getresponse()
        names = {name.lower() for name, _ in answer.getheaders()}
        answer.read()
        connection.close()
        assert answer.status == wanted
        assert not {name for name in names if name.startswith("access-control-")}
        assert {"x-content-type-options", "x-frame-options", "cross-origin-resource-policy"} <= names


@pytest.mark.parametrize(
    "params",
    [
        "{",
        "[" * 50_000,
        '{"a":' * 10_000,
        '{"threshold": NaN}',
        '{"weights": "x"}',
        '{"run": "$print(1)"}',
        '{"network": {"_target_": "os.system"}}',
        '{"output_dir": "/tmp"}',
        '{"device": "$1"}',
        '{"result": "../x"}',
        "9" * 9000,
    ],
)
def test_parameters_are_those_that_are_listed(server: Any, params: str) -> None:
    _refused(server, 400, "POST", "/infer/ra?image=head", {"params": params})


def test_an_address_says_a_thing_once_and_nothing_unknown(server: Any) -> None:
    for method, path in (
        ("POST", "/infer/ra?image=head&image=other"),
        ("POST", "/infer/ra?image=head&tag=x"),
        ("GET", "/info/?x=1"),
        ("DELETE", "/datastore/label?id=head"),
        ("POST", "/batch/infer/ra?run_sync=true"),
        ("GET", "/datastore/?output=x"),
    ):
        _refused(server, 400, method, path)
    params = {"params": "{}", "weights": "x"}
    _refused(server, 400, "POST", "/infer/ra?image=head", params)
    _refused(server, 415, "POST", "/activelearning/random", {"a": "b"})


def test_a_name_means_itself(server: Any, world: Path) -> None:
    answered = json.loads(server.infer("ra", STRANGE, output="json"))
    assert answered["model"] == "ra"
    registered = json.loads(server.infer("cifl_registration", STRANGE, {"moving": STRANGE}, output="json"))
    assert registered["model"] == "cifl_registration"
    files = {"file": (f"{STRANGE}.png", (world / "studies" / f"{STRANGE}.png").read_bytes())}
    assert server.ask("POST", "/infer/ra?output=json", {"params": "{}"}, files)[0] == 200
    assert not list(server.log.parent.rglob("owned"))


def test_damaged_weights_are_named(server: Any, world: Path) -> None:
    path = world / "bundles" / "ra" / "models" / "model.pt"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1000])
        assert "was altered" in _refused(server, 500, "POST", "/infer/ra?image=head", {"params": "{}"})
    finally:
        path.write_bytes(whole)


def test_a_crowd_is_served_in_turn_and_others_are_answered_meanwhile(server: Any) -> None:
    crowd = 1 + LANES["models"] + 12
    waits: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            started = time.monotonic()
            server.json("GET", "/info/")
            waits.append(time.monotonic() - started)

    with ThreadPoolExecutor(crowd + 1) as pool:
        watch = pool.submit(look)
        asked = [
            pool.submit(server.ask, "POST", "/infer/ra?image=head&output=json", {"params": "{}"})
            for _ in range(crowd)
        ]
        found = [future.result() for future in asked]
        over.set()
        watch.result()
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 1 + LANES["models"]
    busy = next(json.loads(body)["detail"] for status, body in found if status == 503)
    assert "ask again" in busy
    figures = f"{crowd} at once, {statuses.count(503)} refused, /info/ {len(waits)} times"
    assert max(waits) < 15, figures


def test_who_hangs_up_is_not_served(server: Any) -> None:
    before = server.log.read_bytes().count(b"Infer Request")
    host, port = server.url.removeprefix("http://").split(":")
    body = '--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{}\r\n--x--\r\n'
    for _ in range(8):
        connection = HTTPConnection(host, int(port), timeout=60)
        connection.request(
            "POST", "/infer/ra?image=head", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        time.sleep(0.05)
        connection.close()
    assert server.ask("POST", "/infer/ra?image=head&output=json", {"params": "{}"})[0] == 200
    assert server.log.read_bytes().count(b"Infer Request") - before < 5


def test_clients_that_never_come_to_an_end_hold_up_nobody_else(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1000000"}
    held = []
    for _ in range(8):
        connection = HTTPConnection(host, int(port), timeout=60)
        connection.putrequest("PUT", "/datastore/image?image=x")
        for key, value in kind.items():
            connection.putheader(key, value)
        connection.endheaders(b"--x\r\n")
        held.append(connection)
    time.sleep(0.5)
    files = {"file": ("x.nii.gz", b"x" * 1_000_000)}
    assert "uploads arrive" in _refused(server, 503, "PUT", "/datastore/image?image=x", files=files)
    assert server.json("POST", "/infer/ra?output=json&image=head", fields={"params": "{}"})["model"] == "ra"
    for connection in held[1:]:
        connection.close()
    time.sleep(0.5)
    broken = server.ask("POST", "/infer/ra", {"params": "{}"}, {"file": ("x.nii.gz", b"x" * 1_000_000)})
    assert broken[0] == 400
    answer = held[0].getresponse()
    assert answer.status == 408
    assert "send it again" in json.loads(answer.read())["detail"]
    held[0].close()


def test_an_opened_server_wants_the_token_that_it_prints(
    start_server: Callable[..., Any], world: Path
) -> None:
    opened = start_server(world / "bundles", world / "studies", models="ra", hosts="label.example")
    token = next(line.strip() for line in opened.log.read_text().splitlines() if len(line.strip()) == 43)
    given = {"Authorization": f"Bearer {token}"}
    for host in ("label.example", "label.example:443", "127.0.0.1"):
        assert opened.ask("GET", "/info/", headers={**given, "Host": host})[0] == 200
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {token}"}):
            assert "token" in _refused(opened, 401, "GET", "/info/", headers={**wrong, "Host": host})
    _refused(opened, 403, "GET", "/info/", headers={**given, "Host": "evil.example"})
    _refused(opened, 403, "GET", "/info/", headers={**given, "Host": "label.example", "Origin": EVIL})
    opened.process.send_signal(signal.SIGINT)
    assert opened.process.wait(60) == 0
