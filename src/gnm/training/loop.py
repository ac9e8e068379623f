"""Settings of a training's steps: how many, of which sequences, how often they are validated and saved."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gnm.config import StrictModel
from gnm.data.sampling import Sampling
from gnm.data.sequences import Length, TargetType

Positive = Annotated[int, Field(gt=0, le=10**8)]
Sequences = Annotated[int, Field(gt=0, le=10**5)]
"""A number of sequences; all are drawn before the work starts."""


class Curriculum(StrictModel):
    """The first, easier steps of a training: one document a sequence, of at most `facts` facts, one phrasing a target.

    target_types: None for those of all steps.
    """

    steps: Positive
    facts: Positive
    documents_per_step: Positive
    sampling: Sampling
    target_types: Annotated[list[TargetType], Field(min_length=1)] | None = None


class TrainLoop(StrictModel):
    """What a training step is, and how long training goes on.

    answers_every: every so many-th step asks questions; the others train only what is stored, in a fraction of the
    time.
    """

    steps: Positive
    curriculum: Curriculum | None = None
    documents_per_step: Positive
    instructions_per_document: Positive = 1
    sequence_length: Length | tuple[Length, Length]
    unlearning: bool
    gradients_through: Literal["last", "all"]
    max_queries_per_document: Positive
    answers_every: Positive = 1
    validate_every: Positive
    validation_sequences: Sequences
    patience: Positive
    checkpoint_every: Positive
    gradient_checkpointing: bool = False

    @property
    def longest(self) -> int:
        """Documents of the longest sequences."""
        return self.sequence_length if isinstance(self.sequence_length, int) else self.sequence_length[1]

    def in_curriculum(self, step: int) -> bool:
        """Whether a step is one of the first ones."""
        return self.curriculum is not None and step < self.curriculum.steps

    def asks(self, step: int) -> bool:
        """Whether a step asks questions; the last of each `answers_every` does."""
        return (step + 1) % self.answers_every == 0

    def sequences_of_step(self, length: int, curriculum: bool = False) -> int:
        """Sequences in a step that draws `length` documents a sequence."""
        documents = self.curriculum.documents_per_step if curriculum else self.documents_per_step
        return documents // (length * self.instructions_per_document) * self.instructions_per_document

    @property
    def fewest_sequences(self) -> int:
        """Sequences of the step that has fewest."""
        kinds = [(self.longest, False), (1, True)] if self.curriculum else [(self.longest, False)]
        return min(self.sequences_of_step(*kind) for kind in kinds)

    @model_validator(mode="after")
    def _one_sequence_fits(self) -> "TrainLoop":
        kinds = [("", self.longest, False), ("curriculum.", 1, True)]
        for where, length, curriculum in kinds if self.curriculum else kinds[:1]:
            if not self.sequences_of_step(length, curriculum):
                raise ValueError(
                    f"{where}documents_per_step is too small: a sequence of {length} documents, each under "
                    f"{self.instructions_per_document} instructions, takes {length * self.instructions_per_document}"
                )
        return self
