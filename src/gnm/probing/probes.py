"""Probes that read a fact's stated object out of memory slots, and their training.

- The object is to be picked among others of its subcategory. A candidate's score is a soft maximum over slots of how
  well a slot fits the fact's phrase and the candidate (late interaction: ColBERT, Khattab and Zaharia 2020, sec. 3.3;
  keys and values of a slot: key-value memory networks, Miller et al. 2016).
- All projections start as one, so that an untrained probe already compares like with like; a few hundred documents
  are enough to train it.
- One learned slot is in every memory: what an empty memory is read as, and what an object's frequency goes into.
- Slots are read in float32, each feature scaled by what it is in training. No global random state is used.

Shape letters: D documents, S slots, E hidden size, N facts, C candidates, M objects, P size of the probe.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gnm.config import StrictModel

_SCALE = 2.0  # logarithm of what cosines are multiplied by at the start

Positive = Annotated[int, Field(gt=0)]


class ProbeTraining(StrictModel):
    """How a probe is trained: AdamW, cross-entropy over candidates that are drawn anew in every epoch."""

    size: Positive = Field(128, description="of the space that slots, phrases and objects are compared in")
    epochs: Positive = 20
    documents_per_step: Positive = 8
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)


@dataclass(frozen=True)
class Examples:
    """Facts of documents, and the memories that these wrote, at one layer.

    slots: D tensors [S, E], in any float dtype; S may be 0. phrases: [N, E]. document: [N] long, below D.
    stated: [N] long, the number of the stated object. weights: [N, M] float32, how often each object is to be drawn
    as another candidate for the fact; 0: never.
    """

    slots: Sequence[Tensor]
    phrases: Tensor
    document: Tensor
    stated: Tensor
    weights: Tensor


class SlotProbe(nn.Module):
    """Scores candidate objects of facts by the slots of a memory. `seed` decides its initial weights."""

    def __init__(self, hidden_size: int, size: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(hidden_size, size, generator=generator) / hidden_size**0.5
        names = ("key", "key_before", "value", "phrase", "object")
        self.projections = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in names})
        self.null_key, self.null_value = (nn.Parameter(torch.randn(size, generator=generator)) for _ in range(2))
        self.log_scale = nn.Parameter(torch.full((2,), _SCALE))
        for kind in ("slots", "phrases", "objects"):
            self.register_buffer(f"{kind}_mean", torch.zeros(hidden_size))
            self.register_buffer(f"{kind}_spread", torch.ones(hidden_size))

    def scale_to(self, kind: str, parts: Iterable[Tensor]) -> None:
        """Take mean and spread of "slots", "phrases" or "objects" from `parts`, [.., E] each; nothing if all empty."""
        count, total, squares = 0, 0.0, 0.0
        for part in parts:
            rows = part.double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        if count:
            mean = total / count
            getattr(self, f"{kind}_mean").copy_(mean)
            getattr(self, f"{kind}_spread").copy_((squares / count - mean.square()).clamp(min=1e-12).sqrt())

    def forward(self, slots: Tensor, valid: Tensor, document: Tensor, phrases: Tensor, objects: Tensor) -> Tensor:
        """Scores [N, C] of objects [N, C, E], for facts with phrases [N, E] of documents `document` [N] long.

        slots: [D, S, E]; valid: [D, S] bool, false at the end of a row where there is padding.
        """
        slots, phrases, objects = (
            (part.float() - getattr(self, f"{kind}_mean")) / getattr(self, f"{kind}_spread")
            for kind, part in (("slots", slots), ("phrases", phrases), ("objects", objects))
        )
        project = self.projections
        before = nn.functional.pad(slots, (0, 0, 1, 0))[:, :-1]  # an object stands behind what it is said of
        keys = slots @ project["key"] + before @ project["key_before"]
        keys, values = (
            nn.functional.normalize(torch.cat((null.expand(len(slots), 1, -1), own), dim=1), dim=-1)[document]
            for null, own in ((self.null_key, keys), (self.null_value, slots @ project["value"]))
        )
        asked = nn.functional.normalize(phrases @ project["phrase"], dim=-1)
        named = nn.functional.normalize(objects @ project["object"], dim=-1)
        to_phrase, to_object = self.log_scale.exp()
        found = to_phrase * (keys @ asked[..., None])[..., 0]
        found = found.masked_fill(~nn.functional.pad(valid, (1, 0), value=True)[document], -torch.inf)
        return torch.logsumexp(found.log_softmax(-1)[..., None] + to_object * (values @ named.mT), dim=1)


def draw_candidates(stated: Tensor, weights: Tensor, others: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The stated object of each fact and up to `others` more, drawn without replacement by their weights.

    stated: [N] long; weights: [N, M]. Returns candidates [N, C] long, the stated one first, and which of them are
    there, [N, C] bool: a fact has fewer where fewer objects have a weight.
    """
    others = min(others, weights.shape[1] - 1)
    drawn = torch.multinomial(weights + 1e-12, others, generator=generator)  # as many as needed; those of none masked
    there = weights.gather(1, drawn) > 0
    return torch.cat((stated[:, None], drawn), 1), nn.functional.pad(there, (1, 0), value=True)


