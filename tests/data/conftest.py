"""Fixtures of made-up facts."""

import pytest
from made_up_facts import make_facts, make_record

from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact


@pytest.fixture
def facts() -> list[Fact]:
    return make_facts(12)


@pytest.fixture
def seen_facts(facts) -> list[Fact]:
    return [fact for fact in facts if fact.subcategory in load_taxonomy().seen]


@pytest.fixture
def record() -> dict:
    return make_record()
