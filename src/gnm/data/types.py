"""The values that flow from facts to queries.

- All are frozen: a stage makes new values, it never edits those of the stage before.
- Objects are kept bare (no blank before or after); the blank between a phrase and its object is added where
  a sentence is built.
- A query keeps its answer bare and names the format it is expected in; `formatted_target` is what a learner
  should say, so the bare object stays at hand for metrics.
"""

from dataclasses import dataclass

from gnm.data.formats import apply_format

PARAPHRASE = "paraphrase"
NEIGHBOUR = "true_output_neighbor"
ATTRIBUTE = "false_output_neighbor"
GENERATION = "generation"
FUTURE = "future_paraphrase"
PAIR_TYPES = (PARAPHRASE, NEIGHBOUR, ATTRIBUTE, GENERATION)
REFUSAL_ANSWER = "Sorry"


@dataclass(frozen=True, slots=True)
class Fact:
    """One CounterFact record. `prompt` has one `{}`, for the subject; `true` and `false` are objects.

    relation: CounterFact's relation id, empty where a source names none.
    """

    fact_id: int
    subject: str
    prompt: str
    true: str
    false: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[str, ...]
    category: str
    subcategory: str
    attributes: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()
    relation: str = ""

    @property
    def phrase(self) -> str:
        """The prompt with the subject in its place: the statement without its object."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True, slots=True)
class Pair:
    """One question of a document record, before a target says what to answer. `type` is one of PAIR_TYPES."""

    input: str
    true_output: str
    false_output: str
    category: str
    subcategory: str
    type: str
    fact_id: int


@dataclass(frozen=True, slots=True)
class Document:
    """A document and the questions about its facts. `groupings`: the subcategories it was built from."""

    text: str
    pairs: tuple[Pair, ...]
    groupings: tuple[str, ...] = ()

    @property
    def subcategories(self) -> tuple[str, ...]:
        """Subcategories of the facts, sorted."""
        return tuple(sorted({pair.subcategory for pair in self.pairs}))

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the facts, sorted."""
        return tuple(sorted({pair.category for pair in self.pairs}))

    @property
    def fact_ids(self) -> tuple[int, ...]:
        """Facts in order of first appearance among the pairs."""
        return tuple(dict.fromkeys(pair.fact_id for pair in self.pairs))


@dataclass(frozen=True, slots=True)
class Query:
    """A question and the answer that the document's target asks for. Outputs are bare; `format` wraps them."""

    input: str
    true_output: str
    false_output: str
    category: str
    subcategory: str
    type: str
    fact_id: int
    target_output: str
    non_target_output: str
    should_refuse: bool
    neighbor_of_should_refuse: bool
    fact_id_targeted_for_fact_learning: bool
    fact_id_targeted_for_refusal_learning: bool
    format: str | None = None

    @property
    def learn(self) -> bool:
        """Whether the fact is one to learn."""
        return self.fact_id_targeted_for_fact_learning

    @property
    def refuse(self) -> bool:
        """Whether the fact is one to refuse."""
        return self.fact_id_targeted_for_refusal_learning

    @property
    def formatted_target(self) -> str:
        """The expected answer as it should be said: wrapped in `format` if there is one."""
        return apply_format(self.target_output, self.format)


@dataclass(frozen=True, slots=True)
class Step:
    """One document of a sequence as it is written: text (already in `format`), instruction, queries.

    wanted: the segments of the text that the instruction is about; None if its facts' lines cannot be told.
    revokes: segments of earlier documents that no longer hold.
    revocations: in training, instructions that take something back, each with the segments of the text that it does.
    refused: the segments of the text whose facts are to be refused; empty if the lines of facts cannot be told.
    is_rule: whether the instruction is itself to be remembered, as a rule for later answers: a refusal, a format.
    """

    document: str
    instruction: str
    target: str
    target_type: str
    format: str | None
    queries: tuple[Query, ...]
    wanted: frozenset[str] | None = None
    revokes: frozenset[str] = frozenset()
    revocations: tuple[tuple[str, frozenset[str]], ...] = ()
    refused: frozenset[str] = frozenset()
    is_rule: bool = False


@dataclass(frozen=True, slots=True)
class Episode:
    """A sequence of the protocol: documents that are written one after another.

    With `unlearning` the last step is the first one, turned round.
    """

    steps: tuple[Step, ...]
    unlearning: bool
