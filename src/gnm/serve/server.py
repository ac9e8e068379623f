"""The HTTP server of a service, and what it does with connections that bring no request or take no answer."""

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from contextlib import suppress
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


class _Counted:
    """A transport that knows how much was written to it."""

    def __init__(self, transport: asyncio.Transport):
        self._transport, self._written = transport, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    def taken(self) -> int | None:
        """How many bytes the other side has taken, None if nothing waits here for it to take more."""
        waiting = self._transport.get_write_buffer_size()
        return self._written - waiting - _in_kernel(self._transport.get_extra_info("socket")) if waiting else None

    def cut_off(self) -> None:
        """End the connection at once, also in the kernel, which would keep what is left for its caller."""
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class _Connection(H11Protocol):
    """A connection that is closed if a request's head is not complete in time, or its answers are not read, and refused
    if there were too many when it was made.

    Without the first two of these, callers that send a few bytes and wait, or ask and do not read, would hold all
    connections for as long as they like. A head's time runs from the connection's beginning, later from the first byte
    after an answer.
    """

    def __init__(self, service: Service, **given: Any):
        """given: what uvicorn gives a protocol."""
        super().__init__(**given)
        self._service, self._answer = service, self.app
        self.app = self._admitted
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self.refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(_Counted(transport))
        self.refused = self._is_one_too_many()
        self._wait_for_head()
        self._watch(taken_before=None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        self._reading.cancel()

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

    def _watch(self, taken_before: int | None) -> None:
        """Cut the connection off if its caller has taken nothing of what waits for it since `taken_before`."""
        taken = self.transport.taken()
        if taken is not None and taken == taken_before:
            self.transport.cut_off()
        self._reading = self.loop.call_later(self._service.limits.unread_seconds, self._watch, taken)

    def _is_one_too_many(self) -> bool:
        """Whether there are as many others as the limit, or requests of some that left."""
        admitted = sum(not each.refused for each in self.connections if each is not self)
        return max(admitted, len(self.tasks)) >= self._service.limits.connections

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, or a refusal."""
        if not self.refused:
            await self._answer(scope, receive, send)
            return
        self._service.metrics.refused.labels("connections").inc()
        most = self._service.limits.connections
        response = Refused(503, f"{most} connections are open; try again", _RETRY).response()
        response.headers.update({**HEADERS, "Connection": "close"})
        await response(scope, receive, send)


def _in_kernel(connected: socket.socket) -> int:
    """How many bytes of a socket the other side has not acknowledged; 0 where the system does not tell."""
    unacknowledged = bytes(4)
    with suppress(OSError):
        unacknowledged = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, unacknowledged)
    return struct.unpack("i", unacknowledged)[0]
