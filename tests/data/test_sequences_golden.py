"""Sequences of the published code, replayed: targets and formats are taken from them, the rest must agree."""

import json
import random
from collections import Counter

from made_up_facts import SAMPLING, settings

from gnm.data.asking import asked
from gnm.data.documents import from_record
from gnm.data.sampling import Sampling
from gnm.data.sequences import SequenceSettings, make_step, turned_step
from gnm.data.types import Episode, Query

# The appended documents whose text differs from the published one, and why.
PUBLISHED_DEFECTS = {
    "fact_id_one_first": ("* Ostrin Lake lies in Peru\n", "once fact 1 was swapped no later text was"),
    "swap_touches_another_fact": ("* Pell Castle can be found in South Africa\n", "the word was swapped everywhere"),
    "answer_word_inside_subject": ("* Rome Tram was built in Milan\n", "the subject was swapped too"),
    "false_output_inside_true_output": ("* Vento R is assembled by Audi Sport\n", "swapped once a query, so twice"),
    "refusal_target": ("* Jo Larkin performs on the piano\n", "a learned fact that was not sampled stayed"),
}


def golden_cases(golden_folder):
    documents = json.loads((golden_folder / "data/documents.json").read_text())
    documents = [from_record(record, "golden") for record in documents]
    for case in json.loads((golden_folder / "data/sequences.json").read_text()):
        counts = {key: value for key, value in case["sampling"].items() if key in Sampling.model_fields}
        given = settings(
            target_types=case["eligible_target_types"], groups="all", sequence_length=case["sequence_length"],
            unlearning=case["unlearning"], split=case["train_or_test"], sampling=counts, eligible_formats=["xml_text"],
        )  # fmt: skip
        for row in range(len(case["documents"][0])):
            length = case["sequence_length"]
            used = [documents[i] for i in case["document_indices"][row * length : (row + 1) * length]]
            steps = []
            for place, metadata in enumerate(case["metadata"][:length]):
                target, kind, form = (
                    metadata[row][key] for key in ("target_to_learn", "target_type_to_learn", "format_in_doc")
                )
                steps.append(make_step(used[place], target, kind, form, given, random.Random(0)))
            if case["unlearning"]:
                steps.append(turned_step(steps[0], used[0]))
            texts = [texts[row] for texts in case["documents"]]
            pairs = [pairs[row] for pairs in case["input_output_pairs"]]
            yield case, given, used, tuple(steps), texts, pairs


def as_golden(query: Query) -> dict:
    """A query with the fields of a golden pair; its outputs are bare."""
    fields = {
        name: getattr(query, name)
        for name in ("input", "true_output", "false_output", "category", "subcategory", "type", "fact_id",
                     "fact_id_targeted_for_fact_learning", "fact_id_targeted_for_refusal_learning", "should_refuse",
                     "target_output", "non_target_output")
    }  # fmt: skip
    if query.type == "true_output_neighbor":
        fields["neighbor_of_should_refuse"] = query.neighbor_of_should_refuse
    return fields


def bare(pair: dict) -> dict:
    kept = {key: value.strip() if key.endswith("output") else value for key, value in pair.items()}
    kept.pop("origin_seq_idx", None)
    return kept


def test_golden_texts_but_for_published_defects(golden_folder):
    differing = {}
    for case, _, _, steps, texts, _ in golden_cases(golden_folder):
        for place, (step, text) in enumerate(zip(steps, texts, strict=True)):
            if step.document != text:
                assert place == case["sequence_length"], "only appended documents may differ"
                differing[case["name"]] = step.document
    assert differing.keys() == PUBLISHED_DEFECTS.keys()
    for name, (line, _) in PUBLISHED_DEFECTS.items():
        assert line in differing[name]


def test_golden_queries_of_evaluation(golden_folder):
    checked = 0
    for case, _, _, steps, _, pairs in golden_cases(golden_folder):
        if case["train_or_test"] == "test":
            for step, expected in zip(steps, pairs, strict=True):
                assert [as_golden(query) for query in step.queries] == [bare(pair) for pair in expected], case["name"]
                checked += 1
    assert checked == 33


def test_golden_queries_of_training(golden_folder):
    """Which queries are drawn is random; their answers, their numbers by kind and the pulled-back ones are not."""
    cases = 0
    for case, given, used, steps, _, pairs in golden_cases(golden_folder):
        if case["train_or_test"] != "train":
            continue
        cases += 1
        own_pairs = [[bare(pair) for pair in step if pair["type"] != "future_paraphrase"] for step in pairs]
        drawn = []
        for place, (step, own) in enumerate(zip(steps, own_pairs, strict=True)):
            document = used[place % case["sequence_length"]]
            whole = make_step(document, step.target, step.target_type, None, wide(given), random.Random(0))
            whole = turned_step(whole, document) if place == case["sequence_length"] else whole
            known = {(query.input, query.type): query for query in whole.queries}
            drawn.append(tuple(known[pair["input"], pair["type"]] for pair in own))
            assert [as_golden(query) for query in drawn[-1]] == own
            assert Counter(map(kind, drawn[-1])) == Counter(map(kind, step.queries))
        # The published code also asks the pulled-back queries after the appended document, where they are no
        # longer in the future; ours does not.
        steps = tuple(replace_queries(step, queries) for step, queries in zip(steps, drawn, strict=True))
        sequence = Episode(steps, case["unlearning"])
        for t in range(case["sequence_length"]):
            future = [pair for pair in pairs[t] if pair["type"] == "future_paraphrase"]
            ours = [
                query for _, query in asked(sequence, t, given, random.Random(0)) if query.type == "future_paraphrase"
            ]
            outputs = {
                (pair["input"], pair["target_output"].strip(), pair["non_target_output"].strip()) for pair in future
            }
            assert {(query.input, query.target_output, query.non_target_output) for query in ours} == outputs
            assert len(ours) == len(future)
    assert cases == 2


def wide(given: SequenceSettings) -> SequenceSettings:
    return given.model_copy(update={"sampling": Sampling(**dict.fromkeys(SAMPLING, 99)), "split": "test"})


def kind(query: Query) -> tuple:
    return query.type, query.learn, query.refuse


def replace_queries(step, queries):
    return type(step)(step.document, step.instruction, step.target, step.target_type, step.format, queries)
