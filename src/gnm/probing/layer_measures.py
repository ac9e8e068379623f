"""What the memory analysis measures of written slots, layer by layer ("Tell Me What To Learn", 2026, memory analysis).

- Write invariance: how alike the slots of a fact are, whatever stands beside it.
- Compressibility: how few directions the slots of a fact's documents span.
- Selectivity index: how far the slots lie towards the object to learn, away from one to leave out.
- Change (ours): how far the slots of one document move when only the instruction changes.

Shape letters: N documents, L layers, S slots, E hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnm.probing.distracted import DistractedDocument
from gnm.probing.line_slots import END, OBJECT, STEM, LineSlots

MEASURES = (
    "write_invariance", "compressibility", "selectivity_index", "selectivity_index_paired",
    "change_learned", "change_left_out", "change_others",
)  # fmt: skip


def measures_of(
    documents: Sequence[DistractedDocument], original: Sequence[LineSlots], swapped: Sequence[LineSlots],
    directions: Tensor, components: int, fixed: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """MEASURES of the documents of one target, each [L]: means over its documents.

    original, swapped: what they left under the instruction about the target, and about the named distractor.
    directions: [N, L, E], from the state of the distractor's object to that of the target's, of length 1.
    fixed: whether every document has equally many slots, as the published memory has; write invariance then compares
    all of them, otherwise those of the target's line.
    `selectivity_index_paired` is the difference that the instruction makes, over slots that are no object's own.
    """
    pairs = list(zip(documents, original, swapped, strict=True))
    aligned = [own.every if fixed else own.of(each.about, STEM, OBJECT) for each, own, _ in pairs]
    found = {
        "write_invariance": mean_cosine(torch.stack([slots.flatten(1) for slots in aligned])),
        "compressibility": first_share(torch.cat([each.slots for each in original], 1), components),
    }
    plain = [each.slots.mean(1) for each in original]
    found["selectivity_index"] = _along(torch.stack(plain), directions)
    moved = [own.slots[:, own.part != OBJECT].mean(1) - other.slots[:, other.part != OBJECT].mean(1)
             for _, own, other in pairs]  # fmt: skip
    found["selectivity_index_paired"] = _along(torch.stack(moved), directions)
    for name, lines in (
        ("change_learned", lambda each: [each.about]),
        ("change_left_out", lambda each: [each.named]),
        ("change_others", lambda each: sorted(set(range(len(each.statements))) - {each.about, each.named})),
    ):
        changes = [
            relative_change(own.of(line, STEM, OBJECT, END), other.of(line, STEM, OBJECT, END))
            for document, own, other in pairs
            for line in lines(document)
        ]
        found[name] = torch.cat(changes, 1).mean(1)
    return found


def mean_cosine(flat: Tensor) -> Tensor:
    """Mean cosine between different rows of [N, L, F], by layer: [L]. NaN for a single row."""
    unit = nn.functional.normalize(flat, dim=-1).transpose(0, 1)
    count = flat.shape[0]
    total = (unit @ unit.mT).sum((1, 2)) - count  # a row with itself gives 1
    return total / (count * (count - 1)) if count > 1 else torch.full_like(total, torch.nan)


def first_share(slots: Tensor, components: int) -> Tensor:
    """Share of the variance of slots [L, S, E] that their first `components` singular values have, by layer: [L]."""
    centred = slots - slots.mean(1, keepdim=True)
    squares = torch.linalg.svdvals(centred).square()
    return squares[:, :components].sum(-1) / squares.sum(-1).clamp(min=torch.finfo(slots.dtype).tiny)


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """Distance of slots [L, S, E] from what they were, as a share of their own length: [L, S]."""
    return (after - before).norm(dim=-1) / before.norm(dim=-1)


def directions_between(targets: Tensor, others: Tensor) -> Tensor:
    """Unit vectors from states `others` to `targets`, [N, L, E] each."""
    return nn.functional.normalize(targets - others, dim=-1)


def _along(states: Tensor, directions: Tensor) -> Tensor:
    """Mean over documents of states [N, L, E] along their directions: [L]."""
    return (states * directions).sum(-1).mean(0)
