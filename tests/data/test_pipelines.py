import gzip
import json
from pathlib import Path

import pytest
import yaml
from made_up_facts import make_facts, make_record

from gnm.config import load_params
from gnm.data.counterfact import read_facts
from gnm.data.documents import read_documents
from gnm.data.people.wordings import is_worded
from gnm.data.pipelines import CategoriseParams, DocumentsParams, main
from gnm.data.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
STAGES = {
    "categorise": ("generate_categorized_counterfact_data_from_mapping", CategoriseParams),
    "documents": ("generate_documents", DocumentsParams),
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A project's layout with CounterFact of made-up facts, and the first stage's folder as working directory."""
    records = [
        make_record(
            case_id=fact.fact_id,
            requested_rewrite={
                "prompt": fact.prompt,
                "subject": fact.subject,
                "target_new": {"str": f" {fact.false}"},
                "target_true": {"str": f" {fact.true}"},
            },
            paraphrase_prompts=list(fact.paraphrases),
        )
        for fact in make_facts(20)
    ]
    (tmp_path / "counterfact.json").write_text(json.dumps(records))
    for folder, _ in STAGES.values():
        (tmp_path / "data_pipelines" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data_pipelines" / STAGES["categorise"][0])
    return tmp_path


def run(project: Path, stage: str, *overrides: str) -> None:
    main([stage, "--params", str(project / "data_pipelines" / STAGES[stage][0] / "params.yaml"), *overrides])


def sold_in(false: str, case_id: int) -> dict:
    """A record of a relation with two wordings; its paraphrase is the one that is not its prompt."""
    prompts = ["{} is sold in", "You can buy {} in"]
    return make_record(
        case_id=case_id,
        requested_rewrite={
            "prompt": prompts[case_id % 2],
            "relation_id": "P1",
            "subject": f"Thing {case_id}",
            "target_new": {"str": false},
            "target_true": {"str": "Chile"},
        },
        paraphrase_prompts=["It rained. " + prompts[1 - case_id % 2].replace("{}", f"Thing {case_id}")],
    )


def make_facts_files(project: Path) -> None:
    run(project, "categorise", "source=../../counterfact.json")


def test_both_stages_write_the_data_sets_layout(project, place, capsys):
    make_facts_files(project)
    run(project, "documents")
    report = json.loads((place / "data/counterfact_categorized/report.json").read_text())
    assert report["source"] == "../../counterfact.json" and report["revision"] is None
    assert report["facts"] == {"train": 216, "test": 104} and report["moved_from_train_to_test"] == 72
    folder = place / "data/counterfact_gnm/data"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json")) == [
        *(f"test/test_unseen_categories_{number}.json" for number in range(3)),
        *(f"train/train_{number}.json" for number in range(5)),
        "val/test_seen_categories.json",
    ]
    train = read_documents(folder / "train")
    assert {group for document in train for group in document.subcategories} == set(TAXONOMY.seen)
    for number in range(3):
        test = read_documents(folder / f"test/test_unseen_categories_{number}.json")
        assert {document.groupings[0] for document in test} <= set(TAXONOMY.unseen)
    val = read_documents(folder / "val")
    assert {group for document in val for group in document.subcategories} == set(TAXONOMY.seen)
    trained = {fact_id for document in train for fact_id in document.fact_ids}
    assert not trained & {fact_id for document in val for fact_id in document.fact_ids}
    said = capsys.readouterr().out
    assert "72 moved to test" in said and (report["paraphrases"]["share"] < 0.8) == ("warning: only" in said)


def test_a_file_does_not_change_with_the_number_of_others(project, place):
    make_facts_files(project)
    run(project, "documents")
    file = place / "data/counterfact_gnm/data/train/train_1.json"
    before = file.read_text()
    assert before != (file.parent / "train_0.json").read_text()
    run(project, "documents", "train_files=2")
    assert file.read_text() == before
    assert not (file.parent / "train_4.json").exists()
    run(project, "documents", "train_files=2", "seed=1")
    assert file.read_text() != before


def test_counts_are_kept(project, place):
    make_facts_files(project)
    run(project, "documents", "train_documents_per_file=4", "val_documents=2", "test_documents_per_file=3")
    folder = place / "data/counterfact_gnm/data"
    assert [len(read_documents(folder / name)) for name in ("train", "val", "test")] == [20, 2, 9]


def test_the_shipped_table_asks_for_its_objects(project, place, capsys):
    run(project, "categorise", f"source={project / 'data/counterfact'}")
    report = json.loads((place / "data/counterfact_categorized/report.json").read_text())
    assert sum(report["facts"].values()) + report["dropped"] == 21919
    assert report["paraphrases"]["share"] > 0.99 and "warning" not in capsys.readouterr().out
    facts = read_facts(place / "data/counterfact_categorized/train.json")
    assert all(is_worded(fact) for fact in facts)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jsonl", b"", "empty.jsonl holds no records"),
        ("empty.jsonl", b"\n \n", "empty.jsonl holds no records"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "empty.jsonl.gz holds no records"),
        ("other.jsonl", json.dumps(sold_in("Zzyzx Nowhere", 1)).encode(), "no fact whose object"),
    ],
)
def test_a_source_without_any_fact_replaces_nothing(project, place, name, data, message):
    make_facts_files(project)
    before = (place / "data/counterfact_categorized/train.json").read_text()
    (place / name).write_bytes(data)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(project, "categorise", f"source=../../{name}")
    assert (place / "data/counterfact_categorized/train.json").read_text() == before


@pytest.mark.parametrize(("wrong", "warned"), [(2, False), (3, True)])
def test_a_source_is_warned_of_below_four_fifths_of_known_wordings(project, place, capsys, wrong, warned):
    records = [sold_in("Japan", number) for number in range(10)]
    for record in records[:wrong]:
        record["paraphrase_prompts"] = ["People like " + record["requested_rewrite"]["subject"] + " for"]
    (place / "sold.json").write_text(json.dumps(records))
    run(project, "categorise", "source=../../sold.json")
    report = json.loads((place / "data/counterfact_categorized/report.json").read_text())["paraphrases"]
    others = report.pop("others")
    assert report == {"count": 10, "known_wordings": 10 - wrong, "share": (10 - wrong) / 10}
    assert sorted(others) == [f"People like Thing {number} for" for number in range(wrong)]
    assert ("warning: " in capsys.readouterr().out) == warned


def test_the_embedded_facts_are_a_source(project, place):
    run(project, "categorise", "source=embedded")
    run(project, "documents")
    report = json.loads((place / "data/counterfact_categorized/report.json").read_text())
    assert report["dropped"] == 0 and report["revision"] is None and "paraphrases" not in report
    assert len(read_documents(place / "data/counterfact_gnm/data/train/train_0.json")) > 20


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("categorise", ["source=../../nowhere"], "does not exist"),
        ("categorise", ["sorce=x"], "did you mean 'source'"),
        ("categorise", ["source=../../counterfact.json", "output=../.."], "would delete"),
        ("categorise", ["source=../../counterfact.json", "output=../../counterfact.json"], "is a file"),
        ("documents", [], "train.json"),
        ("documents", ["min_subcategories=1"], "min_subcategories"),
    ],
)
def test_what_cannot_work_ends_with_one_sentence(project, place, stage, overrides, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(project, stage, *overrides)
    assert (place / "counterfact.json").exists()


def test_a_failed_stage_leaves_the_former_result(project, place):
    make_facts_files(project)
    run(project, "documents", "train_files=1")
    folder = place / "data/counterfact_gnm/data"
    with pytest.raises(SystemExit, match="val/test_seen_categories.json: .*900"):
        run(project, "documents", "train_files=2", "val_documents=900")
    assert [path.name for path in (folder / "train").iterdir()] == ["train_0.json"]
    assert {path.name for path in folder.parent.iterdir()} == {"data"}


def test_train_facts_of_held_out_groups_are_refused(project, place):
    make_facts_files(project)
    folder = place / "data/counterfact_categorized"
    (folder / "train.json").write_text((folder / "test.json").read_text())
    with pytest.raises(SystemExit, match="held-out groups"):
        run(project, "documents")


@pytest.mark.parametrize("stage", STAGES)
def test_shipped_settings_and_stages_fit_together(project, stage):
    name, schema = STAGES[stage]
    folder = project / "data_pipelines" / name
    params = load_params(folder / "params.yaml", schema)
    described = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"][stage]
    assert [key for key in described["params"] if isinstance(key, str)] == list(schema.model_fields)
    assert {"../../src/gnm/revision.yaml": ["data"]} in described["params"]
    assert described["cmd"] == f"python -m gnm.data.pipelines {stage} --params params.yaml"
    assert described["outs"] == [str(params.output)]
    missing = [dep for dep in described["deps"] if "../src/" in dep and not (folder / dep).exists()]
    assert not missing
    assert str(params.source if stage == "categorise" else params.facts) in described["deps"]
    text = (folder / "params.yaml").read_text().splitlines()
    for key in schema.model_fields:
        (line,) = [number for number, line in enumerate(text) if line.startswith(f"{key}:")]
        assert text[line - 1].startswith("# "), f"{key} has no comment"
