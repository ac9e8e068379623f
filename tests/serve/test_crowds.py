"""When all connections are taken, those that have one keep it, and only who comes then is refused."""

import socket

import httpx2
import pytest
from services import keys, running


@pytest.fixture
def service(tmp_path):
    with running(tmp_path, keys(), limits={"connections": 2}) as started:
        yield started


def status(client):
    return client.get("/health").status_code


def test_connections_from_before_the_limit_was_reached_are_answered(service):
    address = service.url.removeprefix("http://").split(":")
    with service.client(None) as first, service.client(None) as second, service.client(None) as third:
        assert status(first) == status(second) == 200
        with socket.create_connection(address):  # and stays, for as long as a head may take
            assert [status(each) for each in (third, first, second, third)] == [503, 200, 200, 503]


def test_connections_that_were_refused_take_no_place(service):
    with service.client(None) as first, service.client(None) as second:
        assert status(first) == status(second) == 200
        crowd = [httpx2.Client(base_url=service.url, timeout=30) for _ in range(3)]
        assert {status(each) for each in crowd} == {503}
        first.close()
        assert status(crowd[0]) == 200
        for each in crowd:
            each.close()