def fit(
    examples: Examples, objects: Tensor, others: int, settings: ProbeTraining, seed: int, device: torch.device
) -> SlotProbe:
    """A probe that was trained on `examples`; objects: [M, E], `others`: candidates beside the stated object."""
    probe = SlotProbe(objects.shape[1], settings.size, seed)
    probe.scale_to("slots", examples.slots)
    probe.scale_to("phrases", [examples.phrases])
    probe.scale_to("objects", [objects])
    probe.to(device)
    generator = torch.Generator().manual_seed(seed)
    steps = settings.epochs * -(-len(examples.slots) // settings.documents_per_step)
    optimizer = torch.optim.AdamW(probe.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(settings.epochs):
        order = torch.randperm(len(examples.slots), generator=generator).tolist()
        candidates, there = draw_candidates(examples.stated, examples.weights, others, generator)
        for scores, _ in _batches(probe, examples, objects, candidates, there, order, settings.documents_per_step):
            loss = -scores.log_softmax(-1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probe


@torch.no_grad()
def picked(
    probe: SlotProbe, examples: Examples, objects: Tensor, candidates: Tensor, there: Tensor, at_once: int
) -> Tensor:
    """Whether the stated object scores above every other candidate, [N] bool; a tie is none.

    objects, candidates, there: as in `fit` and `draw_candidates`. at_once: documents in a batch; changes speed,
    and rounding in bfloat16.
    """
    right = torch.zeros(len(examples.stated), dtype=torch.bool)
    order = list(range(len(examples.slots)))
    for scores, facts in _batches(probe, examples, objects, candidates, there, order, at_once):
        right[facts] = (scores[:, 0] > scores[:, 1:].amax(-1)).cpu()
    return right


def _batches(
    probe: Callable, examples: Examples, objects: Tensor, candidates: Tensor, there: Tensor, order: Sequence[int],
    size: int,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Scores [n, C] of the facts of `size` documents at a time, -inf where no candidate is there; and which facts."""
    device = next(probe.parameters()).device
    place = torch.full((len(examples.slots),), -1)
    for start in range(0, len(order), size):
        documents = order[start : start + size]
        place.fill_(-1)[documents] = torch.arange(len(documents))
        facts = (place[examples.document] >= 0).nonzero()[:, 0]
        if not len(facts):
            continue
        slots = nn.utils.rnn.pad_sequence([examples.slots[number] for number in documents], batch_first=True)
        sizes = torch.tensor([len(examples.slots[number]) for number in documents])
        valid = torch.arange(slots.shape[1]) < sizes[:, None]
        document, phrases = place[examples.document[facts]], examples.phrases[facts]
        inputs = (slots, valid, document, phrases, objects[candidates[facts]])
        scores = probe(*(part.to(device) for part in inputs))
        yield scores.masked_fill(~there[facts].to(device), -torch.inf), facts
