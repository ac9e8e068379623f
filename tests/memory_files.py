"""States that are saved to memory files."""

import torch
from safetensors.torch import load_file, save_file

from gnm.memory import MemoryState

NOTES = {"instructions": ["Learn all.", "Nür Sprachen\n"], "count": 2}


def some_state(dtype=torch.float32):
    valid = torch.tensor([[True, True, False], [True, False, True]])
    source = torch.tensor([[-1, 0, -1], [-1, -1, 4]])
    return MemoryState(torch.randn(2, 3, 3, 5).to(dtype), valid, source, torch.tensor([7, 2**40]), written=5)


def changed_header(**changes):
    def spoil(path):
        header = {"format": "gnm-memory-1", "model": "a", "written": "5", "notes": "{}"} | changes
        save_file(load_file(path), path, metadata={k: v for k, v in header.items() if v is not None})

    return spoil


ONES = torch.ones(2, 3)
