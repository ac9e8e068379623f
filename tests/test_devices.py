"""Devices, and what a process does with memory that it frees."""

import platform
import subprocess
import sys

import pytest
import torch

from gnm.devices import computed_in, pick_device
from gnm.errors import ConfigError
from gnm.weights.backbones import load_backbone

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


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_computed_in_float32_where_a_cpu_lacks_it(monkeypatch, native):
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: native)
    half, full = torch.bfloat16, torch.float32
    assert computed_in(half, "cpu") == (half if native else full)
    assert (computed_in(half, "cuda"), computed_in(full, "cpu")) == (half, full)
    backbone = load_backbone("tiny")
    assert backbone.model.dtype == (half if native else full)
    assert all(torch.equal(p, p.bfloat16().to(p.dtype)) for p in backbone.model.parameters())
