"""What is asked about facts in people's words, and what is then to be answered."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gnm.data.people.everyday import load_everyday
from gnm.data.people.themes import groups_of
from gnm.data.people.wordings import Stated, filled, neighbours_of, wording
from gnm.data.targets import Target
from gnm.data.types import NEIGHBOUR, PARAPHRASE, REFUSAL_ANSWER, Fact, Query

_FORMS = ("cloze", "question", "question", "paraphrase")


@dataclass(frozen=True)
class Held:
    """What holds of a fact after some documents: learned as `object`, refused, or neither.

    fact: with the object in `false` that the last document stated. document: the number of the one that decided; of the
    last, if none did.
    """

    fact: Fact
    object: str | None
    refused: bool
    document: int
    before: str | None = None

    @property
    def learned(self) -> bool:
        """Whether it is to be answered as a document states it."""
        return self.object is not None and not self.refused

    @classmethod
    def after(cls, before: "Held | None", fact: Fact, target: Target, t: int) -> "Held":
        """What holds after document `t` stated the fact, with the object in `false`, under `target`."""
        groups = groups_of(fact)
        if target.refuses(*groups) or target.learns(*groups):
            old = before.object if before else None
            return cls(fact, fact.false, target.refuses(*groups), t, old)
        if before and (before.learned or before.refused):
            return before
        return cls(fact, None, False, t)


def ask(held: Iterable[Held], t: int, rng: random.Random) -> list[Query]:
    """Questions about what holds after document `t`, in random order: two about each fact that it decided on, one
    about every other; and about neighbours of what was learned or refused. Of made-up persons only what was learned
    or refused is asked, as there is no true answer to anything else."""
    queries = []
    for each in held:
        if not (each.fact.true or each.learned or each.refused):
            continue
        for _ in range(2 if each.document == t and (each.learned or each.refused) else 1):
            queries.append(_query(each, PARAPHRASE, rng))
        if (each.learned or each.refused) and rng.random() < 0.4:
            queries.append(_query(each, NEIGHBOUR, rng))
    queries = [query for query in queries if query]
    return rng.sample(queries, len(queries))


def _query(held: Held, kind: str, rng: random.Random) -> Query | None:
    """One question about a fact, or about a neighbour of it; None if there is no neighbour."""
    fact = held.fact
    form = rng.choice(_FORMS if fact.paraphrases else _FORMS[:2])
    subject = fact.subject
    if kind == NEIGHBOUR:
        if not (others := neighbours_of(fact)):
            return None
        subject = rng.choice(others)
    about = Stated(fact.fact_id, fact.relation, subject, "")
    if form == "paraphrase":
        text = rng.choice(fact.paraphrases) if kind == PARAPHRASE else fact.prompt.replace("{}", subject)
    else:
        known = wording(fact.relation)
        text = filled(rng.choice(known.questions if form == "question" else known.cloze), about)
    learned, refused = held.learned, held.refused
    query = Query(
        input=text,
        true_output=fact.true,
        false_output=fact.false,
        category=fact.category,
        subcategory=fact.subcategory,
        type=kind,
        fact_id=fact.fact_id,
        target_output=fact.true,
        non_target_output=held.object or fact.false,
        should_refuse=False,
        neighbor_of_should_refuse=refused and kind == NEIGHBOUR,
        fact_id_targeted_for_fact_learning=learned,
        fact_id_targeted_for_refusal_learning=refused,
    )
    if kind == NEIGHBOUR:
        return query
    if refused:
        return replace(query, target_output=REFUSAL_ANSWER, non_target_output="", should_refuse=True)
    if learned:
        true = fact.true or rng.choice([o for o in load_everyday()[fact.subcategory].objects if o != held.object])
        other = held.before if held.before not in (None, held.object) and rng.random() < 0.5 else true
        return replace(query, target_output=held.object, non_target_output=other)
    return query
