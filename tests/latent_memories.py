"""Memories to test, and texts that are written into them."""

import torch

from gnm.memory.pool import PoolSettings
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from stock import (
    QUESTIONS,
    blocks,
    reader_of,
)

PAIRS = [blocks(3), ["A much longer text, so that rows are ragged. " * 2, "b", blocks(1)[0]]]  # per row: 3 documents


ASKED = [list(QUESTIONS[:3]), list(QUESTIONS[1:2])]


def memory_of(backbone, reads="all", capacity=None, eviction="random", through=True, **chat):
    reader = reader_of(backbone, **chat)
    pool, write = PoolSettings(capacity=capacity, eviction=eviction), WriteSettings(reads=reads)
    return MemoryLM(reader.decoder, reader.chat.preamble, pool, write, through), reader


def written(lm, reader, rows, seeds=None, padding=0, token=0):
    """All documents of `rows` [B][documents] written one after another; `padding` columns of `token` are appended."""
    memory = lm.initial(torch.tensor(seeds or range(len(rows))))
    for texts in zip(*rows, strict=True):
        text = reader.encode(texts)
        ids = torch.nn.functional.pad(text.ids, (0, padding), value=token)
        memory = lm.write(memory, TokenBatch.of(ids, torch.nn.functional.pad(text.mask, (0, padding), value=False)))
    return memory


def close(ours, theirs, atol=1e-4):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)
