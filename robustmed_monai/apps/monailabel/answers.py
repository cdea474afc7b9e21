"""Bad requests are answered with a 4xx and the reason, where MONAI Label 0.8.5 answers 500 or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from robustmed_monai.utils.errors import ConfigError, DataError, ImageError

# What MONAI Label reports as its own fault.
_OF_THE_REQUEST = (
    "Neither Image nor File not Session ID input is provided",
    "DICOM SEG format is not supported in a non-DICOM datastore",
)


def answer_bad_requests(server: FastAPI, known: Callable[[], Mapping[str, Collection[str]]]) -> None:
    """Teach a server to answer bad requests.

    Args:
        server: MONAI Label's own application.
        known: function that returns the names that exist for each route, such as ``{"infer": ["ra"]}``.
    """

    async def refuse_unknown(request: Request, proceed: Callable[[Request], Any]) -> Response:
        route, _, name = request.url.path.strip("/").rpartition("/")
        names = known().get(route) if request.method == "POST" else None
        if names is not None and name not in names:
            return _answer(404, f"{route}: there is no {name!r}; there are {sorted(names)}.")
        answer: Response = await proceed(request)
        return answer

    for kind in (ImageError, ConfigError, DataError, ValueError, TypeError):
        server.add_exception_handler(kind, _fault_of_request)
    server.add_exception_handler(MONAILabelException, _label_error)
    server.add_exception_handler(HTTPException, _http_error)
    server.user_middleware.append(Middleware(BaseHTTPMiddleware, dispatch=refuse_unknown))
    # The app is made while the server starts; it has built its layers by then and builds them again.
    server.middleware_stack = None


def _answer(status: int, reason: str) -> Response:
    return JSONResponse({"detail": reason}, status_code=status)


async def _fault_of_request(request: Request, error: Exception) -> Response:
    return _answer(400, f"{type(error).__name__}: {error}")


async def _label_error(request: Request, error: MONAILabelException) -> Response:
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return _answer(404, error.msg)
    return _answer(400 if error.error == MONAILabelError.INVALID_INPUT else 500, error.msg)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _answer(400 if error.detail in _OF_THE_REQUEST else error.status_code, error.detail)
