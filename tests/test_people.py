"""The evaluation in people's words: what is asked and judged of a probe, its figures, its tables."""

import json
from unittest.mock import Mock

import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from gnm import evaluate_people as program
from gnm.analysis import people as tables
from gnm.analysis.style import method_style
from gnm.config import load_params
from gnm.data.formats import apply_format
from gnm.data.people.written import read_written
from gnm.data.people.written_probes import probes_of
from gnm.data.probes import Probe, ProbeQuery
from gnm.errors import ConfigError, DataError
from gnm.learners.base import Answer
from gnm.metrics.people import people_figures
from gnm.params import PeopleParams

ASIA = ProbeQuery("Where is Bern?", "question", "Asia", "Europe", "learned")


class Parrot:
    """A learner that says and scores what it was told to, and notes what it was asked and told."""

    def __init__(self, written, nothing):
        self.by_state, self.told, self.asked = {"written": written, "nothing": nothing}, [], []

    def reset(self, seeds):
        return "nothing"

    def write(self, state, documents, instructions):
        self.told.append((documents[0], instructions[0]))
        return "written"

    def revoke(self, state, instructions):
        self.told.append(instructions[0])
        return "written"

    def answer(self, state, questions, max_new_tokens):
        self.asked += questions[0]
        text, wins = self.by_state[state]
        return [[Answer(text, float(q.target in wins), 0.5, 0.0, 1) for q in questions[0]]]


def row(query, written, nothing=("", ()), steps=(("Bern is in Asia.", "Learn it."),)):
    learner = Parrot(written, nothing)
    [found] = program.run_probe(learner, Probe("p", "select", "prose", "mixed", steps, (query,)), 0, 4)
    return found, learner


@pytest.mark.parametrize(
    ("expect", "said", "right"),
    [
        ("learned", "in Asia", True), ("learned", "Europe", False), ("learned", "Sorry, Asia", False),
        ("ignored", "europe.", True), ("ignored", "Asia", False), ("neighbour", "Europe", True),
        ("refused", "Sorry", True), ("refused", "I am sorry.", True), ("refused", "Asia", False),
    ],
)  # fmt: skip
def test_what_is_said(expect, said, right):
    query = ProbeQuery("Where is Bern?", "question", "Asia", "Europe", expect)
    assert row(query, (said, ()))[0]["said"] is right


def test_the_contest_is_between_the_right_object_and_every_wrong_one():
    outdated = ProbeQuery("Where is Bern?", "question", "Asia", "Europe", "learned", rival="Africa")
    found, learner = row(outdated, ("Asia", ("Asia",)), ("Europe", ()))
    assert found["contest"] and not found["known_contest"]
    assert [q.other for q in learner.asked[:2]] == ["Europe", "Africa"]
    ignored = ProbeQuery("Where is Bern?", "question", "Asia", "Europe", "ignored")
    assert [(q.target, q.other) for q in row(ignored, ("", ()))[1].asked] == [("Europe", "Asia")] * 2
    assert row(ProbeQuery("?", "question", "Asia", "Europe", "refused"), ("Sorry", ()))[0]["contest"] is None


def test_a_format_is_asked_for_and_its_content_is_judged():
    query = ProbeQuery("Where is Bern?", "question", "Asia", "Europe", "learned", format="json_text")
    wrapped = apply_format("Asia", "json_text")
    found, learner = row(query, (wrapped, ()))
    assert found["format_right"] and found["said"] and learner.asked[0].said == wrapped
    assert learner.asked[1].said is None  # with nothing written no format is in force
    assert not row(query, ("Asia", ()))[0]["format_right"]


def test_an_instruction_without_a_document_takes_something_back():
    _, learner = row(ASIA, ("Asia", ()), steps=(("Bern is in Asia.", "Learn it."), (" ", "Forget it.")))
    assert learner.told == [("Bern is in Asia.", "Learn it."), "Forget it."]


def records(rows):
    blank = {"probe": "a", "kind": "select", "document_style": "prose", "form": "cloze", "said": False, "states": False}
    blank |= {"contest": None, "known_contest": None, "known_said": False, "refused": False}
    return pd.DataFrame([blank | {"format_expected": None, "format_right": True} | r for r in rows])


def figure(frame, name, by="all", group="all"):
    found = frame[(frame["by"] == by) & (frame["group"] == group) & (frame["figure"] == name)]
    return None if found.empty else (found["value"].item(), found["samples"].item())


