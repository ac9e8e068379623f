"""Tiny results of the code, a set for each number of src/gnm/revision.yaml. `python tests/revisions.py` renews them.

They are made on a random backbone in float32. Texts and counts are equal on every machine, floats within 1e-3.
"""

import hashlib
import json
import lzma
import sys
from collections.abc import Callable
from importlib import resources
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
import yaml

from analysis.evaluations import made_up_records, save_evaluation
from gnm.analysis.report import read_experiment, results, sample_answers
from gnm.config import validate
from gnm.data.pipelines import CategoriseParams, DocumentsParams, run_categorise, run_documents
from gnm.evaluate import evaluate
from gnm.evaluate_people import PeopleParams, evaluate_people
from gnm.metrics.records import read_records
from gnm.params import EvaluateParams, TrainParams
from gnm.train import Trainer
from gnm.training.batches import TrainingEpisode
from small_runs import evaluate_settings, train_settings, write_small_documents

PROJECT = Path(__file__).resolve().parents[1]
REVISION = PROJECT / "src" / "gnm" / "revision.yaml"
GOLDEN = PROJECT / "tests" / "golden" / "revision"
TOLERANCE = 1e-3

TINY = {"name": "tiny", "dtype": "float32", "device": "cpu"}
PEOPLE = {"share": 0.5, "eligible_formats": ["json_text"]}
GATED = {"method": "gnm", "write": {"gates": {"threshold": 0.5}}}
STEPS, RECORDS = 2, 600
# of a record: equal everywhere, and within the tolerance
NAMED = ["sequence", "q", "t", "type", "subcategory", "learn", "should_refuse", "input", "target_output", "generated"]
SCORED = ["logit_target", "logit_non_target", "nll", "flops_per_token"]


def data(folder: Path) -> dict[str, Any]:
    """Every file of the data pipelines as a digest: documents of the embedded facts, and facts of CounterFact."""
    categorised(folder, "facts_of_counterfact")
    run_categorise(CategoriseParams(source="embedded", revision=None, output=folder / "facts"))
    counts = {"train_documents_per_file": 20, "val_documents": 20, "test_documents_per_file": 20}
    files = {"train_files": 1, "test_files": 1, "min_subcategories": 3, "seed": 0}
    run_documents(DocumentsParams(facts=folder / "facts", output=folder / "documents", **counts, **files))
    made = sorted(path for path in folder.rglob("*.json") if path.name != "report.json")
    return {str(path.relative_to(folder)): digest(path.read_text(encoding="utf-8")) for path in made}


def training(folder: Path) -> dict[str, Any]:
    """Losses of the first steps, the sum of the trained weights' sizes after them, and what the steps ask, for a
    memory with gates and for in-context fine-tuning."""
    settings = train_settings(write_small_documents(folder), folder)
    settings["methods"] = {"gated": GATED, "in_context_ft": {"method": "in_context_ft"}}
    settings["loop"] |= {"curriculum": None, "validation_sequences": 1}
    facts = str(categorised(folder, "facts") / "train.json")
    settings["people"] = PEOPLE | {"train": facts, "validation": facts}
    made = {"texts": package_texts()}
    for method in settings["methods"]:
        run = Trainer(validate(settings, TrainParams, "revisions"), method, "revisions")
        steps = list(islice(run.steps_from(0), STEPS))
        means = [run.step(number, steps[number]) for number in range(STEPS)]
        with torch.no_grad():
            size = sum(parameter.abs().sum().item() for parameter in run.parameters)
        made[method] = {"steps": digest(told(steps)), "means": means, "validation": run.validate(), "size": size}
    return made


def answering(folder: Path) -> dict[str, Any]:
    """The records and the summary of a tiny evaluation of several methods, and the records of one of probes."""
    settings = evaluate_settings(write_small_documents(folder), folder)
    settings["methods"] = {
        "memoryllm": {"method": "memoryllm"},
        "pool": {"method": "memoryllm", "memory": {"capacity": 1000, "eviction": "oldest"}, "write": {"reads": "all"}},
        "in_context": {"method": "in_context", "prompt": "continuation"},
        "retrieval": {"method": "retrieval", "retriever": "bm25", "top_k": 2},
        "text_notes": {"method": "text_notes", "max_note_tokens": 4},
    }
    settings["loop"] |= {"sequences": 2, "sequence_length": 2}
    settings["targets"]["target_types"] = ["fact_subcategories", "formats", "refusal_subcategories"]
    settings["targets"]["eligible_formats"] = ["json_text", "yaml_answer"]
    made = {"texts": package_texts(of_training=False)}
    for method in settings["methods"]:
        params = validate(settings, EvaluateParams, "revisions")
        saved = evaluate(params, method, "revisions")
        summary = json.loads((saved / "summary.json").read_text())
        made[method] = recorded(read_records(saved / "records.parquet")) | {"summary": summary}
    probes = json.loads((PROJECT / "data/people/people_dev.json").read_text(encoding="utf-8"))[:2]
    (folder / "probes.json").write_text(json.dumps(probes), encoding="utf-8")
    people = {"backbone": TINY, "methods": {"memoryllm": {"method": "memoryllm"}}, "max_new_tokens": 2}
    people |= {"probes": str(folder / "probes.json"), "output": str(folder / "people")}
    saved = evaluate_people(validate(people, PeopleParams, "revisions"), "memoryllm", "revisions")
    made["people"] = {"figures": digest((saved / "figures.csv").read_text())}
    made["people"]["records"] = digest(pd.read_parquet(saved / "records.parquet").to_csv())
    return made


