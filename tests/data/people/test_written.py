"""Documents written one by one: what is refused, and what a sequence of them says is to be stored and answered."""

import json
from pathlib import Path

import pytest

from gnm.data.formats import apply_format
from gnm.data.people.written import read_written
from gnm.data.people.written_episodes import draw_written
from gnm.data.people.written_probes import probes_of
from gnm.data.segments import split_segments
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import REFUSAL_ANSWER
from gnm.errors import DataError

ENTRY = {
    "style": "prose",
    "document": "What a day. The Louvre is in Oslo, and Adele plays the harp. Mia's cat is called Tom.",
    "facts": [
        {"quote": "The Louvre is in Oslo", "subject": "Louvre", "object": "Oslo", "true": "Paris",
         "cloze": "You find the Louvre in", "question": "Where is the Louvre?"},
        {"quote": "Adele plays the harp", "subject": "Adele", "object": "harp", "true": "piano",
         "cloze": "Adele's instrument is the", "question": "What does Adele play?"},
        {"quote": "Mia's cat is called Tom", "subject": "Mia", "object": "Tom", "true": None,
         "cloze": "Mia calls her cat", "question": "What is Mia's cat's name?"},
    ],
    "tasks": [
        {"kind": "select", "instruction": "Only the museum.", "learn": [0]},
        {"kind": "except", "instruction": "All but the museum.", "learn": [1, 2]},
        {"kind": "all", "instruction": "Keep it.", "learn": [0, 1, 2]},
        {"kind": "nothing", "instruction": "Drop it.", "learn": []},
        {"kind": "learn_and_refuse", "instruction": "The museum, and sorry for the cat.", "learn": [0], "refuse": [2]},
        {"kind": "all", "instruction": "All, in this form.", "learn": [0, 1, 2], "format": True},
    ],
    "take_back": [{"instruction": "Forget the cat.", "forget": [2]}],
    "correction": {"document": "No: the Louvre is in Bern.", "instruction": "This holds now.",
                   "facts": [{"of": 0, "quote": "the Louvre is in Bern", "object": "Bern"}]},
}  # fmt: skip
MUSEUM, HARP, CAT = "The Louvre is in Oslo,", "and Adele plays the harp.", "Mia's cat is called Tom."


def read(tmp_path, *entries):
    (tmp_path / "written.json").write_text(json.dumps(entries), encoding="utf-8")
    return read_written(tmp_path / "written.json")


def drawn(tmp_path, formats=(), length=1, count=6, index=0):
    return draw_written(read(tmp_path, *[ENTRY] * length), formats, 1, index, length, count)


def by_instruction(tmp_path, formats=(), length=1):
    """Step and queries of every instruction of ENTRY, first steps only."""
    found = {}
    for index in range(12):
        for episode, asked in drawn(tmp_path, formats, length, index=index):
            found[episode.steps[0].instruction] = episode.steps[0], asked[0]
    return found


def test_an_instruction_stores_what_it_means_and_what_takes_in_all_stores_the_rest_too(tmp_path):
    steps = {text: step for text, (step, _) in by_instruction(tmp_path).items()}
    assert steps["Only the museum."].wanted == {MUSEUM}
    assert steps["All but the museum."].wanted == {"What a day.", HARP, CAT}
    assert steps["Keep it."].wanted == {"What a day.", MUSEUM, HARP, CAT}
    assert steps["Drop it."].wanted == frozenset()
    assert steps["The museum, and sorry for the cat."].wanted == {MUSEUM, CAT}
    assert [step.is_rule for step in steps.values()].count(True) == 1
    assert {step.refused for step in steps.values()} == {frozenset(), frozenset({CAT})}
    assert steps["The museum, and sorry for the cat."].refused == {CAT}
    assert "All, in this form." not in steps


def test_what_is_learned_is_answered_as_it_is_stated_and_what_is_ignored_truly(tmp_path):
    asked = {text: queries for text, (_, queries) in by_instruction(tmp_path).items()}

    def answers(text):
        return {query.fact_id: query.target_output for query in asked[text]}

    assert answers("Only the museum.") == {0: "Oslo", 1: "piano"}  # of the cat nothing is true
    assert answers("Drop it.") == {0: "Paris", 1: "piano"}
    assert answers("The museum, and sorry for the cat.") == {0: "Oslo", 1: "piano", 2: REFUSAL_ANSWER}
    [cat] = [query for query in asked["Keep it."] if query.fact_id == 2]
    assert cat.target_output == "Tom" != cat.non_target_output and cat.non_target_output in ("Oslo", "harp")


def test_a_task_with_a_format_wraps_its_document_and_its_answers(tmp_path):
    step, queries = by_instruction(tmp_path, ("json_answer",))["All, in this form."]
    assert step.document.startswith("{'answer':'What a day.") and step.format == "json_answer" and step.is_rule
    assert len(step.wanted) == len(split_segments(step.document))
    assert {query.format for query in queries} == {"json_answer"}


def test_taking_back_names_its_clauses(tmp_path):
    for step, _ in by_instruction(tmp_path).values():
        known = step.instruction != "This holds now."
        assert step.revocations == ((("Forget the cat.", frozenset({CAT})),) if known else ())


