"""Errors of MONAI Label and of the package become a status and one sentence of JSON."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from starlette.exceptions import HTTPException

from robustmed_monai.utils.errors import (
    ConfigError,
    DataError,
    ImageError,
    RequestError,
    RobustMedError,
)

# What MONAI Label reports as its own fault.
_OF_THE_REQUEST = (
    "Neither Image nor File not Session ID input is provided",
    "DICOM SEG format is not supported in a non-DICOM datastore",
)


def answer_in_sentences(server: FastAPI) -> None:
    """Teach a server to say what is wrong.

    Args:
        server: MONAI Label's own application.
    """
    for kind in (ImageError, ConfigError, DataError, ValueError, TypeError):
        server.add_exception_handler(kind, _fault_of_request)
    server.add_exception_handler(RequestError, _refused)
    server.add_exception_handler(RobustMedError, _fault_of_server)
    server.add_exception_handler(MONAILabelException, _label_error)
    server.add_exception_handler(HTTPException, _http_error)
    server.add_exception_handler(RequestValidationError, _invalid)


def _answer(status: int, reason: str) -> Response:
    return JSONResponse({"detail": reason}, status_code=status)


async def _fault_of_request(request: Request, error: Exception) -> Response:
    return _answer(400, f"{type(error).__name__}: {error}")


async def _refused(request: Request, error: RequestError) -> Response:
    return _answer(error.status, str(error))


async def _fault_of_server(request: Request, error: RobustMedError) -> Response:
    return _answer(500, f"the server cannot answer: {error}")


async def _label_error(request: Request, error: MONAILabelException) -> Response:
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return _answer(404, error.msg)
    return _answer(400 if error.error == MONAILabelError.INVALID_INPUT else 500, error.msg)


async def _http_error(request: Request, error: HTTPException) -> Response:
    reason, path = str(error.detail), request.url.path
    if reason == HTTPStatus(error.status_code).phrase:
        reason = f"{request.method} {path!r}: the answer is {error.status_code}, {reason.lower()}."
    return _answer(400 if reason in _OF_THE_REQUEST else error.status_code, reason)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    told = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
    return _answer(422, f"the request lacks something, or has it in another form: {told}.")
