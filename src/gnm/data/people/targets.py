"""Which targets a document in people's words is given."""

import random
from collections.abc import Mapping, Sequence

from gnm.data.people.fine_groups import clear_fine_groups, fine_group_of
from gnm.data.people.themes import theme_of
from gnm.data.targets import ALL, COMPOSED_SUBCATEGORIES, Target
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact

KINDS = (
    "facts", "several", "sides", "facts_all", "nothing", "except", "refusal", "fact_refusal",
    "format", "fact_format", "fact_format_all",
)  # fmt: skip
FORMATTING_KINDS = {
    "format": "formats",
    "fact_format": "fact_format_compositions",
    "fact_format_all": "fact_format_compositions",
}
"""Kinds that set the format of later answers, with the protocol's type of such a target."""

SORTS = ("taxonomy", "theme", "subject", "fine")
"""Sorts of groups: by the kind of the object, by what is said, by whom or what it is said of, by a finer kind."""

_CATEGORY_SHARE = 0.25  # of the groups that are categories


def draw_target(kind: str, facts: Sequence[Fact], sorts: Mapping[str, float], rng: random.Random) -> Target:
    """A target of one of KINDS for a document that states `facts`, each with its object in `false`; a document of one
    group may get a simpler one.

    sorts: how often its groups are of each of SORTS, in proportion. All groups of a target are of one sort, as others
    would overlap; of the taxonomy if the document has one group of the sort, for pairs to learn and to refuse, and for
    two sides where a fact has no fine group.
    """
    sort = rng.choices(list(sorts), list(sorts.values()))[0]
    groups = _groups(facts, sort)
    # of two sides a fact without a group would be on neither
    one_sided = sort == "fine" and kind == "sides" and {fine_group_of(fact) for fact in facts} != set(groups)
    if len(groups) < 2 or kind == "fact_refusal" or one_sided:
        groups = _groups(facts, "taxonomy")
    rng.shuffle(groups)
    first, others = _widened(groups[0], rng), groups[1:]
    match kind:
        case "facts_all" | "fact_format_all":
            return Target(learn=(ALL,), format=kind == "fact_format_all")
        case "nothing" | "format":
            return Target(format=kind == "format")
        case "except":
            return Target(learn=(ALL,), leave=_some(groups, rng))
        case "refusal":
            return Target(learn=(ALL,), refuse=_some(groups, rng))
        case "several":
            return Target(learn=tuple(groups[: rng.randint(2, 3)]))
        case "sides" if others:
            left = rng.randint(max(1, len(groups) - 3), max(len(groups) - 3, min(3, len(groups) - 1)))
            return Target(learn=tuple(groups[left:]), leave=tuple(groups[:left]))
        case "fact_refusal":
            refused = [group for group in others if _may_compose(first, group)]
            return Target(learn=(first,), refuse=(refused[0],)) if refused else Target(learn=(first,))
        case _:
            return Target(learn=(first,), format=kind == "fact_format")


def reversed_target(target: Target) -> Target | None:
    """The target that names the same groups and wants the opposite of them; None if there is none.

    What was learned is left out, what was left out or refused is learned; of a pair to learn and to refuse each takes
    the other's place.
    """
    if target.format:
        return None
    if target.refuse:
        if target.learns_all:
            return Target(learn=target.refuse)
        may = len(target.learn) == len(target.refuse) == 1 and _may_compose(target.refuse[0], target.learn[0])
        return Target(learn=target.refuse, refuse=target.learn) if may else None
    if target.learns_all:
        return Target(learn=target.leave)
    if target.leave or not target.learn:
        return Target(learn=target.leave or (ALL,), leave=target.learn)
    return Target(learn=(ALL,), leave=target.learn)


def _groups(facts: Sequence[Fact], sort: str) -> list[str]:
    """The groups of one sort that `facts` belong to."""
    match sort:
        case "theme":
            return sorted({theme_of(fact.relation) for fact in facts})
        case "subject":
            return sorted({fact.subject for fact in facts})
        case "fine":
            return clear_fine_groups(facts)
        case _:
            return sorted({fact.subcategory for fact in facts})


def _some(groups: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """One group, or two."""
    if len(groups) > 2 and rng.random() < 0.3:
        return tuple(groups[:2])
    return (_widened(groups[0], rng),)


def _widened(group: str, rng: random.Random) -> str:
    """A subcategory or its category; a group of another sort as it is."""
    taxonomy = load_taxonomy()
    return taxonomy.category_of(group) if group in taxonomy.subcategories and rng.random() < _CATEGORY_SHARE else group


def _may_compose(learn: str, refuse: str) -> bool:
    """Whether a pair is none of those that experiment 3 evaluates, nor a wider one that covers such a pair."""
    taxonomy = load_taxonomy()
    composed = set(COMPOSED_SUBCATEGORIES)
    learned = set(taxonomy.categories.get(learn, (learn,)))
    return not (learned & composed and refuse in composed)
