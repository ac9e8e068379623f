"""Tables of costs and of layers added up anew, row by row: plain Python, and nothing of the package."""

import json
import math
import random
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq

COSTS = ("kept", "bytes", "query_flops", "query_seconds", "write_seconds")
NAMED = {"in_context_continuation": "in_context (continuation)"}  # what follows a method's name stands in brackets
CHANGED = ("change_learned", "change_left_out", "change_others")


def rows_of(path):
    return pq.read_table(path).to_pylist()


def saved_costs(folder):
    """Every number of the cost files below a folder, by folder of the method, kind of cost and document."""
    found = {}
    for path in Path(folder).glob("*/cost.json"):
        cost = json.loads(path.read_text())
        name = NAMED.get(path.parent.name, path.parent.name)
        found |= {(name, key, t): value for key in COSTS for t, value in enumerate(cost[key]) if value}
    return found


def published_costs(folder):
    """The published profiler's numbers, by folder and document."""
    found = {}
    for path in Path(folder).glob("*/summary.json"):
        line = json.loads(path.read_text()).get("flops_per_token", [[]])[-1]
        found |= {(path.parent.name, t): value for t, value in enumerate(line if isinstance(line, list) else [line])}
    return found


def pass_flops(config, tokens, before, logits):
    """Operations of a pass over `tokens` that also read `before` cached positions, product by product."""
    width, kept = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    inputs = [(width, 1), (kept, 2), (config.intermediate_size, 2)]  # q; k and v; gate and up
    outputs = [width, config.intermediate_size]  # o; down
    products = sum(times * tokens * config.hidden_size * size for size, times in inputs)
    products += sum(tokens * size * config.hidden_size for size in outputs)
    keys = sum(before + place + 1 for place in range(tokens))
    products += 2 * keys * width  # scores, and the values that they weight
    return 2 * (config.num_hidden_layers * products + logits * config.hidden_size * config.vocab_size)


def counted_costs(folder, small, config, memory, documents, retrieved):
    """What writing document number t and asking after it cost, by method, kind and t: (expected, method, kind, t).

    folder: evaluations whose `in_context` and `generalist` tell the sizes. small: config of their decoder. config,
    memory: of the one that is counted for, and its pool's sizes or None.
    """
    context, gated = (
        json.loads((Path(folder) / name / "cost.json").read_text()) for name in ("in_context", "generalist")
    )
    seen = len(context["kept"])
    size = (context["kept"][-1] - context["kept"][0]) / (seen - 1)
    start = context["kept"][0] - size
    share = (gated["kept"][-1] - start) / (seen * size)
    end = round(context["kept"][-1])
    asked = min(range(1, 400), key=lambda n: abs(pass_flops(small, n, end, 1) - context["query_flops"][-1]))
    slot = 4 * config.num_hidden_layers * config.hidden_size * config.num_key_value_heads * config.head_dim
    document, stored, first = round(size), round(share * round(size)), round(start)
    found = {}
    for t in range(documents):
        before, after = round(start + t * size), round(start + (t + 1) * size)
        near = round(start + min(t + 1, retrieved) * size)
        alone = pass_flops(config, document, first, 0)
        slots = {"gnm": after, "generalist": first + (t + 1) * stored, "no_memory": first, "retrieval": near}
        ask = {name: pass_flops(config, asked, count, 1) for name, count in slots.items()}
        costs = {
            "gnm": (alone + document * slot, ask["gnm"]),
            "generalist": (alone + stored * slot, ask["generalist"]),
            "in_context (keys and values kept)": (pass_flops(config, document, before, 0), ask["gnm"]),
            "in_context (read anew)": (0, ask["gnm"] + pass_flops(config, after, 0, 0)),
            "retrieval": (0, ask["retrieval"] + pass_flops(config, near, 0, 0)),
            "no_memory": (0, ask["no_memory"]),
        }
        if memory is not None:
            pool = pass_flops(config, memory.tokens, memory.tokens, 0) + 2 * memory.tokens * slot
            costs["memoryllm (published pool)"] = (pool, pass_flops(config, asked, memory.tokens * memory.blocks, 1))
        for method, (write, question) in costs.items():
            found |= {(method, "write_flops", t): write, (method, "query_flops", t): question}
    return found


def layer_values(folder):
    """Values by target, for every method, measure and layer of a memory analysis."""
    found = {}
    for path in Path(folder).glob("*/layers.parquet"):
        for row in rows_of(path):
            found.setdefault((path.parent.name, row["measure"], row["layer"]), {})[row["target"]] = row["value"]
    for method, _, layer in [key for key in found if key[1] == CHANGED[0]]:
        learned, left_out, others = (found[method, name, layer] for name in CHANGED)
        found[method, "change_above_others", layer] = {
            target: (learned[target] + left_out[target]) / 2 - others[target] for target in learned
        }
    return found


def swap_losses(folder):
    """What a swap loses by target, for every kind, measure and first layer."""
    answers = {}
    for row in rows_of(Path(folder) / "layer_swap" / "answers.parquet"):
        for measure, value in ((row["measure"], float(row["right"])), (f"{row['measure']}_margin", row["margin"])):
            answers.setdefault((row["kind"], measure, row["first"]), {}).setdefault(row["target"], []).append(value)
    means = {key: {target: mean(values) for target, values in own.items()} for key, own in answers.items()}
    return {
        key: {target: means["none", key[1], -1][target] - value for target, value in own.items()}
        for key, own in means.items()
        if key[0] != "none"
    }


def assert_table_of_targets(table, by, expected):
    """A table's rows are those of `expected`, each the mean of its targets, with intervals that a bootstrap gives."""
    rows = {tuple(row[name] for name in by): row for row in table.to_dict("records")}
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        values = list(expected[key].values())
        assert math.isclose(row["value"], mean(values), rel_tol=1e-6, abs_tol=1e-9), key
        assert row["targets"] == len(values)
    for key in list(rows)[:: max(1, len(rows) // 12)]:
        low, high = _bootstrap(list(expected[key].values()))
        near = 0.15 * (high - low) + 1e-9
        assert abs(rows[key]["low"] - low) <= near and abs(rows[key]["high"] - high) <= near, key


def _bootstrap(values, resamples=1000):
    draw = random.Random(5)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[round(0.025 * resamples)], means[round(0.975 * resamples) - 1]
