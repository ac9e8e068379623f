"""What memory probes read: the slots that a document wrote, and states of phrases and objects to compare them with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from gnm.data.segments import is_wanted
from gnm.learners.memory import MemoryLearner
from gnm.models.taps import InputTap
from gnm.probing.facts import Case, Objects
from gnm.probing.probes import Examples


@dataclass(frozen=True)
class DocumentSlots:
    """What a document left in memory. slots: [L, S, E]; facts: whether there is a slot of each fact's own line (also
    where the line cannot be told)."""

    slots: Tensor
    facts: tuple[bool, ...]


def read_examples(
    learner: MemoryLearner, cases: Sequence[Case], written: Sequence[DocumentSlots], objects: Objects,
    layers: Sequence[int], at_once: int,
) -> list[Examples]:  # fmt: skip
    """The facts of `cases` in the memories that their documents wrote, for each of `layers`.

    at_once: texts in a batch; changes speed, and rounding in bfloat16.
    """
    phrases = last_states(learner, [fact.phrase for case in cases for fact in case.facts], layers, at_once)
    document = torch.repeat_interleave(torch.tensor([len(case.facts) for case in cases]))
    asked = objects.stated_in(cases)
    return [
        Examples([each.slots[place] for each in written], phrases[:, place], document, *asked)
        for place in range(len(layers))
    ]


@torch.no_grad()
def write_alone(
    learner: MemoryLearner, cases: Sequence[Case], layers: Sequence[int], at_once: int, label: str = ""
) -> list[DocumentSlots]:
    """What each document, written alone, left in memory at `layers`; slots are on the CPU, in their dtype.

    at_once: documents in a batch; changes speed, and rounding in bfloat16. label: of the progress bar.
    """
    found, bar = [], tqdm(total=len(cases), desc=label, mininterval=5)
    for start in range(0, len(cases), at_once):
        some = cases[start : start + at_once]
        empty = learner.reset(range(start, start + len(some)))
        memory = learner.write(empty, [c.document for c in some], [c.instruction for c in some])
        state = memory.state
        own = state.valid & (state.source >= 0)
        for row, case in enumerate(some):
            segments = learner.segments(memory, row, case.document, case.instruction)
            stored = [each.text for each in segments if each.stored and each.of_document] if segments else None
            facts = (
                stored is None or fact.line is None or any(is_wanted(text, [fact.line]) for text in stored)
                for fact in case.facts
            )
            found.append(DocumentSlots(state.slots[row, layers][:, own[row]].cpu(), tuple(facts)))
        bar.update(len(some))
    bar.close()
    return found


@torch.no_grad()
def last_states(learner: MemoryLearner, texts: Sequence[str], layers: Sequence[int], at_once: int) -> Tensor:
    """The input of `layers` at the last token of each text, read at the start of a conversation: [N, L, E], CPU."""
    reader, decoder = learner.reader, learner.lm.decoder
    preamble, found, each = reader.preamble(1), [], list(dict.fromkeys(texts))
    for start in range(0, len(each), at_once):
        text = reader.encode(each[start : start + at_once])
        tap, rows = InputTap(), torch.arange(len(text), device=text.ids.device)
        decoder.read(preamble.rows(torch.zeros_like(rows)), text.ids[:, None], text.mask[:, None], tap)
        found.append(tap.slots[rows, :, text.mask.sum(-1) - 1][:, layers].cpu())
    number = {text: place for place, text in enumerate(each)}
    return torch.cat(found)[[number[text] for text in texts]]
