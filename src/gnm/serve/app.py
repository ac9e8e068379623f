"""The ASGI application: routes, and what holds for every request: hosts, errors, headers, log lines, metrics.

Log lines have route, status and time: no memory's name, no word of a document, no key.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gnm import __version__
from gnm.errors import GNMError
from gnm.serve import completions, memories
from gnm.serve.errors import Refused, refusal_of, unexpected
from gnm.serve.service import Service, service_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE = {"": "index.html", "style.css": "style.css", "page.js": "page.js", "shading.js": "shading.js",
         "client.js": "client.js", "examples.json": "examples.json"}  # fmt: skip
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}
_GONE = 499  # the caller went away; nobody sees it
_log = logging.getLogger("gnm.serve")

Endpoint = Callable[[Request], Awaitable[Response]]


def application(service: Service) -> Starlette:
    """The app of a service; the worker ends with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        service.worker.close()

    one = "/v1/memories/{name}"
    routes = [
        *(_route(f"/{path}", "GET", _page(file)) for path, file in _PAGE.items()),
        _route("/health", "GET", _health),
        _route("/metrics", "GET", _metrics),
        _route("/v1/models", "GET", completions.models),
        _route("/v1/chat/completions", "POST", completions.complete),
        _route("/v1/memories", "GET", memories.show_all),
        _route(one, "GET", memories.show),
        _route(one, "DELETE", memories.delete),
        _route(f"{one}/documents", "POST", memories.write),
        _route(f"{one}/documents/{{number:int}}", "DELETE", memories.forget),
        _route(f"{one}/revoke", "POST", memories.revoke),
        _route(f"{one}/undo", "POST", memories.undo),
        _route(f"{one}/merge", "POST", memories.merge),
        _route(f"{one}/ask", "POST", memories.ask),
        _route(f"{one}/file", "GET", memories.export),
        _route(f"{one}/file", "PUT", memories.take_in),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})
    app.state.service = service
    return app


def _route(path: str, method: str, endpoint: Endpoint) -> Route:
    """A route whose endpoint answers whatever happens, and is counted."""

    async def answered(request: Request) -> Response:
        service, begun = service_of(request), time.perf_counter()
        response = await _answered(endpoint, request)
        seconds = time.perf_counter() - begun
        service.metrics.requests.labels(path, method, response.status_code).inc()
        service.metrics.seconds.labels(path).observe(seconds)
        _log.info("%s %s %d %.0f ms", method, path, response.status_code, 1e3 * seconds)
        response.headers.update(_HEADERS)
        return response

    return Route(path, answered, methods=[method])


async def _answered(endpoint: Endpoint, request: Request) -> Response:
    try:
        _check_origin(request)
        return await endpoint(request)
    except Refused as error:
        return error.response()
    except GNMError as error:
        return refusal_of(error).response()
    except ClientDisconnect:
        return Response(status_code=_GONE)
    except Exception as error:
        return unexpected(error).response()


def _check_origin(request: Request) -> None:
    """Raise Refused for a request that a foreign page makes a browser send.

    Such a page can name its own host (and have it lead here) where no key is asked for, or be another origin.
    """
    service, host = service_of(request), request.headers.get("host", "")
    allowed = (*_LOOPBACK, *service.settings.hosts)
    if not service.keys.needed and _hostname(f"//{host}") not in allowed:
        raise Refused(403, "this service has no keys, so it answers to loopback's names alone (setting: hosts)")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Refused(403, "requests from pages of another origin are not answered")


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _no_route(request: Request, error: HTTPException) -> Response:
    """What is told of a path or method that there is none of."""
    service_of(request).metrics.requests.labels("none", "any", error.status_code).inc()
    if error.status_code == 405:
        return Refused(405, "this path has no such method").response()
    return Refused(404, "there is no such path; docs/serve.md lists them").response()


async def _health(request: Request) -> Response:
    alive = service_of(request).worker.alive
    return JSONResponse({"status": "ok" if alive else "ending", "version": __version__}, 200 if alive else 503)


async def _metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _page(name: str) -> Endpoint:
    content = (files("gnm.serve") / "page" / name).read_bytes()
    kind = f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"

    async def page(request: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return page
