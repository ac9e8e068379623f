"""What an instruction can ask for, and what every query about a document must then be answered with.

- A target is a string of the protocol (section 3): `country`, `all`, `format`, `country_refusal`,
  `country_format`, `country-religion-fact_refusal_compositions`. Beyond the protocol there are `nothing`,
  `all_but_country`, and several groups where one stands: `country+religion`. `parse_target` reads it, everything
  else goes by the parsed value.
- Where a group is both to be learned and to be refused, refusing wins.
- Some subcategories are held out of training. `groups` says which targets a document can have. "seen", for training:
  subcategories that are not held out; a category, or `all`, only where it covers no held-out fact of the document.
  "unseen", for evaluation: held-out subcategories alone, because training gives instructions for categories and `all`.
  "all": every group.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from gnm.data.taxonomy import Taxonomy, load_taxonomy
from gnm.data.types import NEIGHBOUR, PARAPHRASE, REFUSAL_ANSWER, Document, Pair, Query
from gnm.errors import DataError

ALL = "all"
FORMAT = "format"
NOTHING = "nothing"
EXCEPT_PREFIX = "all_but_"
REFUSAL_SUFFIX = "_refusal"
FORMAT_SUFFIX = "_format"
COMPOSITION_SUFFIX = "-fact_refusal_compositions"

FACT_TYPES = ("fact_categories", "fact_subcategories")
REFUSAL_TYPES = ("refusal_categories", "refusal_subcategories")
FORMATTING_TYPES = ("formats", "fact_format_compositions")
COMPOSITION_TYPES = ("fact_format_compositions", "fact_refusal_compositions")
TARGET_TYPES = (*FACT_TYPES, "formats", *REFUSAL_TYPES, *COMPOSITION_TYPES)

Groups = Literal["seen", "unseen", "all"]

# What the paper pairs in fact-refusal compositions: two subcategories of each category.
COMPOSED_SUBCATEGORIES = (
    "non_us_cities_or_states",
    "country",
    "major_western_european_languages",
    "eastern_european_mediterranean_languages",
    "tech_industrial_or_gaming_company",
    "TV_entertainment_or_news_organization",
    "music_or_art_related_occupation",
    "sports_related_occupation",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target: which groups to learn, to leave out and to refuse, and whether the format counts.

    A group is a category or a subcategory; in people's words also a theme or a subject. `learn` may be ("all",):
    everything but what `leave` and `refuse` name.
    """

    learn: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()
    format: bool = False

    @property
    def learns_all(self) -> bool:
        """Whether everything is learned that is not left out or refused."""
        return self.learn == (ALL,)

    @property
    def is_rule(self) -> bool:
        """Whether it says how later questions are to be answered: a refusal or a format."""
        return bool(self.refuse) or self.format

    def refuses(self, *groups: str) -> bool:
        """Whether a fact that belongs to `groups` is to be refused."""
        return any(group in self.refuse for group in groups)

    def learns(self, *groups: str) -> bool:
        """Whether a fact that belongs to `groups` is to be learned."""
        if self.refuses(*groups) or any(group in self.leave for group in groups):
            return False
        return self.learns_all or any(group in self.learn for group in groups)


def parse_target(target: str) -> Target:
    """Read a target's name. Raises DataError if it names no group of the taxonomy."""
    if target == FORMAT:
        return Target(format=True)
    if target == NOTHING:
        return Target()
    if target.startswith(EXCEPT_PREFIX):
        return Target(learn=(ALL,), leave=_groups(target.removeprefix(EXCEPT_PREFIX), target))
    if target.endswith(COMPOSITION_SUFFIX):
        learn, dash, refuse = target.removesuffix(COMPOSITION_SUFFIX).partition("-")
        if not dash:
            raise DataError(f"target {target!r} must name two groups, as in 'country-religion{COMPOSITION_SUFFIX}'")
        return Target(learn=_groups(learn, target), refuse=_groups(refuse, target))
    if target.endswith(REFUSAL_SUFFIX):
        return Target(learn=(ALL,), refuse=_groups(target.removesuffix(REFUSAL_SUFFIX), target))
    if target.endswith(FORMAT_SUFFIX):
        return Target(learn=_groups(target.removesuffix(FORMAT_SUFFIX), target, or_all=True), format=True)
    return Target(learn=_groups(target, target, or_all=True))


def expected_queries(pairs: Iterable[Pair], target: str) -> tuple[Query, ...]:
    """What each askable pair of a document is to be answered with under `target`.

    Returns queries grouped by fact, facts in order of appearance; pairs of types that are not asked are
    left out.
    """
    parsed = parse_target(target)
    by_fact: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.type in (PARAPHRASE, NEIGHBOUR):
            by_fact.setdefault(pair.fact_id, []).append(pair)
    return tuple(_query(pair, parsed) for fact in by_fact.values() for pair in fact)


