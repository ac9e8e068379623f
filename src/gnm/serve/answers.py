"""What holds for every request, whichever route it takes or none: who may ask, errors, headers, log lines, metrics.

Log lines have route, status and time: no memory's name, no word of a document, no key.
"""

import asyncio
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gnm.errors import GNMError
from gnm.serve.errors import Refused, refusal_of, unexpected
from gnm.serve.keys import is_loopback
from gnm.serve.service import Service

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_GONE = 499  # the caller went away; nobody sees it
_log = logging.getLogger("gnm.serve")


class Answers:
    """The ASGI middleware around all routes: `app` is asked if the caller may ask, and every request is answered.

    It stands inside Starlette's own, which would hand on an error with its text for the server to log.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, started = time.perf_counter(), False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
                self._count(scope, message["status"], time.perf_counter() - begun)
            await send(message)

        try:
            self._check_origin(Request(scope))
            await self._app(scope, receive, answer)
        except (Exception, asyncio.CancelledError) as error:
            response = _response_to(error)
            if not started:  # of an answer that has begun only the connection's end can tell
                await response(scope, receive, answer)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        """Tell metrics and log of an answer; a path or method that there is none of is not named."""
        route, method = "none", "any"
        if "route" in scope and status != 405:
            route, method = scope["route"].path, next(iter(scope["route"].methods - {"HEAD"}))
        metrics = self._service.metrics
        metrics.requests.labels(route, method, status).inc()
        metrics.seconds.labels(route).observe(seconds)
        _log.info("%s %s %d %.0f ms", method, route, status, 1e3 * seconds)

    def _check_origin(self, request: Request) -> None:
        """Raise Refused for a request that a foreign page makes a browser send.

        Such a page can name its own host (and have it lead here) where no key is asked for, or be another origin.
        """
        host = request.headers.get("host", "")
        named = _hostname(f"//{host}")
        allowed = is_loopback(named) or named in {each.lower() for each in self._service.settings.hosts}
        if not self._service.keys.needed and not allowed:
            raise Refused(403, "this service has no keys, so it answers to loopback's names alone (setting: hosts)")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "requests from pages of another origin are not answered")


def _response_to(error: BaseException) -> Response:
    if isinstance(error, asyncio.CancelledError):  # the service ends, and what the worker has begun it finishes
        return Refused(
            503, "the service is ending; what was asked for may have been done: look before you repeat it"
        ).response()
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_GONE)
    if isinstance(error, GNMError):
        error = refusal_of(error)
    return (error if isinstance(error, Refused) else unexpected(error)).response()


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
