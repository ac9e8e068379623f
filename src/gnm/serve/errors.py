"""What a caller is told: a status, a code for programs, and a sentence. In the form of OpenAI's API."""

import logging
import traceback

from starlette.responses import JSONResponse

from gnm.errors import BackboneError, CheckpointError, ConfigError, DataError, GNMError, MemoryFileError

_log = logging.getLogger("gnm.serve")
_STATUS = {ConfigError: 400, DataError: 400, BackboneError: 400, CheckpointError: 409, MemoryFileError: 409}
_CODES = {
    400: "bad_request",
    401: "no_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    500: "internal_error",
    503: "overloaded",
    507: "insufficient_storage",
}


class Refused(Exception):
    """A request is answered with an error.

    retry_after: seconds after which it may be tried again, None: it is the request that has to change.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    def body(self) -> dict:
        """The error as it is sent."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "code": _CODES[self.status]}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def refusal_of(error: GNMError) -> Refused:
    """What a caller is told of an error of the project; its sentence is theirs to act on."""
    return Refused(next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500), str(error))


def not_kept(error: OSError) -> Refused:
    """What a caller is told when the disk does not take what was to be kept."""
    _log.error("cannot save: %s", error.strerror or type(error).__name__)
    return Refused(507, "the service could not save this, and nothing was changed; tell those who run it")


def unexpected(error: Exception) -> Refused:
    """What a caller is told of a fault of the service. Logged are its kind and place; its text may be a document's."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    _log.error("unexpected %s at %s", type(error).__name__, place)
    return Refused(500, "something went wrong in the service; its log has the place")
