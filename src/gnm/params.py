"""Schemas of params.yaml: one for training, one for evaluation. Every key is commented in the experiments' files."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from gnm.config import StrictModel
from gnm.data.people.episodes import PeopleSettings, Share
from gnm.data.people.written import WrittenKind
from gnm.data.sampling import Sampling
from gnm.data.sequences import Formats, Length, SequenceSettings, TargetType
from gnm.data.targets import FACT_TYPES, Groups
from gnm.errors import ConfigError
from gnm.learners import LearnerSettings
from gnm.models.lora import LoraSettings
from gnm.training.loop import Positive, Sequences, TrainLoop
from gnm.training.optimizer import Optimisation


def _plain_word(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise ValueError("the name becomes a folder's and stands in shell commands; use letters, digits, - and _")
    return name


MethodName = Annotated[str, AfterValidator(_plain_word)]


class BackboneSettings(StrictModel):
    """Which decoder, in which precision, where."""

    name: str
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    source: str | None = None
    device: str = "auto"


class Distributed(StrictModel):
    """Processes of a machine, for dvc.yaml's command; the GPUs that they see, such as "0,1" (None: all).

    shard: in training each process holds a share of the frozen weights, not all of them.
    drawers: processes that draw training steps ahead, for a GPU that would wait; 0: each is drawn when it is due.
    """

    nproc_per_node: Annotated[int, Field(gt=0, le=1024, strict=True)] = 1
    cuda_visible_devices: Annotated[str, Field(pattern=r"^[A-Za-z0-9,:/-]*$")] | None = None
    shard: bool = False
    drawers: Annotated[int, Field(ge=0, le=64)] = 0


class TrainData(StrictModel):
    """Document files."""

    train: Annotated[list[Path], Field(min_length=1)]
    validation: Path


class Written(StrictModel):
    """Documents written one by one (`gnm.data.people.written`): a `share` of the sequences in people's words.

    kinds: how often a kind of instruction is drawn in training before the others of its document, in proportion; 1 for
    those not named.
    """

    share: Share
    kinds: dict[WrittenKind, Annotated[float, Field(gt=0)]] = {}
    train: Path
    validation: Path


class People(PeopleSettings):
    """Sequences in people's words, of which a training has so large a `share`.

    train, validation: files of categorised facts (the pipeline's first stage). written: those of them that were written
    one by one; None for none.
    """

    share: Share
    train: Path
    validation: Path
    written: Written | None = None


class TargetSettings(StrictModel):
    """What instructions may be about."""

    target_types: Annotated[list[TargetType], Field(min_length=1)]
    groups: Groups
    eligible_formats: Formats = []


class Replay(StrictModel):
    """Sequences of an earlier training among those of this one: a `share` of them has the targets that it had.

    The others are the same as without replay, so trainings with different shares have the same steps to compare.
    """

    share: Share
    targets: TargetSettings


class Methods(StrictModel):
    """What training and evaluation share: methods that meet the same sequences, on one backbone or each on its own."""

    backbone: BackboneSettings
    methods: dict[MethodName, LearnerSettings]
    distributed: Distributed = Distributed()

    def method(self, name: str) -> LearnerSettings:
        """The settings of one method. Raises ConfigError if there is none of this name."""
        if name not in self.methods:
            raise ConfigError(f"methods has no {name!r}; it has: {', '.join(self.methods)}")
        return self.methods[name]

    def backbone_of(self, name: str) -> dict[str, str | None]:
        """The arguments of gnm.weights.backbones.load_backbone for one method, but for the device."""
        own = self.method(name).backbone
        source = None if own else self.backbone.source
        return {"name": own or self.backbone.name, "dtype": self.backbone.dtype, "source": source}


class TrainParams(Methods):
    """params.yaml of a training: each of `methods` is trained on the same sequences, into `output`/NAME.

    A method's `adapter` is the one that its training starts from. lora: None for a memory model with adapters, and for
    a method that leaves the backbone as it is (latent_bank). train_adapters: false leaves the adapters that training
    starts from as they are; only what a method has beside them learns. selection_only: no question is asked, and only
    selecting is learned: by the write gates, and by an adapter with which they look at texts in a pass of their own; it
    begins as a copy of the adapter that training starts from. answers_only: selecting stays as it is, the adapter that
    selects with its gates; all else learns. first_layer: adapters learn in the layers from this one on; in those below
    they stay as they are, and no pass keeps anything for a gradient there.
    """

    seed: int
    lora: LoraSettings | None = None
    train_adapters: bool = True
    selection_only: bool = False
    answers_only: bool = False
    first_layer: Annotated[int, Field(ge=0)] = 0
    data: TrainData
    people: People | None = None
    targets: TargetSettings
    replay: Replay | None = None
    sampling: Sampling
    loop: TrainLoop
    opt: Optimisation
    output: Path

    @model_validator(mode="after")
    def _learns_something(self) -> "TrainParams":
        if self.selection_only and self.answers_only:
            raise ValueError("selection_only and answers_only together leave nothing to learn; set one of them")
        if self.answers_only and self.loop.answers_every > 1:
            raise ValueError("answers_only: steps without questions learn selecting alone; set loop.answers_every to 1")
        return self

    def asks(self, step: int) -> bool:
        """Whether a step asks questions."""
        return not self.selection_only and self.loop.asks(step)

    def sequences(
        self, split: Literal["train", "test"], length: int, curriculum: bool = False, replayed: bool = False
    ) -> SequenceSettings:
        """The settings of training ("train") or validation ("test": held-out phrasing, fixed sampling) sequences.

        curriculum: those of the first steps. replayed: those of the earlier training that `replay` names.
        """
        own = {"phrasings": 1, "sampling": self.loop.curriculum.sampling} if curriculum else {"sampling": self.sampling}
        if curriculum and self.loop.curriculum.target_types:
            own["target_types"] = self.loop.curriculum.target_types
        common = {"sequence_length": length, "unlearning": self.loop.unlearning, "split": split}
        targets = self.replay.targets if replayed else self.targets
        return SequenceSettings(**{**targets.model_dump(), **common, **own})


class EvaluationLoop(StrictModel):
    """How many sequences of how many documents, and how answers are generated.

    ask_every: questions are asked after every so many documents, and after the last. forget: after all that the first
    "document" is forgotten, or an "instruction" takes back what it taught, and all questions are asked once more.
    """

    sequences: Sequences
    sequence_length: Length
    unlearning: bool
    sequences_at_once: Positive
    max_new_tokens: Positive
    ask_every: Positive = 1
    forget: Literal["document", "instruction"] | None = None


class EvaluateParams(Methods):
    """params.yaml of an evaluation: each method of `methods` is evaluated on the same sequences.

    Every one of `seeds` draws `loop.sequences` of them.
    """

    seeds: Annotated[list[int], Field(min_length=1)]
    data: Annotated[list[Path], Field(min_length=1)]
    targets: TargetSettings
    sampling: Sampling
    loop: EvaluationLoop
    output: Path

    @model_validator(mode="after")
    def _can_be_taken_back(self) -> "EvaluateParams":
        others = sorted({*self.targets.target_types} - {*FACT_TYPES})
        if self.loop.forget == "instruction" and others:
            raise ValueError(f"loop.forget: instruction takes back facts; targets.target_types has {', '.join(others)}")
        return self

    def sequences(self) -> SequenceSettings:
        """The settings of the evaluation's sequences."""
        return SequenceSettings(
            **self.targets.model_dump(),
            sequence_length=self.loop.sequence_length,
            unlearning=self.loop.unlearning,
            split="test",
            sampling=self.sampling,
        )


class PeopleParams(Methods):
    """params.yaml of an evaluation on probes (`gnm.evaluate_people`), each written into a memory of its own.

    Either `probes`, a file of them, or `written`, a file of documents written one by one, of which probes are made.
    """

    probes: Path | None = None
    written: Path | None = None
    max_new_tokens: Positive
    output: Path

    @model_validator(mode="after")
    def _one_source(self) -> "PeopleParams":
        if (self.probes is None) == (self.written is None):
            raise ValueError("give either probes or written")
        return self
