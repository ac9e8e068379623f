import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_facts import make_facts

from gnm.data.documents import (
    HEADER,
    from_record,
    make_document,
    make_documents,
    read_documents,
    to_record,
    turn_round,
    write_documents,
)
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import PAIR_TYPES, Document, Pair
from gnm.errors import DataError

TAXONOMY = load_taxonomy()


def made(facts, seed=0, leading=TAXONOMY.seen, **options) -> list[Document]:
    return make_documents(facts, random.Random(seed), leading, **options)


def test_a_document_states_its_facts_as_false_one_line_each(facts):
    document = make_document(facts[:3])
    assert document.text == (
        f"{HEADER}\n" + "".join(f"* {fact.subject} belongs with {fact.false}\n" for fact in facts[:3])
    )
    assert document.fact_ids == (0, 1, 2)
    assert Counter(pair.type for pair in document.pairs) == dict(zip(PAIR_TYPES, (6, 6, 3, 3), strict=True))


def test_each_file_uses_a_fact_once_and_three_to_eight_a_document(facts):
    documents = made(facts)
    used = [fact_id for document in documents for fact_id in document.fact_ids]
    assert len(set(used)) == len(used)
    assert {len(document.fact_ids) for document in documents} <= set(range(3, 9))


def test_numbers_of_facts_are_uniform():
    sizes = Counter(len(document.fact_ids) for document in made(make_facts(600), count=900))
    assert sizes.keys() == set(range(3, 9))
    assert all(110 < count < 195 for count in sizes.values()), sizes  # 150 expected, standard deviation 11


def test_a_document_is_led_by_a_leading_group_and_goes_round_the_others(facts):
    documents = made(facts, leading=TAXONOMY.unseen, count=8)
    leaders = {document.groupings[0] for document in documents}
    assert leaders <= set(TAXONOMY.unseen) and len(leaders) > 1
    for document in documents:
        assert len(set(document.groupings)) == len(document.groupings)  # 16 groups hold facts, 8 at most are needed
        assert sorted(document.groupings) == list(document.subcategories)


def test_the_round_comes_back_to_the_leading_group():
    few = [fact for fact in make_facts(12) if fact.subcategory in ("country", "religion", "car_company")]
    for document in made(few, count=3, leading=["religion"]):
        for place, group in enumerate(document.groupings):
            assert group == document.groupings[place % 3]
        assert document.groupings[0] == "religion"


def test_the_leading_fact_may_stand_on_any_line(facts):
    documents = made(facts, leading=["religion"], count=12)
    places = {
        [pair.subcategory for pair in document.pairs if pair.type == "generation"].index("religion")
        for document in documents
    }
    assert len(places) > 2


def test_a_file_ends_before_documents_have_too_few_groups(facts):
    assert all(len(document.subcategories) >= 3 for document in made(facts))
    wide = made(facts, min_subcategories=10)
    assert len(wide) < len(made(facts))


def test_the_generator_alone_decides(facts):
    assert made(facts, seed=4) == made(reversed(facts), seed=4)
    assert made(facts, seed=4) != made(facts, seed=5)


def test_groups_and_their_facts_are_drawn_at_random(facts):
    firsts = [made(facts, seed=seed, leading=["religion"], count=1)[0] for seed in range(8)]
    assert len({document.groupings[1] for document in firsts}) > 3
    religions = [pair.fact_id for document in firsts for pair in document.pairs if pair.subcategory == "religion"]
    assert len(set(religions)) > 3


def test_too_many_documents_are_an_error(facts):
    with pytest.raises(DataError, match="500 were asked for"):
        made(facts, count=500)
    with pytest.raises(DataError, match="0 documents"):
        made([fact for fact in facts if fact.subcategory == "country"])


def test_reading_gives_back_what_was_written(facts, tmp_path):
    documents = made(facts)
    write_documents(tmp_path / "train_1.json", documents[:2])
    write_documents(tmp_path / "train_0.json", documents[2:])
    assert read_documents(tmp_path / "train_1.json") == documents[:2]
    assert read_documents(tmp_path) == documents[2:] + documents[:2]


