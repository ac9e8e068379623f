"""The programs that try a memory in long use and under faults, on a few documents and kills."""

import subprocess
import sys


def said_by(project, name, *arguments) -> str:
    """What a program of `benchmarks` prints, which ends well; in a process of its own, as it may start others."""
    command = [sys.executable, project / "benchmarks" / name, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_writes_stay_as_fast_and_history_and_process_bounded(project):
    said = said_by(project, "long_use.py", "--documents", "60", "--questions", "100", "--capacity", "300")
    assert said.count("ms a write") == 5 and "100 questions, second round" in said


def test_no_accepted_write_is_lost_to_writers_at_once_or_kills(project):
    said = said_by(project, "memory_faults.py", "--writers", "4", "--kills", "8", "--disk", "0")
    assert "4 writers at once: 4 writes accepted, 0 lost" in said and "8 kills: " in said
