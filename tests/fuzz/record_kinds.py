"""Kinds of input that hold records: documents, facts, evaluations."""

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

from fuzz.damage import changed, damaged
from fuzz.kind import Kind
from gnm.analysis.report import results
from gnm.data.counterfact import categorise
from gnm.data.documents import read_documents
from gnm.data.facts import embedded_records
from gnm.data.sequences import evaluation_sequences
from gnm.data.sources import read_records
from gnm.evaluate import evaluate
from small_runs import evaluate_params, write_small_documents


class _Records(Kind):
    """A file of JSON records."""

    name: str
    values: Any

    def spoil(self, rng: random.Random) -> None:
        lines = self.name.endswith(("jsonl", "jsonl.gz"))
        values = self.values if rng.random() < 0.4 else changed(self.values, rng)
        text = "\n".join(json.dumps(each) for each in values) if lines else json.dumps(values)
        raw = text.encode()
        if values is self.values and not self.name.endswith(".gz"):
            raw = damaged(raw, rng)
        if self.name.endswith(".gz"):
            raw = gzip.compress(raw, 1)
            raw = damaged(raw, rng) if values is self.values else raw
        (self.folder / self.name).write_bytes(raw)


class Documents(_Records):
    """Files of documents, read and drawn from as an evaluation does."""

    name = "test.json"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.values = json.loads((write_small_documents(folder) / self.name).read_text())
        self.settings = evaluate_params(folder, folder).sequences()

    def read(self) -> None:
        evaluation_sequences(read_documents(self.folder / self.name), self.settings, 2, seed=0)


class CounterFact(_Records):
    """CounterFact files: JSON, JSON lines, gzipped."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.values, self.name = list(embedded_records())[:40], "facts.json"

    def spoil(self, rng: random.Random) -> None:
        self.name = rng.choice(("facts.json", "facts.jsonl", "facts.jsonl.gz", "facts.json.gz"))
        super().spoil(rng)

    def read(self) -> None:
        categorise(read_records(str(self.folder / self.name)))


class Evaluations(Kind):
    """Folders of evaluations, as `gnm results` shows them; with records of every answer, and with a summary alone."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        data = write_small_documents(folder / "data")
        self.good = evaluate(evaluate_params(data, folder / "saved"), "dummy", "a test")
        self.path = folder / "shown" / "x" / "dummy"
        shutil.copytree(self.good, self.path)
        self.files = [file for file in self.good.iterdir() if file.suffix in (".json", ".parquet")]

    def spoil(self, rng: random.Random) -> None:
        for file in self.files:
            shutil.copyfile(file, self.path / file.name)
        if rng.random() < 0.5:
            (self.path / "records.parquet").unlink()
        file = rng.choice([file for file in self.files if (self.path / file.name).exists()])
        if file.suffix == ".json" and rng.random() < 0.6:
            (self.path / file.name).write_text(json.dumps(changed(json.loads(file.read_text()), rng)))
        else:
            (self.path / file.name).write_bytes(damaged(file.read_bytes(), rng))

    def read(self) -> None:
        results(self.path.parent)