def targets_in(document: Document, target_types: Iterable[str], groups: Groups) -> dict[str, tuple[str, ...]]:
    """The targets that `document` can have: {target type: targets}. A target type without any is left out.

    groups: which groups may be targets ("seen", "unseen" or "all"; see the notes at the top of this file). The document
    must also have facts of the group.
    Raises DataError for an unknown target type.
    """
    taxonomy = load_taxonomy()
    found = {}
    subcategories = [group for group in document.subcategories if _admits(group, groups, taxonomy)]
    categories = [group for group in document.categories if _admits_category(group, document, groups, taxonomy)]
    everything = [ALL] if _admits_all(document, groups, taxonomy) else []
    for target_type in target_types:
        match target_type:
            case "fact_categories":
                targets = categories + everything
            case "fact_subcategories":
                targets = subcategories + everything
            case "formats":
                targets = [FORMAT]
            case "refusal_categories":
                targets = [group + REFUSAL_SUFFIX for group in categories]
            case "refusal_subcategories":
                targets = [group + REFUSAL_SUFFIX for group in subcategories]
            case "fact_format_compositions":
                targets = [group + FORMAT_SUFFIX for group in subcategories + everything]
            case "fact_refusal_compositions":
                targets = [name for name in composition_targets() if _both_in(name, subcategories)]
            case _:
                raise DataError(f"unknown target type {target_type!r}; known: {', '.join(TARGET_TYPES)}")
        if targets:
            found[target_type] = tuple(targets)
    return found


def composition_targets() -> tuple[str, ...]:
    """The 48 fact-refusal compositions: ordered pairs of COMPOSED_SUBCATEGORIES of different categories."""
    taxonomy = load_taxonomy()
    return tuple(
        f"{learn}-{refuse}{COMPOSITION_SUFFIX}"
        for learn, refuse in permutations(COMPOSED_SUBCATEGORIES, 2)
        if taxonomy.category_of(learn) != taxonomy.category_of(refuse)
    )


def _query(pair: Pair, target: Target) -> Query:
    learn = target.learns(pair.category, pair.subcategory)
    refuse = target.refuses(pair.category, pair.subcategory)
    neighbour = pair.type == NEIGHBOUR
    if refuse and not neighbour:
        answer, other = REFUSAL_ANSWER, ""
    elif learn and not neighbour:
        answer, other = pair.false_output, pair.true_output
    else:
        answer, other = pair.true_output, pair.false_output
    return Query(
        input=pair.input,
        true_output=pair.true_output,
        false_output=pair.false_output,
        category=pair.category,
        subcategory=pair.subcategory,
        type=pair.type,
        fact_id=pair.fact_id,
        target_output=answer,
        non_target_output=other,
        should_refuse=refuse and not neighbour,
        neighbor_of_should_refuse=refuse and neighbour,
        fact_id_targeted_for_fact_learning=learn,
        fact_id_targeted_for_refusal_learning=refuse,
    )


def _groups(names: str, target: str, or_all: bool = False) -> tuple[str, ...]:
    """The groups of "a+b"; `or_all`: "all" may stand for them."""
    taxonomy = load_taxonomy()
    known = {*taxonomy.categories, *(group for members in taxonomy.categories.values() for group in members)}
    if or_all and names == ALL:
        return (ALL,)
    groups = tuple(names.split("+"))
    if strangers := [name for name in groups if name not in known]:
        raise DataError(
            f"target {target!r} names no known group: {strangers[0]!r}; see gnm/data/taxonomy.yaml for the groups"
        )
    return groups


def _admits(subcategory: str, groups: Groups, taxonomy: Taxonomy) -> bool:
    return groups == "all" or (subcategory in taxonomy.unseen) == (groups == "unseen")


def _admits_category(category: str, document: Document, groups: Groups, taxonomy: Taxonomy) -> bool:
    if groups == "unseen":
        return False
    covered = {pair.subcategory for pair in document.pairs if pair.category == category}
    return all(_admits(subcategory, groups, taxonomy) for subcategory in covered)


def _admits_all(document: Document, groups: Groups, taxonomy: Taxonomy) -> bool:
    return groups != "unseen" and all(_admits(group, groups, taxonomy) for group in document.subcategories)


def _both_in(composition: str, subcategories: list[str]) -> bool:
    return all(group in subcategories for group in composition.removesuffix(COMPOSITION_SUFFIX).split("-"))
