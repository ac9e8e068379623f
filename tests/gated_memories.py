"""Memories with write gates that tell segments apart, and how tests write them."""

import torch

from gnm.data.segments import split_segments
from gnm.memory.pool import PoolSettings
from gnm.models.gates.write import GateSettings
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from stock import QUESTIONS, reader_of

ASKED = [list(QUESTIONS)]
SEGMENT = torch.tensor([[0, 0, 1, 1, 1, 2, -1], [0, 1, 1, 1, 1, 1, 1]])
LINES = "Instruction: Learn some.\nDocument:\n* Oslo is red\n* Rome is tin\n* Paris is new\n* Lima is cold\n\n"
LOGITS = torch.tensor([[-1.0, 2.0, 0.5], [3.0, -2.0, 9.0]])  # the second text has two segments only


def gated(backbone, pool=None, **gates):
    """A memory with gates that tell segments apart (random weights), and its reader."""
    reader = reader_of(backbone)
    settings = WriteSettings(reads="nothing", gates=GateSettings(**{"threshold": 0.05, **gates}))
    lm = MemoryLM(reader.decoder, reader.chat.preamble, pool or PoolSettings(), settings)
    if lm.gating and lm.gating.gate:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            lm.gating.gate.weight.copy_(torch.randn(lm.gating.gate.weight.shape, generator=generator) * 5)
            lm.gating.gate.bias.zero_()
    return lm, reader


def write(lm, reader, memory, texts):
    """Each text's first two segments are its instruction and the line in front of its document."""
    return lm.write(memory, tokens_of(reader, texts))


def tokens_of(reader, texts):
    rows = [split_segments(text) for text in texts]
    return reader.encode_segments(rows, [[number >= 2 for number in range(len(row))] for row in rows])


def written(lm, reader, texts, seed=0):
    """One memory that was given `texts` one after another."""
    memory = lm.initial(torch.tensor([seed]))
    for text in texts:
        memory = write(lm, reader, memory, [text])
    return memory


def own(state, row=0):
    """The valid slots of a row and their strengths."""
    keep = state.valid[row]
    return state.slots[row][:, keep], state.strength[row][keep]
