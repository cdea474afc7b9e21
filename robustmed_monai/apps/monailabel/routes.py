"""What may be asked of the server: a table of addresses, with all that each takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from robustmed_monai.apps.monailabel import checks
from robustmed_monai.apps.monailabel.checks import Check
from robustmed_monai.apps.monailabel.methods import METHODS
from robustmed_monai.data.image_folder import SUFFIXES
from robustmed_monai.transforms.image_readers.dicom import DICOM_SUFFIXES
from robustmed_monai.utils.errors import RequestError

# The threads that work, and how many requests may wait for each.
LANES = {"light": 64, "files": 16, "models": 8, "tasks": 2}
IMAGES = (*SUFFIXES, *DICOM_SUFFIXES)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What an image's info may not hold: the server's own, and keys of the answer that it becomes a part of.
_ANSWERED = ("id", "score", "reason", "scored", "unassessed", "waiting", "unusable", "weight")
_IMAGE_KEYS = ("ts", "name", "path", "urgency", "strategy", *_ANSWERED)
_MAX_PENDING = 4
_NAME = "([^/]+)"

_FLAGS: dict[str, Check] = {"all": checks.is_bool, "check_if_running": checks.is_bool}
_TRAINING: dict[str, Check] = {
    "max_epochs": checks.number(1, 100_000, whole=True),
    "batch_size": checks.number(1, 4096, whole=True),
    "learning_rate": checks.number(1e-12, 10),
    "seed": checks.number(0, 2**32 - 1, whole=True),
}
# Viewers send these with every request; all but the first of them change nothing here.
_VIEWERS: dict[str, Check] = {
    "result_extension": checks.one_of(".nrrd", ".nii.gz"),
    "result_dtype": checks.is_text,
    "result_compress": checks.is_bool,
    "restore_label_idx": checks.is_bool,
    "label_prompt": checks.is_json,
    "client_id": checks.is_text,
}
_BATCH: dict[str, Check] = {
    "max_workers": checks.number(0, 64, whole=True),
    "max_batch_size": checks.number(0, 1_000_000, whole=True),
    "multi_gpu": checks.is_bool,
    "gpus": checks.matches(r"all|\d{1,3}(,\d{1,3})*", "'all' or numbers with commas between them"),
    "logging": checks.one_of("DEBUG", "INFO", "WARNING", "ERROR"),
}


class Served(Protocol):
    """What the table has to know of the app."""

    def known(self) -> Mapping[str, Collection[str]]:
        """Names that may follow each kind of address, such as ``{"infer": ["ra"]}``."""

    def has_image(self, name: str) -> bool:
        """Whether the studies have an image."""

    def has_label(self, name: str, tag: str) -> bool:
        """Whether an image has a label of a kind."""

    def has_session(self, name: str) -> bool:
        """Whether an upload of an earlier request is still there."""

    def pending(self, kind: str) -> int:
        """How many tasks of a kind, such as "train", run or wait."""

    def image_types(self) -> Sequence[str]:
        """Suffixes of images that can be among the studies."""


@dataclass(frozen=True)
class Route:
    """An address and what it takes.

    Args:
        methods: HTTP methods, with spaces between them.
        path: regular expression of the address; a group is a name.
        lane: thread that does the work, see ``LANES``.
        name: check of the name in the address.
        query: parameters of the address; those in ``needed`` have to be there.
        fields: parts of a form that are text.
        files: parts of a form that are files; the names that they come with are checked.
        body: what a JSON body may hold; None when there is none.
        also: check of the parameters and the names of the files together.
        refused: why it is never answered.
    """

    methods: str
    path: str
    lane: str = "light"
    name: Check | None = None
    query: Mapping[str, Check] = field(default_factory=dict)
    fields: Mapping[str, Check] = field(default_factory=dict)
    files: Mapping[str, Check] = field(default_factory=dict)
    body: Mapping[str, Check] | None = None
    needed: tuple[str, ...] = ()
    also: Callable[[Mapping[str, str], Sequence[str]], None] | None = None
    refused: str = ""


def find(routes: Sequence[Route], method: str, path: str) -> tuple[Route, str]:
    """The route of a request, and the name in its address.

    Raises:
        RequestError: 404 for no address of the server, 405 for another method, 403 for what is refused.
    """
    there = [(route, match) for route in routes if (match := re.fullmatch(route.path, path))]
    if not there:
        raise RequestError(404, f"{path!r}: there is no such address here; docs/monai_label.md lists them.")
    for route, match in there:
        if method in route.methods.split():
            if route.refused:
                raise RequestError(403, route.refused)
            return route, match[1] if match.groups() else ""
    allowed = sorted({name for route, _ in there for name in route.methods.split()})
    raise RequestError(405, f"{method} {path!r}: use {', '.join(allowed)}.")


def table(served: Served, dicomweb: bool, sign_on: bool) -> list[Route]:
    """All routes of an app.

    Args:
        served: the app.
        dicomweb: whether the studies are on a DICOMweb server, which OHIF asks through this one.
        sign_on: whether MONAI Label's own sign-on is in use.
    """
    found = [
        *_models(served),
        *_tasks(served),
        *_images(served),
        *_labels(served, dicomweb),
        *_sessions(served),
        *_pages(),
    ]
    if dicomweb:
        found.append(
            Route("GET POST", r"/proxy/dicom/(?!.*\.\.)[\w.,/&=-]+", "files", query={"*": checks.is_json})
        )
    if sign_on:
        form = {name: checks.is_text for name in ("username", "password", "grant_type", "scope")}
        found += [Route("GET", "/auth/(?:token/valid)?"), Route("POST", "/auth/token", "files", fields=form)]
    return found


def _known(served: Served, kind: str) -> Check:
    def check(value: Any, where: str) -> None:
        known = served.known()[kind]
        if value not in known:
            raise RequestError(404, f"{kind}: there is no {value[:200]!r}; there are {sorted(known)}.")

    return check


def _image(served: Served) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise RequestError(400, f"{where}={value!r}: give the name of an image of the studies.")
        if not served.has_image(value):
            raise RequestError(404, f"{where}: the studies have no image {value[:200]!r}; see /datastore/.")

    return check


def _session(served: Served) -> Check:
    def check(value: Any, where: str) -> None:
        if not served.has_session(value):
            raise RequestError(404, f"{where}: there is no session {value[:200]!r}.")

    return check


def _unless_empty(check: Check) -> Check:
    return lambda value, where: check(value, where) if value else None


def _settings(model: str, served: Served) -> dict[str, Check]:
    """What the parameters of a model may hold."""
    method = METHODS[model]
    found = {
        **_VIEWERS,
        "result": checks.matches(r"\w{1,64}", "the name of a result"),
        "device": checks.matches(r"cpu|mps|cuda(:\d{1,3})?", "'cpu', 'cuda' or 'cuda:1'"),
        "save_label": checks.is_bool,
        "label_tag": checks.is_tag,
        **dict.fromkeys(method.inputs[1:], _image(served)),
    }
    return found | ({"threshold": checks.number(-1e6, 1e6)} if method.cut else {})


def _models(served: Served) -> list[Route]:
    never = "weights are neither uploaded nor removed through the server; train, or put files there by hand."
    model = _known(served, "infer")
    query = {
        "image": _unless_empty(_image(served)),
        "session_id": _unless_empty(_session(served)),
        "output": checks.one_of("image", "json", "all", "dicom_seg"),
    }
    files = {"file": checks.file_name(IMAGES)}
    return [
        Route("GET", "/info/"),
        Route("GET", f"/model/{_NAME}", "files", model),
        Route("GET", f"/model/info/{_NAME}", "files", model),
        Route("PUT DELETE", f"/model/{_NAME}", refused=never),
        *(
            Route(
                "POST",
                f"/infer/({name})",
                "models",
                model,
                query=query,
                fields={"params": checks.as_json(checks.entries(_settings(name, served)))},
                files=files,
            )
            for name in METHODS
        ),
        Route("POST", f"/infer/{_NAME}", name=model),
    ]


def _one_more(served: Served, kind: str) -> Callable[[Mapping[str, str], Sequence[str]], None]:
    def check(query: Mapping[str, str], uploads: Sequence[str]) -> None:
        if (pending := served.pending(kind)) >= _MAX_PENDING:
            raise RequestError(503, f"busy: {pending} tasks of the kind {kind!r} run or wait; ask later.")

    return check


def _tasks(served: Served) -> list[Route]:
    training = {**_TRAINING, "client_id": checks.is_text}
    sample = {
        "max_seconds": checks.number(0, 600),
        "client_id": checks.is_text,
        "label_tag": checks.is_tag,
        "labels": checks.is_json,
    }
    batch, train = _known(served, "batch/infer"), _known(served, "train")
    images = {"images": checks.one_of("all", "labeled", "unlabeled")}
    sync = {"run_sync": checks.is_bool, "enqueue": checks.is_bool}
    batches, trainings = (_one_more(served, kind) for kind in ("batch_infer", "train"))
    each = dict.fromkeys(served.known()["train"], checks.entries(training))
    return [
        Route("GET", "/batch/infer", query=_FLAGS),
        Route("DELETE", "/batch/infer"),
        *(
            Route(
                "POST",
                f"/batch/infer/({name})",
                "tasks",
                batch,
                query=images,
                body=_settings(name, served) | _BATCH,
                also=batches,
            )
            for name in METHODS
        ),
        Route("POST", f"/batch/infer/{_NAME}", name=batch),
        Route("GET", "/train/", query=_FLAGS),
        Route("DELETE", "/train/"),
        Route("POST", "/train/", "tasks", body=each, also=trainings),
        Route("POST", f"/train/{_NAME}", "tasks", train, query=sync, body=training, also=trainings),
        Route("POST", f"/activelearning/{_NAME}", "models", _known(served, "activelearning"), body=sample),
        Route("GET", "/scoring/", query=_FLAGS),
        Route("POST", f"/scoring/{_NAME}", name=_known(served, "scoring")),
    ]


def _images(served: Served) -> list[Route]:
    image = {"image": _image(served)}
    upload = {"image": checks.is_name}
    own = checks.as_json(checks.unlike(*_IMAGE_KEYS))
    info, params = {"info": own}, {"params": own}
    files = {"file": checks.file_name(served.image_types())}
    known, whole = ("image",), {"check_sum": checks.matches(r"(\w{1,10}:)?[0-9a-fA-F]{1,128}", "a digest")}
    parts = {"output": checks.one_of("train", "stats", "all")}

    def named(query: Mapping[str, str], uploads: Sequence[str]) -> None:
        for upload in uploads:
            # MONAI Label takes all that follows the first dot for the type.
            if not query.get("image") and f".{upload.partition('.')[2]}".lower() not in served.image_types():
                raise RequestError(400, f"file {upload!r}: has dots in its name; name the image with image=.")

    return [
        Route("GET", "/datastore/", query=parts),
        Route("PUT", "/datastore/(?:image)?", "files", query=upload, fields=params, files=files, also=named),
        Route("DELETE", "/datastore/(?:image)?", "files", query={"id": _image(served)}, needed=("id",)),
        Route("HEAD", "/datastore/image", "files", query={**image, **whole}, needed=known),
        Route("GET", "/datastore/image", "files", query=image, needed=known),
        Route("GET", "/datastore/image/info", query=image, needed=known),
        Route("PUT", "/datastore/image/info", query=image, fields=info, needed=known),
        Route(
            "GET",
            "/datastore/dataset",
            "files",
            query={"limit_cases": checks.number(1, 1_000_000, whole=True)},
        ),
    ]


def _labels(served: Served, dicomweb: bool) -> list[Route]:
    tag = {"tag": checks.is_tag}
    # OHIF sends the bare voxels.
    types = (*served.image_types(), ".bin") if dicomweb else served.image_types()
    place, own = "/datastore/label", checks.as_json(checks.unlike("ts", "name"))
    one = {"label": _image(served), **tag}

    def there(query: Mapping[str, str], uploads: Sequence[str]) -> None:
        name, kind = query.get("label", query.get("id", query.get("image", ""))), query["tag"]
        if not served.has_label(name, kind):
            raise RequestError(404, f"image {name!r}: has no label {kind!r}; see /datastore/?output=all.")

    named = ("label", "tag")
    return [
        Route(
            "PUT",
            place,
            "files",
            query={"image": _image(served), **tag},
            fields={"params": own},
            files={"label": checks.file_name(types)},
            needed=("image",),
        ),
        Route(
            "DELETE", place, "files", query={"id": _image(served), **tag}, needed=("id", "tag"), also=there
        ),
        Route("HEAD", place, query={"image": _image(served), **tag}, needed=("image", "tag"), also=there),
        Route("GET", place, "files", query=one, needed=named, also=there),
        Route("GET", f"{place}/info", query=one, needed=named, also=there),
        Route("PUT", f"{place}/info", query=one, fields={"info": own}, needed=named, also=there),
        Route(
            "PUT", "/datastore/updatelabelinfo", query=one, fields={"params": own}, needed=named, also=there
        ),
    ]


def _sessions(served: Served) -> list[Route]:
    flags = {"update_ts": checks.is_bool, "image": checks.is_bool}
    query = {"uncompress": checks.is_bool, "expiry": checks.number(0, 86_400, whole=True)}
    files = {"files": checks.file_name((*IMAGES, *ARCHIVES), plain=True)}
    return [
        Route("PUT", "/session/", "files", query=query, fields={"client_id": checks.is_text}, files=files),
        Route("GET", f"/session/{_NAME}", "files", _session(served), query=flags),
        Route("DELETE", f"/session/{_NAME}", "files", _session(served)),
    ]


def _pages() -> list[Route]:
    foreign = "this page of MONAI Label runs scripts of other servers beside your data; it is not served."
    logs = "the log is not served: it is logs/app.log in the folder of the app."
    return [
        Route("GET HEAD", r"/(?:static|ohif)/(?!.*(?:\.\.|//))(?!/)[\w./-]*", query={"*": checks.is_json}),
        Route("GET HEAD", "/favicon.ico"),
        Route("GET", "/openapi.json"),
        Route("GET", "/(?:docs)?", refused=foreign),
        Route("GET", "/logs/(?:gpu)?", refused=logs),
        Route("POST", "/reload", refused="the app is loaded once; start the server again."),
    ]
