"""Runs `python -m MODULE` and `torchrun ... -m MODULE` in forks of one process that has imported everything.

It has also read and compiled what every program does once: tables of the package, peft's and transformers' patterns.

Starting Python, torch and DVC takes seconds; a fork takes some milliseconds. `commands(folder)` makes programs of these
two names that ask the server to run what they were asked to; the rest is theirs: folder, environment, input and output,
exit status. A process of torchrun's is alone in its group here. Many are tested in test_distributed.py.
What a stage of DVC opens to read goes to the file that $READ_LOG names.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from gnm.data.instructions import load_phrasings
from gnm.data.people.grammar import load_grammar
from gnm.data.taxonomy import load_taxonomy
from gnm.weights.backbones import load_backbone

IMPORTED = ("dvc.cli", "dvc.commands.repro", "dvc.repo", "dvclive", "gnm.demo", "gnm.train", "gnm.evaluate")
IMPORTED += ("gnm.evaluate_people", "gnm.analysis.report", "gnm.probing.probe", "gnm.data.pipelines")
SECONDS = 900  # to import all of it on a machine that others use too

CLIENT = """#!{python} -IS
import json, os, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
sys.exit(int(server.recv(16) or b"1"))
"""


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """A folder in `folder`, for the front of PATH, with `python` and `torchrun`; the server lives as long."""
    address, programs = str(folder / "server"), folder / "bin"
    programs.mkdir()
    for name in ("python", "torchrun"):
        (programs / name).write_text(CLIENT.format(python=sys.executable, address=address))
        (programs / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address])
    try:
        end = time.monotonic() + SECONDS
        while not Path(address).exists():
            assert server.poll() is None and time.monotonic() < end, "the fork server did not start"
            time.sleep(0.05)
        yield programs
    finally:
        server.terminate()
        server.wait()


def serve(address: str) -> None:
    """Import everything, then fork for everyone who asks, until terminated."""
    for module in IMPORTED:
        import_module(module)
    for load in (load_taxonomy, load_phrasings, load_grammar):
        load()
    load_backbone("tiny-gnm", dtype="float32")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address + ".new")
    listening.listen(64)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: their status goes to who asked
    while True:
        asking, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            run(asking)
        asking.close()


def run(asking: socket.socket) -> None:
    """Become the process that was asked for, and say its exit status; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(asking, 4, 3)
    with asking.makefile("rb") as sent:
        program, arguments, folder, environment = json.loads(sent.read(int.from_bytes(size, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if program == "torchrun":
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    status = 1
    try:
        module = arguments[arguments.index("-m") + 1]
        if "READ_LOG" in environment and "DVC_STAGE" in environment:
            log_reading(Path(environment["READ_LOG"]), f"{folder}/{environment['DVC_STAGE'].split(':')[-1]}")
        sys.argv = [module, *arguments[arguments.index("-m") + 2 :]]
        if not hasattr(sys.modules.get(module), "__path__"):  # a module is run anew, a package's __main__ is new anyway
            sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        asking.sendall(str(status).encode())
        os._exit(status)


def log_reading(log: Path, stage: str) -> None:
    """Append a line with `stage` and a path to `log` for each file that Python opens to read.

    What a library opens without Python (tensors, tables) is not seen; the files beside it are.
    """
    lines, seen = log.open("a", encoding="utf-8", buffering=1), set()

    def heard(event: str, given: tuple) -> None:
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR) and isinstance(given[0], (str, os.PathLike)):
            path = os.path.abspath(given[0])
            if path not in seen and os.path.isfile(path):
                seen.add(path)
                lines.write(f"{stage}\t{path}\n")

    sys.addaudithook(heard)


if __name__ == "__main__":
    serve(sys.argv[1])