def test_leakage_counts_what_was_known_with_nothing_written():
    leak = {"expect": "ignored", "contest": False, "known_contest": True}
    kept = leak | {"contest": True}
    unknown = leak | {"known_contest": False}
    back = leak | {"kind": "forget"}
    found = people_figures(records([leak, kept, kept, unknown, unknown, back, {**leak, "expect": "neighbour"}]))
    assert figure(found, "leakage") == (pytest.approx(1 / 3), 3)
    assert figure(found, "taken_back_leakage") == (1.0, 1) and figure(found, "neighbour_leakage") == (1.0, 1)
    assert figure(found, "leakage", "kind", "forget") is None


def test_corrected_and_refused_and_format_are_shares_of_their_own():
    rows = [
        {"expect": "learned", "kind": "revise", "contest": True, "said": False},
        {"expect": "learned", "kind": "revise", "contest": True, "said": True, "probe": "b"},
        {"expect": "learned", "contest": False, "said": False},
        {"expect": "refused", "refused": True},
        {"expect": "learned", "format_expected": "json_text", "format_right": False},
    ]
    found = people_figures(records(rows))
    assert figure(found, "corrected_said") == (0.5, 2) and figure(found, "learned")[1] == 4
    assert figure(found, "refused") == (1.0, 1) and figure(found, "format") == (0.0, 1)
    assert figure(found, "not_refused") == (1.0, 4)


def test_an_evaluation_and_its_tables(project, tmp_path, monkeypatch):
    probes = json.loads((project / "data/people/people_dev.json").read_text())[:2]
    (tmp_path / "probes.json").write_text(json.dumps(probes))
    settings = {
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {"gnm": {"method": "gnm"}, "no_memory": {"method": "no_memory"}},
        "probes": str(tmp_path / "probes.json"), "max_new_tokens": 2, "output": str(tmp_path / "evals"),
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(json.dumps(settings))
    for method in settings["methods"]:
        program.main(["--method", method, "--params", str(tmp_path / "params.yaml")])
    found = pd.read_parquet(tmp_path / "evals/gnm/records.parquet")
    assert len(found) == sum(len(probe["queries"]) for probe in probes)
    none = pd.read_parquet(tmp_path / "evals/no_memory/records.parquet")
    assert (none["generated"] == none["known_generated"]).all()
    (tmp_path / "evals/no_memory/old.csv").touch()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(program, "write_json", Mock(side_effect=OSError("killed")))
        program.evaluate_people(load_params(tmp_path / "params.yaml", PeopleParams), "no_memory", "a test")
    assert (tmp_path / "evals/no_memory/old.csv").exists()
    program.main(["--method", "no_memory", "--params", str(tmp_path / "params.yaml")])
    assert not (tmp_path / "evals/no_memory/old.csv").exists()  # the whole folder is replaced
    params = tables.PeopleReport(evaluations=tmp_path / "evals", shown="gnm", title="T", output=tmp_path / "out")
    said = tables.report(params)
    assert "| GNM |" in said and "| No memory |" in said and "| select |" in said
    assert (tmp_path / "out.png").stat().st_size > 10_000 and len(pd.read_csv(tmp_path / "out.csv")) > 20
    with pytest.raises(DataError, match="no evaluation of 'gnn'"):
        tables.report(params.model_copy(update={"shown": "gnn"}))
    drawn = tables.by_form(pd.read_csv(tmp_path / "evals/gnm/figures.csv"), "T", "generalist")
    bars = [bar for axes in drawn.subfigs[0].axes for bar in axes.patches]
    assert {bar.get_facecolor() for bar in bars} == {to_rgba(method_style("generalist").color)}
    assert {bar.get_hatch() for bar in bars} == {"", "////"}, "by form of document, and of question"


def test_documents_written_one_by_one_become_probes(project, tmp_path):
    settings = {
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {"no_memory": {"method": "no_memory"}},
        "written": str(tmp_path / "written.json"), "max_new_tokens": 2, "output": str(tmp_path / "evals"),
    }  # fmt: skip
    written = json.loads((project / "data/people/written_dev.json").read_text())[:1]
    (tmp_path / "written.json").write_text(json.dumps(written))
    (tmp_path / "params.yaml").write_text(json.dumps(settings))
    program.main(["--method", "no_memory", "--params", str(tmp_path / "params.yaml")])
    found = pd.read_parquet(tmp_path / "evals/no_memory/records.parquet")
    assert set(found["probe"]) == {probe.id for probe in probes_of(read_written(tmp_path / "written.json"))}
    for change in ({"probes": "people.json"}, {"written": None}):
        (tmp_path / "params.yaml").write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match="give either probes or written"):
            load_params(tmp_path / "params.yaml", PeopleParams)
