"""How the service begins and ends: small pools, Ctrl+C, and requests that outlast it."""

import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from services import keys, running
from test_keeping import BERN

from gnm.serve import server
from gnm.serve.memory import ServedMemory


@pytest.fixture
def started(tmp_path):
    """Starts `gnm serve` on the tiny backbone; `slow` first waits where the model is loaded."""
    made = []

    def start(*options, slow=False):
        wait = "import time; from gnm import api\n"
        wait += "api.load = lambda *given, **options: print('loading', flush=True) or time.sleep(300)"
        heard = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background is deaf
        )
        code = f"{heard}\n{wait if slow else ''}\nfrom gnm.serve.program import main; main()"
        given = ["--memories", str(tmp_path), "--port", "0", "--backbone", "tiny", *options]
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


def test_ctrl_c_while_the_model_loads_ends_quietly(started):
    process = started(slow=True)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told


def test_a_pool_without_room_for_a_few_words_is_served_until_ctrl_c(started):
    process = started("--capacity", "1")
    assert re.match(r"http://127\.0\.0\.1:\d+/ ", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
    assert "a document of a few words does not fit" in told


def test_a_request_that_outlasts_the_service_is_told_that_it_may_have_been_done(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(server, "_LEAVE", 1)
    begun, answers, write = threading.Event(), [], ServedMemory.write

    def slow(self, *given):
        begun.set()
        time.sleep(5)
        return write(self, *given)

    monkeypatch.setattr(ServedMemory, "write", slow)
    with running(tmp_path, keys()) as service, service.client() as anna:
        asking = threading.Thread(target=lambda: answers.append(anna.post("/v1/memories/m/documents", json=BERN)))
        asking.start()
        assert begun.wait(120)
        service.server.should_exit = True
        asking.join(120)
    [answer] = answers
    assert answer.status_code == 503 and "may have been done" in answer.json()["error"]["message"]
    assert "Retry-After" not in answer.headers and (tmp_path / "anna" / "m.mem").exists()
    assert "Traceback" not in caplog.text + capfd.readouterr().err
