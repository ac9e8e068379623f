"""Whether a source's paraphrases ask for the object: which share are wordings of their relation.

A wording of a relation is the prompt of some other record of it, such as "The headquarter of {} is in". A paraphrase
may have an unrelated sentence in front. Generation prompts ("The best restaurants around X include") are no wordings: a
source that gives them as paraphrases asks what no method should answer with the object.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gnm.data.types import Fact

LEAST_SHARE = 0.8
_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Wordings:
    """How many paraphrases there are, how many are wordings of their relation, and examples of the others."""

    count: int
    known: int
    others: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.known / self.count if self.count else 1.0

    @property
    def warning(self) -> str | None:
        """A sentence for the user if too few are wordings."""
        if self.share >= LEAST_SHARE:
            return None
        return (
            f"only {self.share:.0%} of the {self.count:,} paraphrases are wordings of their relation (such as "
            f"{self.others[0]!r} is not), so most questions may not ask for the object; check the source"
        )


def check_paraphrases(facts: Iterable[Fact]) -> Wordings:
    """Look the paraphrases of `facts` up among the prompts of other facts of their relation.

    Facts without a relation id form a relation with those of the same prompt.
    """
    facts = list(facts)
    prompts: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts:
        prompts[_relation(fact)][fact.prompt] += 1
    known, count, others = 0, 0, []
    for fact in facts:
        wordings = prompts[_relation(fact)]
        for text in fact.paraphrases:
            count += 1
            if any(_ends_in(text, fact.subject, prompt) and (number > 1 or prompt != fact.prompt)
                   for prompt, number in wordings.items()):  # fmt: skip
                known += 1
            elif len(others) < _EXAMPLES:
                others.append(text)
    return Wordings(count, known, tuple(others))


def _relation(fact: Fact) -> str:
    return fact.relation or fact.prompt


def _ends_in(text: str, subject: str, prompt: str) -> bool:
    """Whether a paraphrase is `prompt` about `subject`, alone or behind white space."""
    wording = prompt.replace("{}", subject)
    before = text.removesuffix(wording)
    return before != text and (not before or before[-1].isspace())
