"""The ASGI application: its routes, the page's files, and what is told where there is no route."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from gnm import __version__
from gnm.serve import completions, memories
from gnm.serve.answers import Answers
from gnm.serve.errors import Refused
from gnm.serve.service import Service, service_of

_PAGE = {"": "index.html", "style.css": "style.css", "page.js": "page.js", "shading.js": "shading.js",
         "client.js": "client.js", "examples.json": "examples.json"}  # fmt: skip
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}

Endpoint = Callable[[Request], Awaitable[Response]]


def application(service: Service) -> Starlette:
    """The app of a service; the worker ends with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.worker.close()

    one = "/v1/memories/{name}"
    routes = [
        *(_route(f"/{path}", "GET", _page(file)) for path, file in _PAGE.items()),
        _route("/health", "GET", _health),
        _route("/metrics", "GET", _metrics),
        _route("/v1/models", "GET", completions.models),
        _route("/v1/models/{name}", "GET", completions.model),
        _route("/v1/chat/completions", "POST", completions.complete),
        _route("/v1/memories", "GET", memories.show_all),
        _route(one, "GET", memories.show),
        _route(one, "DELETE", memories.delete),
        _route(f"{one}/documents", "POST", memories.write),
        _route(f"{one}/documents/{{number}}", "DELETE", memories.forget),
        _route(f"{one}/revoke", "POST", memories.revoke),
        _route(f"{one}/undo", "POST", memories.undo),
        _route(f"{one}/merge", "POST", memories.merge),
        _route(f"{one}/ask", "POST", memories.ask),
        _route(f"{one}/file", "GET", memories.export),
        _route(f"{one}/file", "PUT", memories.take_in),
    ]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route},
        middleware=[Middleware(Answers, service=service)],
    )  # fmt: skip
    app.state.service = service
    return app


def _route(path: str, method: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=[method])


async def _no_route(request: Request, error: HTTPException) -> Response:
    """What is told of a path or method that there is none of."""
    if error.status_code != 405:
        return Refused(404, "there is no such path; docs/serve.md lists them").response()
    found = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    response = Refused(405, "this path has no such method").response()
    response.headers["Allow"] = ", ".join(sorted(set.union(*(route.methods for route in found))))
    return response


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
