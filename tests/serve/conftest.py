"""A service for two users with keys, and a client of each."""

from collections.abc import Iterator

import httpx2
import pytest
from services import Running, keys, running


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
