"""Whether a source's paraphrases ask for the object: which share are wordings of their relation.

A wording of a relation is the prompt of some other record of it, such as "The headquarter of {} is in". A paraphrase
may have an unrelated sentence in front. Generation prompts ("The best restaurants around X include") are no wordings: a
source that gives them as paraphrases asks what no method should answer with the object.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gnm.data.types import Fact

LEAST_SHARE = 0.8
_EXAMPLES = 10
_WORD_START = re.compile(r"(?<!\S)\S")


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

    Facts without a relation id form one relation.
    """
    facts = list(facts)
    prompts: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts:
        prompts[fact.relation][fact.prompt] += 1
    known, count, others = 0, 0, []
    for fact in facts:
        wordings = prompts[fact.relation]
        for text in fact.paraphrases:
            count += 1
            if any(wordings[ending] > (ending == fact.prompt) for ending in _endings(text, fact.subject)):
                known += 1
            elif len(others) < _EXAMPLES:
                others.append(text)
    return Wordings(count, known, tuple(others))


def _endings(text: str, subject: str) -> Iterator[str]:
    """Parts of `text` that start at a word, go on to its end and hold the subject, with `{}` in its place."""
    at = text.find(subject)
    while at >= 0:
        for word in _WORD_START.finditer(text[: at + 1]):
            yield f"{text[word.start() : at]}{{}}{text[at + len(subject) :]}"
        at = text.find(subject, at + 1)
