"""Devices, and what a process does with memory that it frees."""

import platform
import subprocess
import sys

import pytest

from gnm.devices import pick_device
from gnm.errors import ConfigError

FAULTS_OF_ONE_MORE_TENSOR = """
import resource, torch
from gnm.devices import pick_device
pick_device("cpu")
fill = lambda: torch.ones(2**26, dtype=torch.uint8)
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_a_tensor_takes_the_pages_of_one_that_was_freed():
    said = subprocess.run([sys.executable, "-c", FAULTS_OF_ONE_MORE_TENSOR], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 20  # of 16,384 pages


@pytest.mark.parametrize("name, words", [("gpu", "is no device"), ("cuda", "torch finds none")])
def test_a_device_that_is_not_there_is_named(name, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=words):
        pick_device(name)
