"""Settings of training and evaluation small enough for tests: tiny backbone, a handful of embedded documents."""

import random
from pathlib import Path
from typing import Any

from gnm.config import validate
from gnm.data.counterfact import categorise
from gnm.data.documents import make_documents, write_documents
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.params import EvaluateParams, TrainParams

SAMPLING = {
    "num_paraphrase_from_facts_to_learn": 2,
    "num_true_output_neighbor_from_facts_to_learn": 1,
    "num_paraphrase_from_facts_to_refuse": 0,
    "num_true_output_neighbor_from_facts_to_refuse": 0,
    "num_paraphrase_from_other_facts": 1,
    "num_true_output_neighbor_from_other_facts": 0,
    "max_total_io_pairs_per_sample": 4,
}


def write_small_documents(folder: Path) -> Path:
    """train.json (seen groups) and test.json (led by the unseen) of a dozen documents each; returns the folder."""
    facts = categorise(read_records("embedded"))
    taxonomy = load_taxonomy()
    for name, some, leading in (("train", facts.train, taxonomy.seen), ("test", facts.test, taxonomy.unseen)):
        documents = make_documents(some, random.Random(name), leading, 12, 3)
        write_documents(folder / f"{name}.json", documents)
    return folder


def train_settings(data: Path, output: Path) -> dict[str, Any]:
    """Settings of a training run of six steps, as params.yaml would hold them."""
    return {
        "seed": 0,
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {
            "gnm": {"method": "gnm"},
            "gnm_ablation": {"method": "gnm_ablation"},
            "in_context_ft": {"method": "in_context_ft"},
            "retrieval_ft": {"method": "retrieval_ft"},
        },
        "lora": {"r": 4, "alpha": 8},
        "data": {"train": [str(data / "train.json")], "validation": str(data / "train.json")},
        "targets": {"target_types": ["fact_subcategories"], "groups": "seen"},
        "sampling": SAMPLING,
        "loop": {
            "steps": 6,
            "curriculum": {"steps": 2, "facts": 4, "documents_per_step": 4, "sampling": SAMPLING},
            "documents_per_step": 4,
            "instructions_per_document": 2,
            "sequence_length": [1, 2],
            "unlearning": False,
            "gradients_through": "all",
            "max_queries_per_document": 4,
            "validate_every": 3,
            "validation_sequences": 2,
            "patience": 5,
            "checkpoint_every": 2,
        },
        "opt": {"learning_rate": 0.02, "warmup_steps": 1},
        "output": str(output),
    }


def train_params(data: Path, output: Path, **loop: Any) -> TrainParams:
    """`train_settings` checked, with values of `loop` and `loop.curriculum` replaced."""
    settings = train_settings(data, output)
    curriculum = loop.pop("curriculum", {})
    if curriculum is not None:
        curriculum = settings["loop"]["curriculum"] | curriculum
    settings["loop"] |= {**loop, "curriculum": curriculum}
    return validate(settings, TrainParams, where="test")


def evaluate_settings(data: Path, output: Path) -> dict[str, Any]:
    """Settings of an evaluation of three sequences of three documents."""
    return {
        "seeds": [0],
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {"dummy": {"method": "dummy"}, "memoryllm": {"method": "memoryllm"}},
        "data": [str(data / "test.json")],
        "targets": {"target_types": ["fact_subcategories"], "groups": "unseen"},
        "sampling": SAMPLING,
        "loop": {
            "sequences": 3,
            "sequence_length": 3,
            "unlearning": False,
            "sequences_at_once": 2,
            "max_new_tokens": 3,
        },
        "output": str(output),
    }


def evaluate_params(data: Path, output: Path, **loop: Any) -> EvaluateParams:
    """`evaluate_settings` checked, with values of `loop` replaced."""
    settings = evaluate_settings(data, output)
    settings["loop"] |= loop
    return validate(settings, EvaluateParams, where="test")
