"""What stands before MONAI Label: each request is checked, and worked on beside the event loop."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from robustmed_monai.apps.monailabel import checks
from robustmed_monai.apps.monailabel.access import Access
from robustmed_monai.apps.monailabel.lanes import ClientGoneError, Lane
from robustmed_monai.apps.monailabel.routes import LANES, Route, find
from robustmed_monai.utils.errors import RequestError

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CHUNK = 1 << 16
_IN_MEMORY = 1 << 20
# What is read of a request that is refused.
_DRAINED = 64 << 20
# What uploads leave of the disk.
_ROOM = 1 << 30
_SMALL_BODY = 4 * checks.MAX_TEXT
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Limits:
    """What one request may send.

    Args:
        upload: bytes of an upload.
        files: files in an upload, and members of an archive.
        sessions: uploads that are kept at a time for later requests.
        uploads: uploads that arrive at a time.
        seconds: pause of a client within a request or answer, after which it is given up.
    """

    upload: int = 2 << 30
    files: int = 5000
    sessions: int = 64
    uploads: int = 8
    seconds: float = 30


@dataclass
class _Answer:
    """An answer of the application, kept until whoever asked has taken it."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: IO[bytes] = field(default_factory=partial(tempfile.SpooledTemporaryFile, _IN_MEMORY))

    async def collect(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body.write(message.get("body", b""))

    async def send(self, send: Send, seconds: float) -> None:
        """Send it to a client that may be slow, but has to take something now and then."""
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers + _HEADERS}
        await send(start)
        self.body.seek(0)
        while chunk := self.body.read(_CHUNK):
            body = {"type": "http.response.body", "body": chunk, "more_body": True}
            await asyncio.wait_for(send(body), seconds)
        await send({"type": "http.response.body", "body": b""})


