"""What the write of a document should do, as training and its losses see it."""

from collections.abc import Sequence
from dataclasses import dataclass

from gnm.data.segments import is_wanted, split_segments
from gnm.data.types import Step


@dataclass(frozen=True, slots=True)
class WriteLabels:
    """What the write of `document` under `instruction` should do.

    wanted: of each segment of the document (`split_segments`), whether it is to be stored; None if that is not known.
    refused: of each segment, whether it states facts that are to be refused.
    is_rule: whether the instruction is itself to be stored, as a rule for later answers.
    revoked: for each earlier document, oldest first, whether each of its segments no longer holds after this one.
    revocations: instructions that take something back; with each, whether it takes back each segment of the document.

        labels = label_writes(episode.steps)
        loss = learner.selection_loss(labels)
    """

    document: str
    instruction: str
    wanted: tuple[bool, ...] | None
    refused: tuple[bool, ...]
    is_rule: bool
    revoked: tuple[tuple[bool, ...], ...]
    revocations: tuple[tuple[str, tuple[bool, ...]], ...]


def label_writes(steps: Sequence[Step]) -> tuple[WriteLabels, ...]:
    """The labels of each document of a sequence."""
    segments = [split_segments(step.document.strip()) for step in steps]
    return tuple(
        WriteLabels(
            document=step.document,
            instruction=step.instruction,
            wanted=None if step.wanted is None else _among(segments[t], step.wanted),
            refused=_among(segments[t], step.refused),
            is_rule=step.is_rule,
            revoked=tuple(_among(earlier, step.revokes) for earlier in segments[:t]),
            revocations=tuple((text, _among(segments[t], taken)) for text, taken in step.revocations),
        )
        for t, step in enumerate(steps)
    )


def _among(segments: Sequence[str], wanted: frozenset[str]) -> tuple[bool, ...]:
    return tuple(is_wanted(segment, wanted) for segment in segments)
