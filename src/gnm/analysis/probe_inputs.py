"""What memory probes read: the slots that a document wrote, and states of phrases and objects to compare them with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from gnm.analysis.probe_facts import Case, Objects
from gnm.analysis.probes import Examples
from gnm.learners.memory import MemoryLearner
from gnm.models.taps import InputTap


def read_examples(
    learner: MemoryLearner, cases: Sequence[Case], objects: Objects, layers: Sequence[int], at_once: int, label: str
) -> list[Examples]:
    """The facts of `cases` in the memories that their documents wrote, for each of `layers`.

    at_once: texts in a batch; changes speed only. label: of the progress bar.
    """
    slots = written_slots(learner, cases, layers, at_once, label)
    phrases = last_states(learner, [fact.phrase for case in cases for fact in case.facts], layers, at_once)
    document = torch.repeat_interleave(torch.tensor([len(case.facts) for case in cases]))
    asked = objects.stated_in(cases)
    return [
        Examples([each[place] for each in slots], phrases[:, place], document, *asked) for place in range(len(layers))
    ]


@torch.no_grad()
def written_slots(
    learner: MemoryLearner, cases: Sequence[Case], layers: Sequence[int], at_once: int, label: str = ""
) -> list[Tensor]:
    """What each document, written alone, left in memory at `layers`: [L, S, E] each, on the CPU, in its dtype."""
    found, bar = [], tqdm(total=len(cases), desc=label, mininterval=5)
    for start in range(0, len(cases), at_once):
        some = cases[start : start + at_once]
        empty = learner.reset(range(start, start + len(some)))
        state = learner.write(empty, [c.document for c in some], [c.instruction for c in some]).state
        own = state.valid & (state.source >= 0)
        found += [state.slots[row, layers][:, own[row]].cpu() for row in range(len(some))]
        bar.update(len(some))
    bar.close()
    return found


@torch.no_grad()
def last_states(learner: MemoryLearner, texts: Sequence[str], layers: Sequence[int], at_once: int) -> Tensor:
    """The input of `layers` at the last token of each text, read at the start of a conversation: [N, L, E], CPU."""
    reader, decoder = learner.reader, learner.lm.decoder
    head, found, each = reader.head(1), [], list(dict.fromkeys(texts))
    for start in range(0, len(each), at_once):
        ids, mask = reader.encode(each[start : start + at_once])
        tap, rows = InputTap(), torch.arange(len(ids), device=ids.device)
        reading, positions = decoder.start(head.rows(torch.zeros_like(rows)), mask[:, None])
        decoder.run(ids[:, None], positions, reading, tap)
        found.append(tap.slots[rows, :, mask.sum(-1) - 1][:, layers].cpu())
    number = {text: place for place, text in enumerate(each)}
    return torch.cat(found)[[number[text] for text in texts]]