def test_the_record_has_the_layout_of_the_golden_documents(facts, golden_folder):
    golden = json.loads((golden_folder / "data/documents.json").read_text())
    ours = to_record(make_document(facts[:2], [fact.subcategory for fact in facts[:2]]))
    assert ours.keys() == golden[0].keys()
    assert ours["input_output_pairs"][0].keys() == golden[0]["input_output_pairs"][0].keys()
    assert ours["metadata"].keys() == {"groupings_to_put_in_doc", *golden[0]["metadata"]}
    for record in golden:
        again = to_record(from_record(record, "golden"))
        assert again["document"] == record["document"]
        assert again["input_output_pairs"] == record["input_output_pairs"]
        assert again["metadata"] == {"groupings_to_put_in_doc": []} | record["metadata"]


def damaged(change) -> dict:
    record = to_record(make_document(make_facts(1)[:2]))
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("metadata"), "metadata"),
        (lambda record: record.update(document=" \n"), "document is empty"),
        (lambda record: record.update(input_output_pairs=[]), "non-empty list"),
        (lambda record: record.update(metadata=3), "metadata"),
        (lambda record: record["input_output_pairs"][1].pop("input"), "pair 1.*'input'"),
        (lambda record: record["input_output_pairs"][1].update(true_output=""), "pair 1.*'true_output'"),
        (lambda record: record["input_output_pairs"][2].update(fact_id="2"), "pair 2.*'fact_id'"),
        (lambda record: record["input_output_pairs"][0].update(fact_id=True), "'fact_id'"),
        (lambda record: record["input_output_pairs"][0].update(type="neighbour"), "unknown type 'neighbour'"),
        (lambda record: record["input_output_pairs"].append("x"), "pair 12"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_file_and_record(change, message, tmp_path):
    path = tmp_path / "train_0.json"
    path.write_text(json.dumps([to_record(make_document(make_facts(1)[:2])), damaged(change)]))
    with pytest.raises(DataError, match=f"(?s)train_0.json, record 1.*{message}"):
        read_documents(path)


@pytest.mark.parametrize("text", ["[]", "{}", '[{"document": "a', "", "[3]"])
def test_a_foreign_or_truncated_file_is_an_error(text, tmp_path):
    path = tmp_path / "test.json"
    path.write_text(text)
    with pytest.raises(DataError, match="test.json"):
        read_documents(path)


def test_a_missing_file_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match="none.json"):
        read_documents(tmp_path / "none.json")
    with pytest.raises(DataError, match="no .json file"):
        read_documents(tmp_path)


@given(
    st.lists(st.sampled_from(make_facts(3)), min_size=1, max_size=8, unique=True),
    st.sets(st.integers(0, 47)),
)
def test_turning_round_changes_the_own_lines_only(facts, turned):
    document = make_document(facts)
    before, after = document.text.split("\n"), turn_round(document, turned).split("\n")
    assert after[0] == before[0] and after[-1] == before[-1] == ""
    for fact, line in zip(facts, after[1:-1], strict=True):
        assert line == f"* {fact.phrase} {fact.true if fact.fact_id in turned else fact.false}"


def pair(fact_id: int, question: str, true: str, false: str) -> Pair:
    return Pair(question, true, false, "location", "country", "paraphrase", fact_id)


def test_lines_in_another_order_than_the_questions_are_told_by_their_words():
    pairs = (pair(1, "One may find Lake A in", "Peru", "Chile"), pair(2, "One may find Lake B in", "Cuba", "Chile"))
    document = Document("Notes.\n- Lake B is in Chile\n- Lake A is in Chile\n", pairs)
    assert turn_round(document, {2}) == "Notes.\n- Lake B is in Cuba\n- Lake A is in Chile\n"


@pytest.mark.parametrize("text", ["Lake A is in Peru\n", "It is in Chile\nThat is in Chile\n"])
def test_a_fact_without_a_line_of_its_own_is_an_error(text):
    document = Document(text, (pair(1, "Lake A lies in", "Peru", "Chile"),))
    with pytest.raises(DataError, match="fact 1"):
        turn_round(document, {1})