def reporting(folder: Path) -> dict[str, Any]:
    """Table and text of a report on made-up evaluations."""
    for seed, method in enumerate(("gnm", "in_context")):
        save_evaluation(folder / "evals" / method, made_up_records(seed))
    figures = ["score", "accuracy", "retention@2", "format_accuracy", "refusal_f1"]
    said = results(folder / "evals", figures, folder / "out") + sample_answers(read_experiment(folder / "evals")[0], 2)
    return {"said": said.splitlines(), "table": (folder / "out.csv").read_text().splitlines()}


RESULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "data": data, "training": training, "answering": answering, "reporting": reporting,
}  # fmt: skip


def told(steps: list[list[TrainingEpisode]]) -> str:
    """Everything that training steps write and ask, one text after the other."""
    episodes = [episode for step in steps for episode in step]
    written = [(step.document, step.instruction) for episode in episodes for step in episode.steps]
    queries = [query for episode in episodes for asked in episode.queries for query in asked]
    return json.dumps([written, [(query.input, query.target_output, query.format) for query in queries]])


def categorised(folder: Path, name: str) -> Path:
    """The folder `name` with the facts of the first records of each file of CounterFact."""
    (folder / "records").mkdir()
    for split in ("train", "test"):
        with lzma.open(PROJECT / "data" / "counterfact" / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
            first = "".join(islice(lines, RECORDS))
        (folder / "records" / f"{split}.jsonl").write_text(first, encoding="utf-8")
    run_categorise(CategoriseParams(source=str(folder / "records"), revision=None, output=folder / name))
    return folder / name


def recorded(records: pd.DataFrame) -> dict[str, Any]:
    """What the answers were and how they were scored."""
    return {"rows": digest(records[NAMED].to_csv()), **records[SCORED].mean().to_dict()}


def package_texts(of_training: bool = True) -> str:
    """A digest of the data of the package out of which documents, instructions and questions are drawn.

    of_training: with what training alone draws from, people's words.
    """
    root = Path(str(resources.files("gnm.data")))
    read = {"yaml": yaml.safe_load, "csv": str.splitlines}
    files = sorted(path for suffix in read for path in root.rglob(f"*.{suffix}"))
    files = [path for path in files if of_training or path.parent.name != "people"]
    parsed = {str(path.relative_to(root)): read[path.suffix[1:]](path.read_text(encoding="utf-8")) for path in files}
    return digest(json.dumps(parsed, sort_keys=True, default=str))


def digest(text: str) -> str:
    """16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def made_now(name: str) -> dict[str, Any]:
    """The tiny results of one kind, as JSON would give them back."""
    with TemporaryDirectory() as folder:
        return json.loads(json.dumps(RESULTS[name](Path(folder))))


def revisions() -> dict[str, int]:
    """The numbers of revision.yaml."""
    return yaml.safe_load(REVISION.read_text(encoding="utf-8"))


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """Where two results differ: the keys' path, and both values."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        return [line for key in before for line in differences(before[key], now[key], f"{at}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for number, (one, other) in pairs for line in differences(one, other, f"{at}[{number}]")]
    if isinstance(before, float) and isinstance(now, float):
        same = abs(before - now) <= TOLERANCE * max(1.0, abs(before))
    else:
        same = before == now
    return [] if same else [f"{at}: {before} -> {now}"]


def renew() -> None:
    """Write the results of every kind whose number was raised; refuse where results changed and the number did not."""
    refused = []
    for name, number in revisions().items():
        path, now = GOLDEN / f"{name}.json", made_now(name)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if before and before["revision"] == number:
            refused += [f"{name}: {line}" for line in differences(before["results"], now)]
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"revision": number, "results": now}, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: results of revision {number} written")
    if refused:
        sys.exit("\n".join([*refused, f"results changed: raise the number in {REVISION} first"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    renew()
