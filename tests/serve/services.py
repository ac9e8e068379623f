"""Services in a thread of the test, on a tiny untrained backbone."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import uvicorn

from gnm.api import load
from gnm.conversation import Conversation
from gnm.serve.keys import Keys
from gnm.serve.server import server
from gnm.serve.service import Service
from gnm.serve.settings import ServeSettings

USERS = {"anna": "key-of-anna", "ben": "key-of-ben"}


@dataclass(frozen=True)
class Running:
    """Where a service is, and its parts."""

    url: str
    folder: Path
    service: Service
    server: uvicorn.Server

    def client(self, user: str | None = "anna") -> httpx2.Client:
        headers = {} if user is None else {"Authorization": f"Bearer {USERS[user]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running(folder: Path, keys: Keys, model: Conversation | None = None, **settings) -> Iterator[Running]:
    """A service that ends with the context; model: another than an untrained memory of the tiny backbone."""
    model = model or load(None, backbone="tiny", dtype="float32", device="cpu")
    service = Service(model, folder, keys, ServeSettings.model_validate(settings))
    listening = socket.create_server(("127.0.0.1", 0))
    http = server(service)
    thread = threading.Thread(target=http.run, args=([listening],))
    thread.start()
    while not http.started:
        time.sleep(0.005)
        assert thread.is_alive()
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", folder, service, http)
    finally:
        http.should_exit = True
        thread.join(30)


def keys() -> Keys:
    """The keys of USERS."""
    return Keys({user: hashlib.sha256(key.encode()).hexdigest() for user, key in USERS.items()})
