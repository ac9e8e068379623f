"""The HTTP server of a service, and what it does with connections that bring no request."""

import asyncio
import logging
from functools import partial
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gnm.serve.answers import HEADERS
from gnm.serve.app import application
from gnm.serve.errors import Refused
from gnm.serve.service import Service

_LEAVE = 30  # seconds for what is being answered when the service ends
_KEEP_ALIVE = 30  # seconds that a connection without requests stays open
_RETRY = 1


def server(service: Service) -> uvicorn.Server:
    """A server that answers for `service`, with the app's own log lines alone: uvicorn's would name memories."""
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Server(
        uvicorn.Config(
            application(service), log_config=None, log_level="error", access_log=False, server_header=False, ws="none",
            timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_LEAVE, http=partial(_Connection, service),
        )
    )  # fmt: skip


class _Connection(H11Protocol):
    """A connection that is closed if a request's head is not complete in time, and refused if there are too many.

    Without the first of these, callers that send a few bytes and wait would hold all connections for as long as they
    like. Time runs from the connection's beginning, later from the first byte after an answer.
    """

    def __init__(self, service: Service, **given: Any):
        """given: what uvicorn gives a protocol."""
        super().__init__(**given)
        self._service, self._answer = service, self.app
        self.app = self._admitted
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait_for_head(self) -> None:
        """Let time run while no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head is None and not self.transport.is_closing():
            seconds = self._service.limits.body_seconds
            self._head = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, or a refusal if more than the limit are connected, or still answered after they left."""
        most = self._service.limits.connections
        if max(len(self.connections), len(self.tasks)) <= most:
            await self._answer(scope, receive, send)
            return
        self._service.metrics.refused.labels("connections").inc()
        response = Refused(503, f"{most} connections are open; try again", _RETRY).response()
        response.headers.update({**HEADERS, "Connection": "close"})
        await response(scope, receive, send)
