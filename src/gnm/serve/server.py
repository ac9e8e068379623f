"""The HTTP server of a service."""

import logging

import uvicorn

from gnm.serve.app import application
from gnm.serve.service import Service

_LEAVE = 30  # seconds for what is being answered when the service ends
_KEEP_ALIVE = 30  # seconds that a connection without requests stays open


def server(service: Service) -> uvicorn.Server:
    """A server that answers for `service`, with the app's own log lines alone: uvicorn's would name memories."""
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Server(
        uvicorn.Config(
            application(service), log_config=None, log_level="error", access_log=False, server_header=False, ws="none",
            timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_LEAVE,
            limit_concurrency=service.limits.connections,
        )
    )  # fmt: skip