class _Incoming:
    """What a client sends, and whether it has come to an end."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self.receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self, seconds: float) -> None:
        """Let a client come to an end within reason: some read no answer before."""
        left = _DRAINED
        with suppress(TimeoutError):
            while not self.ended and left > 0:
                left -= len((await asyncio.wait_for(self(), seconds)).get("body", b""))


class Guard:
    """ASGI middleware that refuses what the table of routes does not list.

    Args:
        app: what answers.
        access: who may ask.
        routes: what may be asked.
        limits: how much may be sent.
    """

    def __init__(self, app: Any, access: Access, routes: Sequence[Route], limits: Limits) -> None:
        self.app = app
        self.access = access
        self.routes = routes
        self.limits = limits
        self.lanes = {name: Lane(name, waiting) for name, waiting in LANES.items()}
        self.uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        body = _Incoming(receive)
        with suppress(ClientGoneError, TimeoutError, ConnectionError):
            try:
                answer = await self._answer(scope, body)
            except RequestError as error:
                if error.status != 408:
                    await body.drain(self.limits.seconds)
                logger.warning("refused: %s %r: %s", scope["method"], scope["path"], error)
                answer = _refusal(error)
            with answer.body:
                await answer.send(send, self.limits.seconds)

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        local, peer = scope.get("server"), scope.get("client")
        headers = [
            (key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in scope["headers"]
        ]
        self.access.check(headers, local and local[0], peer and peer[0])
        route, name = find(self.routes, scope["method"], scope["path"])
        try:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
                length = dict(headers).get("content-length", "")
                if not route.files or (length.isdecimal() and int(length) <= _SMALL_BODY):
                    await self._read(receive, body, _SMALL_BODY)
                else:
                    await self._read_upload(receive, body, length)
                job = partial(self._work, scope, route, name, body)
                return await self.lanes[route.lane].run(job, partial(_gone, receive))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RequestError(507, "the disk of the server is full; make room there.") from error

    async def _read_upload(self, receive: Receive, body: IO[bytes], length: str) -> None:
        size = int(length) if length.isdecimal() else self.limits.upload
        if size > self.limits.upload:
            raise RequestError(413, f"the request holds more than {self.limits.upload} bytes.")
        # It is kept as it came, as a part of its form, and where MONAI Label puts it.
        if shutil.disk_usage(tempfile.gettempdir()).free < 3 * size + _ROOM:
            raise RequestError(507, "the disk of the server is nearly full; make room there.")
        if self.uploads >= self.limits.uploads:
            raise RequestError(503, f"busy: {self.uploads} uploads arrive; send it again in a while.")
        self.uploads += 1
        try:
            await self._read(receive, body, self.limits.upload)
        finally:
            self.uploads -= 1

    async def _read(self, receive: Receive, body: IO[bytes], limit: int) -> None:
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self.limits.seconds)
            except TimeoutError:
                raise RequestError(
                    408, f"nothing came for {self.limits.seconds:g} s; send it again."
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > limit:
                raise RequestError(413, f"the request holds more than {limit} bytes.")
            body.write(chunk)

    def _work(self, scope: Scope, route: Route, name: str, body: IO[bytes]) -> _Answer:
        """Check and answer in a thread: MONAI Label's handlers wait where they should give way."""
        return asyncio.run(self._checked(scope, route, name, body))

    async def _checked(self, scope: Scope, route: Route, name: str, body: IO[bytes]) -> _Answer:
        answer = _Answer()
        try:
            if route.name is not None:
                route.name(name, "address")
            query = _once(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            checks.keys(route.query, query, "address")
            missing = [key for key in route.needed if key not in query]
            if missing:
                raise RequestError(400, f"address: {missing[0]!r} is missing.")
            names = await self._check_body(Request(scope, _replay(body)), route)
            if route.also is not None:
                route.also(query, names)
            await self.app(scope, _replay(body), answer.collect)
        except (RequestError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENOSPC:
                return _fault(error)
            raise
        except Exception as error:
            return _fault(error)
        return answer

    async def _check_body(self, request: Request, route: Route) -> list[str]:
        """Check what a request holds; return the names of its files."""
        if route.body is not None:
            content = await request.body()
            if content.strip() and "json" not in request.headers.get("content-type", ""):
                raise RequestError(415, "send the body as JSON, with 'Content-Type: application/json'.")
            given = checks.parse_object(content, "body")
            checks.is_json(given, "body")
            checks.keys(route.body, given, "body")
        if not route.fields and not route.files:
            return []
        try:
            many = max(self.limits.files, 1)
            form = await request.form(max_files=many, max_fields=64, max_part_size=checks.MAX_TEXT)
        except HTTPException as error:
            raise RequestError(error.status_code, f"form: {error.detail}") from error
        try:
            return _check_form(form.multi_items(), route)
        finally:
            await form.close()


def _check_form(items: Sequence[tuple[str, Any]], route: Route) -> list[str]:
    texts = _once([(key, value) for key, value in items if isinstance(value, str)])
    checks.keys(route.fields, texts, "form")
    uploads = [(key, value.filename or "") for key, value in items if not isinstance(value, str)]
    for key, name in uploads:
        checks.keys(route.files, {key: name}, "form")
    several = [key for key, _ in uploads if key != "files"]
    if len(several) > 1:
        raise RequestError(400, f"form: {several[0]!r} is given {len(several)} times; give it once.")
    return [name for _, name in uploads]


def _once(items: Sequence[tuple[str, str]]) -> dict[str, str]:
    given: dict[str, str] = {}
    for key, value in items:
        if key in given:
            raise RequestError(400, f"{key[:200]!r} is given more than once.")
        given[key] = value
    return given


def _replay(body: IO[bytes]) -> Receive:
    """What the application receives: the body again, then nothing, as if the client waited."""
    body.seek(0)

    async def receive() -> Message:
        chunk = body.read(_CHUNK)
        if not chunk and ended:
            await asyncio.Event().wait()
        if len(chunk) < _CHUNK:
            ended.append(True)
        return {"type": "http.request", "body": chunk, "more_body": len(chunk) == _CHUNK}

    ended: list[bool] = []
    return receive


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _fault(error: BaseException) -> _Answer:
    logger.error("a request was not answered", exc_info=error)
    return _refusal(
        RequestError(500, f"the server failed ({type(error).__name__}: {error}); its log says where.")
    )


def _refusal(error: RequestError) -> _Answer:
    answer = _Answer(error.status, [(b"content-type", b"application/json")])
    answer.body.write(json.dumps({"detail": str(error)}).encode())
    headers: Mapping[int, tuple[bytes, bytes]] = {
        401: (b"www-authenticate", b"Bearer"),
        503: (b"retry-after", b"10"),
    }
    if error.status in headers:
        answer.headers.append(headers[error.status])
    return answer
