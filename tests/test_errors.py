"""How programs end: one sentence for what the user can solve, a traceback for what is a fault of ours."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gnm.errors import ConfigError, DataError, exit_on_error

BOUNDS = "from gnm.errors import exit_on_error\nwith exit_on_error():\n    "


def ended(error):
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise error
    return str(end.value)


def run(body, **environment):
    command = [sys.executable, "-c", BOUNDS + body]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **pipes, env=os.environ | environment)


def test_an_error_of_ours_is_its_sentence():
    assert ended(DataError("it is empty")) == "error: it is empty"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "name is too long"),
        (errno.EACCES, "permission denied"),
        (errno.EISDIR, "it is a folder"),
        (errno.ENOTDIR, "is a file, not a folder"),
    ],
)
def test_files_that_cannot_be_written_are_named(number, told):
    assert ended(OSError(number, "no", "/a/x.mem")).startswith("error: cannot use /a/x.mem: ")
    assert told in ended(OSError(number, "no", "/a/.x.mem.abcd1234.part"))
    assert "cannot use /a/x.mem: " in ended(OSError(number, "no", "/a/.x.mem.abcd1234.part"))


def test_torchrun_tells_the_sentence_last(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit, match="error: loop.steps: is 0"), exit_on_error():
        raise ConfigError("loop.steps: is 0")
    failed = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert "error: loop.steps: is 0" in str(ChildFailedError("gnm.train", {0: failed}))
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    with pytest.raises(SystemExit, match="error: loop.steps: is 0"), exit_on_error():
        raise ConfigError("loop.steps: is 0")


def test_a_full_disk_is_told_whatever_library_met_it():
    assert "a file cannot be written: the disk is full" in ended(RuntimeError("I/O error: no space (os error 28)"))
    assert "a file cannot be written: the disk is full" in ended(OSError(errno.ENOSPC, "no space"))


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EBADF, "ours")])
def test_a_fault_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)), exit_on_error():
        raise error


def test_a_reader_that_goes_away_ends_the_program_quietly():
    process = run("for _ in range(200000): print('a line')")
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(60) == 141 and told == b""


def test_a_reader_that_is_gone_before_the_last_line_ends_the_program_quietly():
    """The line is in Python's buffer, which Python would write once more as it ends."""
    process = run("import sys; sys.stdin.read(); print('a line')", PYTHONUNBUFFERED="")
    process.stdout.close()
    process.stdin.close()
    told = process.stderr.read()
    assert process.wait(60) == 141 and told == b""


def test_an_output_without_room_is_no_reason_to_do_the_work_again():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", BOUNDS + "print('a line')"]
        environment = os.environ | {"PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert done.returncode == 1 and done.stderr.startswith(b"error: the work is done, but its output cannot be written")


def test_ctrl_c_ends_the_program_quietly():
    process = run("import os, signal, time\n    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                  "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)")  # fmt: skip
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130


def test_what_the_output_cannot_show_becomes_a_question_mark():
    process = run("print('a \\u2014 b')", PYTHONIOENCODING="ascii")
    assert process.communicate(timeout=60) == (b"a ? b\n", b"") and process.returncode == 0


@pytest.mark.parametrize("kind", ["atomic_path", "atomic_folder"])
def test_a_program_that_is_terminated_removes_what_it_was_writing(tmp_path, kind):
    body = f"import time\n    from gnm.files import {kind}\n    with {kind}({str(tmp_path / 'f')!r}):\n"
    process = run(f"{body}        print('writing', flush=True)\n        time.sleep(60)")
    assert process.stdout.readline() == b"writing\n" and len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM and process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


def test_sigterm_is_the_programs_own_again_afterwards():
    with exit_on_error():
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