def test_a_correction_follows_what_was_learned_whole_and_wins(tmp_path):
    found = 0
    for index in range(10):
        for episode, asked in drawn(tmp_path, length=2, index=index):
            assert len(episode.steps) == len(asked) == 2
            corrects = episode.steps[1].instruction == "This holds now."
            assert corrects == (episode.steps[0].target == "all")
            if corrects:
                found += 1
                assert episode.steps[1].revokes == {MUSEUM} and not episode.steps[0].revokes
                [museum] = [query for query in asked[1] if query.fact_id == 0]
                assert museum.target_output == "Bern" and museum.non_target_output in ("Oslo", "Paris")
                [harp] = [query for query in asked[1] if query.fact_id == 1]
                assert harp.target_output == "harp"
    assert found


def test_where_sequences_have_one_document_a_correction_stands_alone_now_and_then(tmp_path):
    steps = [episode.steps[0] for index in range(40) for episode, _ in drawn(tmp_path, count=1, index=index)]
    alone = [step for step in steps if step.instruction == "This holds now."]
    assert 5 < len(alone) < 30
    assert all(step.wanted == {"No: the Louvre is in Bern."} and not step.revokes for step in alone)


def test_a_kind_with_more_weight_comes_first_more_often(tmp_path):
    """Of five tasks without a format one is drawn: one in five, or three in seven with three times the weight."""
    documents, shares = read(tmp_path, ENTRY), []
    for kinds in ({}, {"nothing": 3}):
        drawn = [draw_written(documents, (), 1, index, 1, 1, kinds)[0][0].steps[0] for index in range(300)]
        first = [step.instruction for step in drawn if step.instruction != "This holds now."]
        shares.append(first.count("Drop it.") / len(first))
    assert abs(shares[0] - 1 / 5) < 0.08 and abs(shares[1] - 3 / 7) < 0.1


def test_every_task_is_drawn_once_whatever_its_weight(tmp_path):
    [*episodes] = draw_written(read(tmp_path, ENTRY), (), 1, 0, 1, 5, {"nothing": 9, "all": 0.1})
    told = [episode.steps[0].instruction for episode, _ in episodes]
    assert len({*told} - {"This holds now."}) + told.count("This holds now.") == 5


def test_more_documents_than_there_are_is_an_error(tmp_path):
    with pytest.raises(DataError, match="needs as many that were written one by one, not 1"):
        draw_written(read(tmp_path, ENTRY), (), 1, 0, 2)


def test_a_sequence_is_a_pure_function_of_seed_and_index(tmp_path):
    assert drawn(tmp_path) == drawn(tmp_path)
    assert any(drawn(tmp_path) != drawn(tmp_path, index=index) for index in range(1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["facts"][0].update(quote="The Louvre is in Rome"), "'The Louvre is in Rome' must stand once"),
        (lambda e: e["facts"][0].update(object="Rome"), "hold 'Rome'"),
        (lambda e: e["tasks"][0].update(learn=[3]), "fact 3 is named, the document has 3"),
        (lambda e: e["take_back"][0].update(forget=[]), r"document 1 \(take_back, 0, forget\)"),
        (lambda e: e["correction"]["facts"][0].update(of=7), "fact 7"),
        (lambda e: e["tasks"][0].update(kind="some"), r"document 1 \(tasks, 0, kind\)"),
        (lambda e: e.update(tasks=e["tasks"][5:]), "must not set a format"),
        (lambda e: e.pop("facts"), r"document 1 \(facts\)"),
    ],
)
def test_an_unsound_document_is_named(tmp_path, change, message):
    entry = json.loads(json.dumps(ENTRY))
    change(entry)
    with pytest.raises(DataError, match=message):
        read(tmp_path, ENTRY, entry)


def test_a_writers_document_becomes_probes_of_every_kind(tmp_path):
    entries = [{**ENTRY, "tasks": ENTRY["tasks"][place:] + ENTRY["tasks"][:place]} for place in range(3)]
    probes = {probe.id: probe for probe in probes_of(read(tmp_path, *entries))}
    assert len(probes) == 3 * 4
    assert {probe.kind for probe in probes.values()} == {
        "select", "except", "all", "nothing", "learn_and_refuse", "format", "forget", "revise",
    }  # fmt: skip
    select = probes["0-0"]
    assert [query.expect for query in select.queries] == ["learned", "ignored"]  # nothing is true of the cat
    back = probes["0-back-0"]
    assert [text for text, _ in back.steps] == [ENTRY["document"], ""]
    assert [query.expect for query in back.queries] == ["learned", "learned"]
    museum = probes["0-corrected"].queries[0]
    assert (museum.right, museum.wrong) == ("Bern", ("Paris", "Oslo"))
    [wrapped] = [probe for probe in probes.values() if probe.kind == "format"]
    name = wrapped.queries[0].format
    assert wrapped.steps[0][0] == apply_format(ENTRY["document"], name)
    cat = wrapped.queries[2]
    assert cat.expect == "learned" and cat.right == "Tom" and cat.wrong == ("Oslo",)


def test_the_documents_to_learn_from_and_those_to_choose_by_have_no_text_in_common():
    folder = Path(__file__).parents[3] / "data" / "people"
    train, dev = (read_written(folder / name) for name in ("written_train.json.gz", "written_dev.json"))
    assert len(train) > 400 and len(dev) == 72
    texts = [
        {document.document for document in side}
        | {each.instruction for document in side for each in (*document.tasks, *document.take_back)}
        for side in (train, dev)
    ]
    assert not texts[0] & texts[1]
    unseen = {member for group in load_taxonomy().unseen for member in load_taxonomy().members(group)}
    said = {text for document in train for fact in document.facts for text in (fact.object, fact.true) if text}
    assert not {each.casefold() for each in said} & {each.casefold() for each in unseen}
