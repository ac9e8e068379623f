"""What the probe's tests share, and the settings with which the memory analysis draws its documents."""

import random

import pytest

from gnm.data.counterfact import categorise, write_facts
from gnm.data.documents import make_documents, write_documents
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy


@pytest.fixture(scope="module")
def documents():
    """Documents of three or more facts of the embedded table, without a fact in common."""
    facts = categorise(read_records("embedded"))
    return make_documents(facts.train + facts.test, random.Random(5), load_taxonomy().subcategories, 40, 2)


@pytest.fixture(scope="module")
def settings(documents, tmp_path_factory):
    """Settings of a probe of untrained memories, as params.yaml would hold them."""
    folder = tmp_path_factory.mktemp("probe")
    write_documents(folder / "train.json", documents[:28])
    write_documents(folder / "test.json", documents[28:])
    return {
        "seeds": [0],
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {"memoryllm": {"method": "memoryllm"}},
        "data": {"train": [str(folder / "train.json")], "test": [str(folder / "test.json")]},
        "targets": {"target_types": ["fact_subcategories"], "groups": "all"},
        "documents": {"train": 28, "test": 12, "at_once": 5},
        "others": 3,
        "probe": {"size": 48, "epochs": 6, "documents_per_step": 4, "learning_rate": 0.002},
        "title": "A test",
        "output": str(folder / "probe"),
    }


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """Settings of three targets with three documents each, of the embedded facts."""
    folder = tmp_path_factory.mktemp("distracted")
    facts = categorise(read_records("embedded"))
    write_facts(folder / "facts.json", facts.train + facts.test)
    return {
        "facts": str(folder / "facts.json"),
        "targets": ["country", "car_company"],
        "distractors": ["religion", "sports_related_occupation", "continents"],
        "count": 3,
        "documents": 3,
        "paraphrased": True,
        "seed": 1,
        "output": str(folder / "documents.json"),
    }
