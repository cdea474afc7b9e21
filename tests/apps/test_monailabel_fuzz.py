"""Fuzz of the MONAI Label server: whatever is asked is answered, or refused in one sentence."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robustmed_monai.apps.monailabel import checks
from robustmed_monai.apps.monailabel.access import Access
from robustmed_monai.utils.errors import RequestError

pytestmark = pytest.mark.slow

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SECONDS = 30  # of one request; more is a hang
PATHS = (
    "/info/", "/model/{}", "/model/info/{}", "/infer/{}", "/infer/wsi/{}", "/batch/infer/{}",
    "/batch/infer", "/train/{}", "/train/", "/activelearning/{}", "/scoring/{}", "/datastore/",
    "/datastore/image", "/datastore/image/info", "/datastore/label", "/datastore/label/info",
    "/datastore/updatelabelinfo", "/datastore/dataset", "/session/", "/session/{}", "/ohif/{}",
    "/static/{}", "/logs/", "/proxy/dicom/{}", "/{}",
)  # fmt: skip
KEYS = (
    "image", "id", "label", "tag", "session_id", "output", "params", "info", "file", "files", "moving",
    "result", "threshold", "save_label", "label_tag", "device", "images", "uncompress", "expiry",
    "run_sync", "max_epochs", "max_seconds", "check_sum", "limit_cases", "weights", "model", "_target_",
)  # fmt: skip
_BYTES = io.BytesIO()
Image.new("L", (40, 44), 90).save(_BYTES, "png")
PICTURE = _BYTES.getvalue()
JUNK = (
    "../../etc/passwd", "/etc/passwd", "$print(1)", "@weights", "%x", "a#b", "..", ".", "", "\0", "a\nb",
    "NaN", "1e999", "{", "[1]", "true", "-1", "9" * 400, "x" * 300, "\u202e", "é", "::", "~root", "C:\\x",
    "file:///x", "%2e%2e%2f",
)  # fmt: skip
# Requests that are answered; one part of each is exchanged.
_LABEL, _SLICE = {"label": "slice", "tag": "original"}, {"image": "slice"}
SOUND: tuple[tuple[str, str, dict[str, str], dict[str, str]], ...] = (
    ("GET", "/info/", {}, {}),
    ("GET", "/model/info/ra", {}, {}),
    ("GET", "/datastore/", {"output": "all"}, {}),
    ("GET", "/datastore/image", _SLICE, {}),
    ("HEAD", "/datastore/image", _SLICE, {}),
    ("GET", "/datastore/image/info", _SLICE, {}),
    ("PUT", "/datastore/image/info", _SLICE, {"info": "{}"}),
    ("PUT", "/datastore/label", {**_SLICE, "tag": "original"}, {"params": "{}", "label": "x.png"}),
    ("GET", "/datastore/label", _LABEL, {}),
    ("GET", "/datastore/label/info", _LABEL, {}),
    ("PUT", "/datastore/label/info", _LABEL, {"info": '{"note": 1}'}),
    ("PUT", "/session/", {"uncompress": "false", "expiry": "5"}, {"files": "x.png"}),
    ("POST", "/infer/ra", {"output": "json"}, {"params": '{"result": "anomaly_map"}', "file": "x.png"}),
    ("POST", "/activelearning/random", {}, {}),
)
TEXTS = st.sampled_from(JUNK) | st.text(st.characters(codec="utf-8"), max_size=40)
# Real names too, so that more than the first check is reached.
NAMES = TEXTS | st.sampled_from(("ra", "slice", "healthy", "broken", "final", "random", "cifl_segmentation"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS) | TEXTS, VALUES, max_size=3)


def fuzz(examples: int) -> settings:
    """The same examples in every run, and as long as they need."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def counts(
    record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> Iterator[Counter[str]]:
    found: Counter[str] = Counter()
    yield found
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
    record_property(
        "fuzz", f"{request.node.name}: {sum(found.values())} examples, {kinds}; 0 foreign, 0 hangs"
    )


Request = tuple[str, str, Any, bytes, dict[str, str]]  # method, path, query, body, headers


def _form(parts: Any) -> bytes:
    """Parts of a form: keys with text, or with a file's name and content."""
    found = b""
    for key, text, content in parts:
        named = "" if content is None else f'; filename="{quote(text, safe=" .$#@")}"'
        head = f'--x\r\nContent-Disposition: form-data; name="{key}"{named}\r\n\r\n'
        found += head.encode() + (text.encode() if content is None else content) + b"\r\n"
    return found + b"--x--\r\n"


