"""Notebooks run in this process, and a root with everything that they read."""

import ast
import re
from functools import cache
from pathlib import Path

import jupytext
import yaml
from evaluations import made_up_records, save_evaluation, save_memory_analysis

from gnm.analysis.shown import Sentence
from gnm.metrics.records import write_segments

PROJECT = Path(__file__).resolve().parents[2]
NAMES = (
    "ablation",
    "comp_gen",
    "flops",
    "format_generalization",
    "gates",
    "memory_analysis",
    "mixed_docs",
    "mixed_docs_heatmaps",
    "warmup_heatmaps",
    "warmup_summary",
)
FOLDERS = (
    "small_exp1",
    "eval_exp1_20",
    "small_exp2",
    "eval_exp2_20",
    "eval_exp2_train",
    "eval_exp2_val_id",
    "small_exp2_unseen_family",
    "small_gates",
    "small_gates_20",
    "small_gates_revocation",
)


def save_all(root):
    """Every folder that the notebooks read, each of two or three methods; one has gates."""
    for folder in FOLDERS:
        for seed, method in enumerate(("gnm", "generalist", "no_memory")):
            save_evaluation(root / folder / method, made_up_records(seed), keep_records=method != "no_memory")
    save_evaluation(root / "small_exp3" / "gnm", made_up_records(documents=1), keep_records=False)
    save_evaluation(root / "small_exp1" / "in_context", made_up_records(7))
    save_memory_analysis(root / "memory_analysis", ("gnm", "gnm_ablation", "memoryllm"))
    segment = {
        "sequence": 0,
        "t": 0,
        "text": "a b",
        "tokens": 2,
        "stored": 1,
        "strength": 0.9,
        "wanted": True,
        "of_document": True,
    }
    write_segments(
        root / "small_gates" / "generalist" / "segments.parquet",
        [segment, segment | {"sequence": 1, "stored": 0, "strength": 0.1}],
    )


def run(name, root, output, **parameters):
    """What the cells of a notebook show, run in this process with these parameters."""
    space, shown = {}, []
    for cell in jupytext.read(PROJECT / "notebooks" / f"{name}.py").cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), space))
        if "parameters" in cell.metadata.get("tags", ()):
            space |= {"ROOT": root, "OUTPUT": output, "OWN": root, **parameters}
    return shown


@cache
def made_by(experiment):
    """The folders of evaluations that `dvc repro` makes in an experiment's folder: "small_exp1/gnm"."""
    stages = yaml.safe_load((PROJECT / experiment / "dvc.yaml").read_text())["stages"]
    settings = yaml.safe_load((PROJECT / experiment / "params.yaml").read_text())
    made = set()
    for stage in stages.values():
        items = stage.get("foreach", {"": None})
        if isinstance(items, str):
            items = settings
            for part in stage["foreach"].strip("${}").split("."):
                items = items[part]
        for key, item in items.items() if isinstance(items, dict) else zip(items, items, strict=True):
            for out in stage.get("do", stage).get("outs", []):
                name = next(iter(out)) if isinstance(out, dict) else out
                name = name.replace("${key}", str(key)).replace("${item}", str(item))
                made.add(re.sub(r"\$\{item\.(\w+)\}", lambda found, item=item: item[found[1]], name))
    return {name.removeprefix("../../saved_evals/") for name in made if name.startswith("../../saved_evals/")}


def said(shown):
    return " ".join(each.text for each in shown if isinstance(each, Sentence))
