"""How episodes are drawn, and their settings."""

import json
import random
from collections import Counter

import pytest
from drawn_from import FACTS, SEEN, TAXONOMY, formatted
from made_up_facts import SAMPLING, settings

from gnm.config import load_params, validate
from gnm.data.documents import make_documents, turn_round
from gnm.data.formats import FORMATS
from gnm.data.instructions import instruction_for
from gnm.data.sequences import (
    SequenceSettings,
    draw_contrastive,
    draw_sequence,
    evaluation_sequences,
    make_step,
    turned_step,
)
from gnm.data.types import PARAPHRASE
from gnm.errors import ConfigError, DataError

MIXED = make_documents(FACTS, random.Random(0), TAXONOMY.unseen)


# --- drawing


def test_contrastive_episodes_are_the_same_documents_under_other_targets():
    for index in range(40):
        given = settings(target_types=["fact_subcategories"], sequence_length=2)
        first, second = draw_contrastive(SEEN, given, 0, index, 2)
        assert first == draw_sequence(SEEN, given, 0, index)
        for one, other in zip(first.steps, second.steps, strict=True):
            assert one.document == other.document
            assert one.target != other.target or {q.subcategory for q in one.queries} == {one.target}
            assert one.instruction != other.instruction or one.target == other.target


def test_contrastive_episodes_keep_the_place_of_the_format_and_the_turned_document():
    for index in range(20):
        first, second, third = draw_contrastive(SEEN, formatted(unlearning=True), 0, index, 3)
        for episode in (second, third):
            assert [step.target == "format" for step in episode.steps] == [
                step.target == "format" for step in first.steps
            ]
            assert episode.unlearning and episode.steps[-1].target == episode.steps[0].target
            assert [q.fact_id for q in episode.steps[-1].queries] == [q.fact_id for q in episode.steps[0].queries]


def test_few_phrasings_are_the_first_ones():
    drawn = {
        step.instruction
        for index in range(60)
        for step in draw_sequence(SEEN, settings(phrasings=1, target_types=["fact_subcategories"]), 0, index).steps
    }
    assert drawn <= {instruction_for(target, "train") for target in (*TAXONOMY.seen, "all")} and len(drawn) > 6


def test_a_sequence_is_a_function_of_its_arguments():
    given = formatted(unlearning=True)
    random.seed(1)
    first = [draw_sequence(SEEN, given, 3, index) for index in range(5)]
    random.seed(2)
    assert [draw_sequence(SEEN, given, 3, index) for index in reversed(range(5))] == first[::-1]
    assert len({sequence.steps[0] for sequence in first}) > 3
    assert draw_sequence(SEEN, given, 4, 0) != first[0]


def test_documents_of_a_sequence_share_no_fact():
    twice = SEEN + make_documents(
        [fact for fact in FACTS if fact.subcategory in TAXONOMY.seen], random.Random(9), TAXONOMY.seen
    )
    for index in range(60):
        steps = draw_sequence(twice, settings(sequence_length=5), 0, index).steps
        facts = [{query.fact_id for query in step.queries} for step in steps]
        assert len(set.union(*facts)) == sum(map(len, facts))


def test_lengths_are_drawn_from_the_whole_range():
    lengths = Counter(
        len(draw_sequence(SEEN, settings(sequence_length=[1, 4]), 0, index).steps) for index in range(120)
    )
    assert lengths.keys() == {1, 2, 3, 4}


def test_every_fact_target_has_something_to_learn():
    for documents, groups in ((SEEN, "seen"), (MIXED, "unseen"), (MIXED, "all"), (MIXED, "seen")):
        for index in range(60):
            for step in draw_sequence(documents, settings(groups=groups), 0, index).steps:
                learned = {query.subcategory for query in step.queries if query.learn}
                assert learned
                if groups != "all":
                    assert learned <= set(getattr(TAXONOMY, groups))


def test_all_targets_of_a_document_come_up():
    targets = {
        step.target for index in range(200) for step in draw_sequence(SEEN, settings(sequence_length=1), 0, index).steps
    }
    assert targets == {*TAXONOMY.categories, *TAXONOMY.seen, "all"}


def test_training_and_evaluation_use_different_phrasings():
    for split in ("train", "test"):
        for index in range(20):
            for step in draw_sequence(SEEN, settings(split=split), 0, index).steps:
                assert (step.instruction == instruction_for(step.target, "test")) == (split == "test")


def test_one_document_sets_the_format_at_any_place_and_all_are_wrapped():
    places = Counter()
    for index in range(150):
        steps = draw_sequence(SEEN, formatted(), 0, index).steps
        setting = [place for place, step in enumerate(steps) if step.target == "format"]
        assert len(setting) == 1
        places[setting[0]] += 1
        for step in steps:
            assert step.format in ("json_text", "csv_data", "toml_body")
            assert step.document.startswith({"j": "{'text':'", "c": "data,", "t": "[body]\n"}[step.format[0]])
    assert places.keys() == {0, 1, 2} and min(places.values()) > 30


def test_compositions_with_a_format_may_take_its_place():
    given = formatted(target_types=["fact_subcategories", "formats", "fact_format_compositions"])
    kinds = Counter(step.target_type for i in range(60) for step in draw_sequence(SEEN, given, 0, i).steps)
    assert kinds["formats"] + kinds["fact_format_compositions"] == 60
    assert min(kinds["formats"], kinds["fact_format_compositions"]) > 10


def test_formats_alone_make_every_document_a_format_document():
    steps = draw_sequence(SEEN, formatted(target_types=["formats"]), 0, 0).steps
    assert [step.target for step in steps] == ["format"] * 3


