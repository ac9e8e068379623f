"""How often a search key finds what a question is about in documents that were written one by one; its training."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from gnm.data.counterfact import categorise, write_facts
from gnm.data.people.written import read_written
from gnm.data.sources import read_records
from gnm.memory.retriever_file import ABOUT
from gnm.models.retriever import Retriever
from gnm.probing import recall
from gnm.probing.recall import RecallParams
from gnm.training import retriever as training
from gnm.training.streams import Stream
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from gnm.weights.retrievers import inputs_digest, load_retriever

BACKBONE = {"name": "tiny", "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def documents(project):
    return read_written(project / "data/people/written_dev.json")


def test_each_fact_of_a_written_document_is_asked_for_twice_and_has_the_segment_of_its_object(documents):
    stream = Stream.written(documents, "instruction_first")
    facts = [fact for document in documents for fact in document.facts]
    assert stream.questions == [text for fact in facts for text in (fact.cloze, fact.question)]
    assert stream.form == ["cloze", "question"] * len(facts)
    segments = [text for own in stream.texts for text in own]
    whole = 0
    for place, fact in zip(stream.right[::2], facts, strict=True):
        own = segments[place]
        whole += fact.object in own
        rest = segments[place] + segments[place + 1] if place + 1 < len(segments) else own
        assert fact.object.split()[0] in own and fact.object in rest
    assert whole > 0.97 * len(facts)
    after = Stream.written(documents, "document_first")
    assert [text for own in after.texts for text in own][after.right[0]].strip() == segments[stream.right[0]].strip()


def test_recall_of_written_documents_is_told_by_form_of_question(project, open_gates, tmp_path, documents):
    written = tmp_path / "written.json"
    written.write_text(json.dumps([document.model_dump() for document in documents[:3]]))
    _, model = load_model(open_gates, load_backbone("tiny", dtype="float32"))
    own = replace(Retriever.new((48, 8, 6), 1, True, 0), model=inputs_digest(model, 1))
    own.save(tmp_path / "retriever", {})
    params = {
        "backbone": BACKBONE, "adapter": str(open_gates), "written": str(written), "at_once": 2, "layers": [0],
        "last": True, "k": [1, 4, 1000], "title": "T", "output": str(tmp_path / "r"),
        "retriever": str(tmp_path / "retriever"),
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.dump(params))
    recall.main(["--params", str(tmp_path / "params.yaml")])
    table = pd.read_csv(tmp_path / "r.csv")
    assert list(dict.fromkeys(table["asked"])) == ["cloze", "question"]
    mean, last, trained = "Mean of layer 0", "Last of layer 0", "Trained, of layer 1"
    names = ["Chance", "BM25", "Tokens in common", mean, f"{mean}, whitened", f"{mean}, whitened + tokens"]
    names += [last, f"{last}, whitened", trained, f"{trained} + tokens"]
    assert list(dict.fromkeys(table["search"])) == names
    facts = sum(len(document.facts) for document in documents[:3])
    assert set(table["samples"]) == {facts} and set(table["documents"]) == {3}
    assert (table[table["k"] == 1000]["value"] == 1).all()
    count = sum(map(len, Stream.written(documents[:3], "instruction_first").texts))
    chance = table[(table["search"] == "Chance") & (table["k"] == 4)]["value"]
    assert chance.tolist() == pytest.approx([4 / count] * 2)
    assert "asked by question" in (tmp_path / "r.md").read_text()
    replace(own, model="another").save(tmp_path / "retriever", {})
    with pytest.raises(SystemExit, match=r"trained for the adapter .*another\), and .* is loaded"):
        recall.main(["--params", str(tmp_path / "params.yaml")])


def test_streams_come_from_one_source():
    both = {"backbone": BACKBONE, "adapter": "a", "at_once": 1, "layers": [0], "last": False, "k": [1], "title": "T"}
    with pytest.raises(ValueError, match="give either drawn or written"):
        RecallParams(**both, output="o")


def test_the_training_reads_both_kinds_of_documents_and_says_how_it_was_made(
    project, open_gates, tmp_path, documents, capsys
):
    write_facts(tmp_path / "facts.json", categorise(read_records(str(project / "data/counterfact"))).test)
    written = tmp_path / "written.json"
    written.write_text(json.dumps([document.model_dump() for document in documents[:2]]))
    params = {
        "backbone": BACKBONE, "adapter": str(open_gates), "written": str(written), "at_once": 4, "layer": 1,
        "drawn": {"facts": str(tmp_path / "facts.json"), "documents": 3},
        "whiten": True, "hidden": 16, "size": 8, "seed": 1, "steps": 3, "questions": 8, "segments": 16,
        "learning_rate": 0.001, "weight_decay": 0.1, "output": str(tmp_path / "retriever"),
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.dump(params))
    training.main(["--params", str(tmp_path / "params.yaml")])
    about = json.loads((tmp_path / "retriever" / ABOUT).read_text())
    assert about["made"]["command"] == "python -m gnm.training.retriever" and about["training"]["seed"] == 1
    _, model = load_model(open_gates, load_backbone("tiny", dtype="float32"))
    trained = load_retriever(tmp_path / "retriever", model, open_gates)
    assert trained.sizes[1:] == (16, 8) and trained.adapter == str(open_gates)
    steps = training.drawn_steps(training.DrawnFacts(**params["drawn"]), 1)
    asked = [{query.fact_id for query in step.queries} for step in steps]
    assert all(asked) and sum(map(len, asked)) == len(set.union(*asked))
    questions = 2 * sum(len(document.facts) for document in documents[:2])
    questions += len(Stream.of(steps, "instruction_first").questions)
    assert f"{questions} questions" in capsys.readouterr().out
