"""A service on a tiny untrained backbone, in a thread of the test, for two users with keys."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from gnm.api import load
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

    def client(self, user: str | None = "anna") -> httpx2.Client:
        headers = {} if user is None else {"Authorization": f"Bearer {USERS[user]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running(folder: Path, keys: Keys, **settings) -> Iterator[Running]:
    """A service that ends with the context."""
    model = load(None, backbone="tiny", dtype="float32", device="cpu")
    service = Service(model, folder, keys, ServeSettings.model_validate(settings))
    listening = socket.create_server(("127.0.0.1", 0))
    http = server(service)
    thread = threading.Thread(target=http.run, args=([listening],))
    thread.start()
    while not http.started:
        time.sleep(0.005)
        assert thread.is_alive()
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", folder, service)
    finally:
        http.should_exit = True
        thread.join(30)


def keys() -> Keys:
    return Keys({user: hashlib.sha256(key.encode()).hexdigest() for user, key in USERS.items()})


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    """A service with its ordinary settings, shared by the tests of a file."""
    with running(tmp_path_factory.mktemp("memories"), keys()) as started:
        yield started


@pytest.fixture
def anna(service) -> Iterator[httpx2.Client]:
    with service.client("anna") as client:
        yield client


@pytest.fixture
def ben(service) -> Iterator[httpx2.Client]:
    with service.client("ben") as client:
        yield client
