"""Which of a document's queries are asked.

- Facts are to be learned, to be refused, or other; of each, so many paraphrases and neighbours are asked.
- If a document has nothing to learn, paraphrases of other facts also take the places of those to learn.
- A cap on the total takes queries by turns from each kind, so that no kind is cut away whole while another is
  full. The published code samples again at random there, also in evaluation; here a document and its target
  fix what is asked.
"""

import random
from collections.abc import Sequence

from pydantic import Field

from gnm.config import StrictModel
from gnm.data.types import NEIGHBOUR, PARAPHRASE, Query


class Sampling(StrictModel):
    """Counts of the queries asked per document (`sampling.*` of params.yaml)."""

    num_paraphrase_from_facts_to_learn: int = Field(ge=0)
    num_true_output_neighbor_from_facts_to_learn: int = Field(ge=0)
    num_paraphrase_from_facts_to_refuse: int = Field(ge=0)
    num_true_output_neighbor_from_facts_to_refuse: int = Field(ge=0)
    num_paraphrase_from_other_facts: int = Field(ge=0)
    num_true_output_neighbor_from_other_facts: int = Field(ge=0)
    max_total_io_pairs_per_sample: int = Field(ge=1)
    num_in_future_to_pull_back_future_paraphrase: int = Field(default=0, ge=0)
    num_in_past_to_pull_forward_true_output_neighbor: int | None = Field(default=None, ge=0)
    num_in_past_to_pull_forward_paraphrase_not_target_to_learn: int | None = Field(default=None, ge=0)


def select(queries: Sequence[Query], sampling: Sampling, rng: random.Random | None = None) -> tuple[Query, ...]:
    """The queries asked out of those of one document: random ones with `rng`, the first ones without.

    Returns to-learn, to-refuse and other in this order, paraphrases before neighbours in each; empty if the
    counts leave nothing.
    """
    to_learn = sampling.num_paraphrase_from_facts_to_learn
    others = sampling.num_paraphrase_from_other_facts
    if not any(query.learn for query in queries):
        others += to_learn
    kinds = [
        _pick(queries, PARAPHRASE, (True, False), to_learn, rng),
        _pick(queries, NEIGHBOUR, (True, False), sampling.num_true_output_neighbor_from_facts_to_learn, rng),
        _pick(queries, PARAPHRASE, (False, True), sampling.num_paraphrase_from_facts_to_refuse, rng),
        _pick(queries, NEIGHBOUR, (False, True), sampling.num_true_output_neighbor_from_facts_to_refuse, rng),
        _pick(queries, PARAPHRASE, (False, False), others, rng),
        _pick(queries, NEIGHBOUR, (False, False), sampling.num_true_output_neighbor_from_other_facts, rng),
    ]
    return tuple(query for kind in _capped(kinds, sampling.max_total_io_pairs_per_sample) for query in kind)


def _pick(
    queries: Sequence[Query],
    kind: str,
    learn_refuse: tuple[bool, bool],
    count: int,
    rng: random.Random | None,
) -> list[Query]:
    pool = [query for query in queries if query.type == kind and (query.learn, query.refuse) == learn_refuse]
    return rng.sample(pool, min(count, len(pool))) if rng else pool[:count]


def _capped(kinds: list[list[Query]], cap: int) -> list[list[Query]]:
    """Shorten the kinds to `cap` queries in all: each gives its first, then its second, and so on."""
    turns = sorted((place, number) for number, kind in enumerate(kinds) for place in range(len(kind)))
    kept = [0] * len(kinds)
    for _, number in turns[:cap]:
        kept[number] += 1
    return [kind[:count] for kind, count in zip(kinds, kept, strict=True)]