def test_without_formats_nothing_is_wrapped():
    given = settings(eligible_formats=list(FORMATS))
    assert all(step.format is None for step in draw_sequence(SEEN, given, 0, 0).steps)


def test_fact_refusal_compositions_have_both_groups():
    given = settings(target_types=["fact_refusal_compositions"], sequence_length=1)
    for index in range(30):
        (step,) = draw_sequence(SEEN, given, 0, index).steps
        assert any(query.learn for query in step.queries) and any(query.should_refuse for query in step.queries)


def test_too_few_documents_are_an_error():
    with pytest.raises(DataError, match="only 2 of 3 documents.*'seen'"):
        draw_sequence(SEEN[:2], settings(), 0, 0)
    with pytest.raises(DataError, match="only 0 of 3 documents.*'unseen'"):
        draw_sequence(SEEN, settings(groups="unseen"), 0, 0)
    with pytest.raises(DataError, match="sampling counts"):
        draw_sequence(SEEN, settings(sampling=dict.fromkeys(list(SAMPLING)[:6], 0)), 0, 0)
    with pytest.raises(DataError, match="only 0 of 3"):
        evaluation_sequences([], settings(), 1, 0)


def test_evaluation_uses_documents_again_only_when_none_is_left():
    given = settings(split="test", sequence_length=4)
    per_round = len(SEEN) // 4
    sequences = evaluation_sequences(SEEN, given, per_round + 2, 0)
    texts = [step.document for sequence in sequences[:per_round] for step in sequence.steps]
    assert len(set(texts)) == len(texts) == 4 * per_round
    assert len(sequences) == per_round + 2
    assert {step.document for step in sequences[-1].steps} <= {document.text for document in SEEN}
    assert evaluation_sequences(SEEN, given, 3, 0) == sequences[:3]
    assert evaluation_sequences(SEEN, given, 3, 1) != sequences[:3]


# --- unlearning


def test_unlearning_appends_the_first_document_turned_round():
    turned = 0
    for index in range(30):
        *steps, last = draw_sequence(SEEN, formatted(unlearning=True), 0, index).steps
        first = steps[0]
        assert len(steps) == 3
        same = ("instruction", "target", "target_type", "format")
        assert all(getattr(last, name) == getattr(first, name) for name in same)
        for before, after in zip(first.queries, last.queries, strict=True):
            if before.learn and before.type == PARAPHRASE:
                assert (before.target_output, after.target_output) == (before.false_output, before.true_output)
                assert after.non_target_output == before.false_output
                turned += 1
            else:
                assert after == before
        assert (last.document != first.document) == any(query.learn for query in first.queries)
        assert last.revokes == first.wanted - last.wanted and bool(last.revokes) == (last.document != first.document)
    assert turned > 20


def test_what_is_refused_is_what_states_a_fact_of_its_group_and_stays_so_turned_round():
    document = next(d for d in SEEN if len({pair.subcategory for pair in d.pairs}) > 1)
    groups = sorted({pair.subcategory for pair in document.pairs})
    steps = [
        make_step(document, f"{group}_refusal", "refusal_subcategories", None, settings(split="test"), random.Random(0))
        for group in groups
    ]
    assert frozenset().union(*(step.refused for step in steps)) == steps[0].wanted
    assert sum(len(step.refused) for step in steps) == len(steps[0].wanted), "each line is refused in one of them"
    composed = f"{groups[0]}-{groups[1]}-fact_refusal_compositions"
    step = make_step(document, composed, "fact_refusal_compositions", None, settings(split="test"), random.Random(0))
    assert step.refused == steps[1].refused and step.wanted == steps[0].refused | steps[1].refused
    turned = turned_step(step, document)
    assert turned.refused == step.refused and turned.wanted != step.wanted
    plain = make_step(document, groups[0], "fact_subcategories", None, settings(split="test"), random.Random(0))
    assert plain.wanted and not plain.refused


def test_facts_that_no_query_asks_about_are_turned_too():
    document = SEEN[0]
    given = settings(
        split="test", sampling=dict.fromkeys(list(SAMPLING)[:6], 0) | {"num_paraphrase_from_facts_to_learn": 1}
    )
    step = make_step(document, "all", "fact_categories", None, given, random.Random(0))
    assert len(step.queries) == 1
    assert turned_step(step, document).document == turn_round(document, document.fact_ids)


# --- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_types": ["facts"]}, "target_types"),
        ({"target_types": []}, "target_types"),
        ({"groups": "new"}, "groups"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"sequence_length": [3, 2]}, "first number"),
        ({"target_types": ["formats"]}, "eligible_formats is empty"),
        ({"eligible_formats": ["jsn_text"]}, "json_text"),
        ({"eligible_formats": "trian"}, "unknown group of formats 'trian'"),
        ({"eligible_formats": 3}, "a list of formats, or the name of a group"),
        ({"sampling": {}}, "num_paraphrase_from_facts_to_learn"),
        ({"sampling": SAMPLING | {"num_paraphrases": 1}}, "num_paraphrases"),
        ({"lenght": 2}, "lenght"),
    ],
)
def test_bad_settings_are_errors_that_name_the_key(changes, message):
    given = settings().model_dump() | changes
    with pytest.raises(ConfigError, match=message):
        validate(given, SequenceSettings, "params.yaml")


def test_settings_are_read_from_yaml(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(formatted(sequence_length=[2, 5]).model_dump()))
    assert load_params(path, SequenceSettings) == formatted(sequence_length=[2, 5])