@st.composite
def wild(draw: st.DrawFn) -> Request:
    """A request of any parts: a form with files, JSON, or noise under either name."""
    method = draw(st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS")))
    path = draw(st.sampled_from(PATHS)).format(draw(NAMES))
    query = draw(st.lists(st.tuples(st.sampled_from(KEYS) | TEXTS, NAMES), max_size=3))
    if "/batch/" in path or "/train/" in path:
        # One that could begin would run for minutes.
        query.append(("junk", ""))
    content = st.none() | st.binary(max_size=50)
    parts = st.lists(st.tuples(st.sampled_from(KEYS), TEXTS, content), max_size=3)
    kind, body = draw(
        st.one_of(
            st.tuples(st.just("multipart/form-data; boundary=x"), parts.map(_form)),
            st.tuples(st.just("application/json"), OBJECTS.map(lambda value: json.dumps(value).encode())),
            st.tuples(
                st.sampled_from(("application/json", "multipart/form-data", "")), st.binary(max_size=200)
            ),
        )
    )
    headers = draw(st.dictionaries(st.sampled_from(("Host", "Origin", "Via")), TEXTS, max_size=1))
    plain = {key: quote(value, safe=" :/.") for key, value in headers.items() if len(value) < 5}
    return method, path, query, body, {"Content-Type": kind, **plain}


@st.composite
def near(draw: st.DrawFn) -> Request:
    """A sound request with at most one part exchanged or added."""
    method, path, query, parts = draw(st.sampled_from(SOUND))
    key = draw(st.none() | st.sampled_from((*query, *parts, *KEYS)))
    value = draw(NAMES | OBJECTS.map(json.dumps))
    if key in parts or (key and draw(st.booleans())):
        parts = {**parts, key: value}
    elif key:
        query = {**query, key: value}
    files = draw(st.just(PICTURE) | st.binary(max_size=50)) if key is None else PICTURE
    content = {name: files for name in ("file", "files", "label")}
    form = _form((name, text, content.get(name)) for name, text in parts.items())
    return method, path, query, form, {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], studies: Path) -> Any:
    return start_server(BUNDLES, studies, models="ra,cifl_segmentation")


def test_every_request_is_answered_or_refused_in_a_sentence(
    server: Any, studies: Path, counts: Counter[str]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")

    @fuzz(600)
    @given(wild() | near())
    def ask(request: Request) -> None:
        method, path, query, body, headers = request
        connection = HTTPConnection(host, int(port), timeout=SECONDS)
        try:
            connection.request(method, f"{quote(path)}?{urlencode(query)}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        counts["answered" if answer.status < 400 else "refused"] += 1
        assert answer.status < 500, content
        if answer.status >= 400 and method != "HEAD":
            reason = json.loads(content)["detail"]
            assert isinstance(reason, str)
            assert len(reason.split()) > 3, reason

    before = {path: path.read_bytes() for path in studies.iterdir() if path.suffix in (".gz", ".png")}
    started = time.monotonic()
    ask()
    assert time.monotonic() - started < 600
    after = {path: path.read_bytes() for path in studies.iterdir() if path.suffix in (".gz", ".png")}
    assert {path: content for path, content in after.items() if path in before} == before
    assert min(counts.values()) > 30, counts
    assert b"a request was not answered" not in server.log.read_bytes()
    assert server.json("GET", "/info/")["name"] == "robustmed_monai"


def test_a_name_that_is_taken_stays_in_its_folder(tmp_path: Path, counts: Counter[str]) -> None:
    @fuzz(1000)
    @given(TEXTS)
    def look(name: str) -> None:
        try:
            checks.is_name(name, "image")
        except RequestError:
            counts["refused"] += 1
            return
        counts["taken"] += 1
        assert (tmp_path / name).parent == tmp_path
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        (tmp_path / f"{name}.nii.gz").touch()

    look()


def test_no_parameter_fails_a_check_in_another_way(counts: Counter[str]) -> None:
    each: list[checks.Check] = [
        checks.is_name, checks.is_tag, checks.is_text, checks.is_bool, checks.is_json, checks.one_of("a"),
        checks.matches("x+", "x"), checks.number(0, 9), checks.number(0, 9, whole=True), checks.unlike("ts"),
        checks.file_name([".nii"], plain=True), checks.entries({"result": checks.is_text}),
        checks.as_json(checks.unlike()),
    ]  # fmt: skip

    @fuzz(1000)
    @given(st.sampled_from(each), VALUES | OBJECTS)
    def look(check: checks.Check, value: Any) -> None:
        try:
            check(value, "here")
            counts["taken"] += 1
        except RequestError as error:
            counts["refused"] += 1
            str(error).encode()

    look()


def test_no_name_of_a_host_is_mistaken_for_this_machine(counts: Counter[str]) -> None:
    near = st.sampled_from(
        ("localhost", "127.0.0.1", "[::1]", "evil.example", ":", ".", "@", "/", "80", " ", "0x7f.1")
    )

    @fuzz(1000)
    @given(st.lists(near | TEXTS, max_size=4).map("".join))
    def look(host: str) -> None:
        try:
            Access().check([("host", host)], "127.0.0.1", "127.0.0.1")
        except RequestError:
            counts["refused"] += 1
            return
        counts["taken"] += 1
        name = (
            host.strip()
            .lower()
            .removesuffix(host[host.rfind(":") :] if host.rfind(":") > host.rfind("]") else "")
        )
        assert name in ("localhost", "127.0.0.1", "[::1]")

    look()
