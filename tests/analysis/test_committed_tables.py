"""Notebooks on the committed results: every table has numbers, and costs and layers are added up anew, row by row."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from evaluations import save_memory_analysis
from notebooks import NAMES, PROJECT, run, said
from recomputed import (
    assert_table_of_targets,
    counted_costs,
    layer_values,
    published_costs,
    saved_costs,
    swap_losses,
)

from gnm.analysis.cost_figures import cost_by_documents
from gnm.analysis.memory import PARTS, draw_part
from gnm.analysis.report import read_experiment
from gnm.analysis.saved import PUBLISHED_NAMES
from gnm.files import write_json
from gnm.plan import known_shape

SAVED = PROJECT / "saved_evals"
FACTS = ("accuracy", "specificity", "selectivity")


@pytest.fixture(scope="module")
def outputs():
    return {}


@pytest.fixture
def committed(unrendered, outputs, tmp_path_factory):
    """What a notebook shows of the committed results, and the folder of its tables; each is run once for all tests."""

    def of(name):
        if name not in outputs:
            folder = tmp_path_factory.mktemp(name)
            outputs[name] = run(name, SAVED, folder), folder
        return outputs[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_on_the_committed_results(name, committed):
    """Of what is committed every table has numbers; what is not is said."""
    shown, folder = committed(name)
    tables = sorted(folder.glob("*.csv"))
    assert tables or "makes them" in said(shown)
    for table in tables:
        frame = pd.read_csv(table)
        assert len(frame) and np.isfinite(frame["value"]).all(), table
        shares = frame[frame["measure"].isin(FACTS)] if "measure" in frame else frame[:0]
        assert shares["value"].between(-1, 1).all(), table


def costs_of(table):
    return {(row.method, row.measure, row.t): row.value for row in table.itertuples()}


@pytest.mark.parametrize(
    ("notebook", "name", "folder"),
    [
        ("flops", "flops", "small_exp2"),
        ("flops", "flops_facts", "small_exp1"),
    ],
)
def test_costs_are_those_of_the_cost_files(committed, notebook, name, folder):
    found = costs_of(pd.read_csv(committed(notebook)[1] / f"{name}.csv"))
    assert found == pytest.approx(saved_costs(SAVED / folder))


@pytest.mark.parametrize(
    ("name", "backbone"), [("flops_counted", "smollm2-135m"), ("flops_counted_large", "memoryllm-8b-chat")]
)
def test_counted_costs_are_the_products_of_the_decoders(committed, name, backbone):
    found = costs_of(pd.read_csv(committed("flops")[1] / f"{name}.csv"))
    config, memory = known_shape(backbone)
    small, _ = known_shape("smollm2-135m")
    assert found == pytest.approx(counted_costs(SAVED / "small_exp1", small, config, memory, 100, 4), rel=1e-9)


def test_published_costs_are_those_of_the_summaries(shared):
    folder = shared / "reference/saved_evals/mixed_documents_analysis"
    found = {(row.method, row.t): row.value for row in cost_by_documents(read_experiment(folder)[0]).itertuples()}
    names = {f"{name}_flops": f"{PUBLISHED_NAMES.get(name, name)} (flops)" for name in
             ("gnm", "llama3", "llama3_ft", "memoryllm", "naive_model", "rag_trained", "rag_untrained")}  # fmt: skip
    expected = {(names[name], t): value for (name, t), value in published_costs(folder).items() if name in names}
    assert len(expected) == 7 * 20 and {key: found[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "layer_swap"])
def test_layers_are_the_means_of_the_targets(committed, part):
    table = pd.read_csv(committed("memory_analysis")[1] / f"memory_{part}.csv")
    expected = {key: own for key, own in layer_values(SAVED / "memory_analysis").items() if key[1] in PARTS[part]}
    assert_table_of_targets(table, ("method", "measure", "layer"), expected)
    assert set(table["targets"]) == {20} and {"gnm", "gnm_ablation"} < set(table["method"])


def test_losses_are_the_means_of_the_targets(committed):
    table = pd.read_csv(committed("memory_analysis")[1] / "memory_layer_swap.csv")
    assert_table_of_targets(table, ("kind", "measure", "first"), swap_losses(SAVED / "memory_analysis"))
    assert set(table["kind"]) == {"writing", "reading", "both"} and set(table["targets"]) == {20}


def test_a_changed_cost_is_seen(tmp_path):
    shutil.copytree(SAVED / "small_exp1", tmp_path / "small_exp1", ignore=shutil.ignore_patterns("*.parquet"))
    before = costs_of(cost_by_documents(read_experiment(tmp_path / "small_exp1")[0]))
    path = tmp_path / "small_exp1" / "retrieval" / "cost.json"
    cost = json.loads(path.read_text())
    cost["query_flops"][6] *= 1.01
    write_json(path, cost)
    after = costs_of(cost_by_documents(read_experiment(tmp_path / "small_exp1")[0]))
    expected = saved_costs(tmp_path / "small_exp1")
    assert after == pytest.approx(expected)
    assert [key for key in before if before[key] != expected[key]] == [("retrieval", "query_flops", 6)]


def test_a_changed_row_of_the_memory_analysis_is_seen(tmp_path):
    save_memory_analysis(tmp_path / "m", ("gnm", "gnm_ablation"))

    def check(tables):
        for part, table in tables.items():
            swap = part == "layer_swap"
            values = swap_losses(tmp_path / "m") if swap else layer_values(tmp_path / "m")
            by = ("kind", "measure", "first") if swap else ("method", "measure", "layer")
            assert_table_of_targets(table, by, {key: own for key, own in values.items() if key[1] in PARTS[part]})

    def tables():
        return {part: draw_part(tmp_path / "m", part, "A title")[1] for part in PARTS}

    whole = tables()
    check(whole)
    for name, column, parts in (
        ("gnm/layers.parquet", "value", set(PARTS) - {"layer_swap"}),
        ("layer_swap/answers.parquet", "margin", {"layer_swap"}),
    ):
        path = tmp_path / "m" / name
        kept = pd.read_parquet(path)
        for measure in kept["measure"].unique():
            changed = kept.copy()
            row = changed.index[changed["measure"] == measure][3]
            changed.loc[row, column] += 0.5
            changed.to_parquet(path, index=False)
            (part,) = [part for part in parts if set(PARTS[part]) & {measure, f"{measure}_margin"}]
            with pytest.raises(AssertionError):
                check({part: whole[part]})
            check({part: draw_part(tmp_path / "m", part, "A title")[1]})
        kept.to_parquet(path, index=False)
