"""Malformed requests, and a kill in the middle of work: small versions of the benchmarks' own."""

import asyncio
import sys
from pathlib import Path

import pytest
from services import running

from gnm.serve.keys import Keys

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import serve_load
import serve_malformed


@pytest.fixture
def open_service(tmp_path):
    with running(tmp_path / "memories", Keys()) as started:
        yield started


def test_malformed_requests_are_refused_and_the_service_goes_on(open_service, caplog, capfd):
    address = open_service.url.removeprefix("http://").split(":")
    found = asyncio.run(serve_malformed.send_all((address[0], int(address[1])), 300, seed=3, patience=2))
    assert found.total() == 300 and {"200", "400", "404", "405", "409", "413"} <= found.keys() and "500" not in found
    with open_service.client(None) as client:
        assert client.get("/health").json()["status"] == "ok"
    assert "Traceback" not in caplog.text + capfd.readouterr().err
    assert all(path.name in ("local", ".local") for path in open_service.folder.iterdir())


@pytest.mark.slow
def test_after_a_kill_no_accepted_write_is_lost_and_none_is_half_done(tmp_path):
    folder = tmp_path / "memories"
    with serve_load.Server(folder) as server:
        accepted = asyncio.run(serve_load.load(server.url, memories=8, clients=6, requests=60, end=server.kill))
    assert accepted.seconds.keys() == {"write", "ask", "forget"}
    with running(folder, Keys()) as again:
        found, lost, half = serve_load.compare(f"{again.url}/", accepted)
    assert found > 0 and (lost, half) == (0, 0)
