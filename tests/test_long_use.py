"""The programs that try a memory in long use and under faults, on a few documents and kills."""

import runpy

import pytest


def run(project, name, *arguments):
    """The code that a program of `benchmarks` ends with."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(project / "benchmarks" / name))["main"](list(arguments))
    return ended.value.code


def test_writes_stay_as_fast_and_history_and_process_bounded(project, capsys):
    assert not run(project, "long_use.py", "--documents", "60", "--questions", "100", "--capacity", "300")
    said = capsys.readouterr().out
    assert said.count("ms a write") == 5 and "100 questions" in said


def test_no_accepted_write_is_lost_to_writers_at_once_or_kills(project, capsys):
    assert not run(project, "memory_faults.py", "--writers", "4", "--kills", "8", "--disk", "0")
    said = capsys.readouterr().out
    assert "4 writers at once: 4 writes accepted, 0 lost" in said and "8 kills: " in said
