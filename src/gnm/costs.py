"""What writing a document and asking a question cost, by documents seen, and from how many questions memory pays.

- Counted for a decoder's shape (`models/flops.py`), not measured: SmolLM2-135M's or Llama-3-8B's, before any weights
  are at hand.
- Memory pays for every document once, when it is written. A context whose keys and values are kept does too, and each
  document reads all before it; retrieval reads its documents anew for each question.
- Not counted: gates (a linear function) and their second reading of an instruction; finding documents to retrieve.
  A write is counted through all layers, of which ours leaves out the last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style
from gnm.errors import DataError
from gnm.models.flops import DecoderShape, prefill_flops, projection_flops, query_flops
from gnm.plan import known_shape
from gnm.weights.memoryllm import MemoryShape

CACHED, UNCACHED = "in_context (keys and values kept)", "in_context (read anew)"
RETRIEVAL, GNM, GATED, POOL = "retrieval", "gnm", "generalist", "memoryllm (published pool)"
NOTHING = "no_memory"
MEMORIES, OTHERS = (GNM, GATED, POOL), (CACHED, RETRIEVAL)
_MOST_TOKENS = 4096  # of a question


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of a stream. preamble: what a conversation starts with. document: with its instruction. question: with the
    words around it. stored: share of a document's tokens that gates store. top_k: documents that retrieval reads."""

    preamble: float
    document: float
    question: int
    stored: float
    top_k: int


def sizes_of(evaluations: Mapping[str, SavedEvaluation], backbone: str, top_k: int) -> Sizes:
    """The mean sizes of a stream that `backbone` was evaluated on with the in-context method and the gated memory.

    Raises DataError where one of the two has not saved what it keeps and what a question costs, or where their streams
    differ in the number of documents.
    """
    costs = {name: evaluations[name].cost or {} if name in evaluations else {} for name in ("in_context", GATED)}
    if absent := [name for name, cost in costs.items() if not _saved(cost, "kept") or not _saved(cost, "query_flops")]:
        raise DataError(f"sizes come from the saved cost of {' and '.join(absent)}; evaluate these first")
    kept, flops = (_saved(costs["in_context"], key) for key in ("kept", "query_flops"))
    if len(kept) < 2:
        raise DataError("sizes of documents come from a stream of two or more")
    if len(kept) != (gated := len(_saved(costs[GATED], "kept"))):
        raise DataError(f"sizes come from one stream; in_context saw {len(kept)} documents, {GATED} {gated}")
    document = (kept[-1] - kept[0]) / (len(kept) - 1)
    if document <= 0:
        raise DataError("sizes of documents come from a context that grows with them, and in_context's does not")
    preamble = kept[0] - document
    stored = (_saved(costs[GATED], "kept")[-1] - preamble) / (len(kept) * document)
    shape, prompts = DecoderShape.of(known_shape(backbone)[0]), range(1, _MOST_TOKENS)
    question = min(prompts, key=lambda tokens: abs(query_flops(shape, tokens, round(kept[-1])) - flops[-1]))
    return Sizes(preamble, document, question, stored, top_k)


def cost_of_stream(backbone: str, sizes: Sizes, documents: int) -> pd.DataFrame:
    """Cost of each method after each of `documents`: columns method, measure (query_flops, write_flops), t, value.

    The published pool is there for a backbone that has one; every question reads the whole of it. Raises ConfigError
    if the backbone's sizes are not known, and DataError for no documents.
    """
    if documents < 1:
        raise DataError(f"a stream has one document or more, not {documents}")
    config, memory = known_shape(backbone)
    shape, rows = DecoderShape.of(config), []
    for t in range(documents):
        for method, (write, ask) in _costs(shape, memory, sizes, t).items():
            rows += [(method, "write_flops", t, write), (method, "query_flops", t, ask)]
    return pd.DataFrame(rows, columns=["method", "measure", "t", "value"])


def break_even(costs: pd.DataFrame) -> pd.DataFrame:
    """From how many questions per document on each memory costs less than each other method, by documents seen.

    costs: of `cost_of_stream`. Columns documents, method, against, questions: 0 where memory costs less from the
    start, infinite where it never does; and most: the number of questions up to which it costs less, infinite but where
    questions to it cost more.
    """
    total = costs.pivot(index="t", columns=["method", "measure"], values="value").cumsum()
    rows = []
    for method in (name for name in MEMORIES if name in set(costs["method"])):
        for against in OTHERS:
            writes, asks = (total[against, key] - total[method, key] for key in ("write_flops", "query_flops"))
            for t, saved, each in zip(total.index, writes, asks, strict=True):
                least = 0.0 if saved >= 0 else -saved / each if each > 0 else math.inf
                most = math.inf if each >= 0 else max(saved / -each, 0.0)
                rows.append((t + 1, method, against, least if most > 0 else math.inf, most))
    return pd.DataFrame(rows, columns=["documents", "method", "against", "questions", "most"])


def sizes_in_words(sizes: Sizes) -> str:
    """The sizes in a sentence."""
    return (
        f"Counted for documents of {sizes.document:.0f} tokens with their instruction, questions of {sizes.question}, "
        f"gates that store {100 * sizes.stored:.0f} % of the tokens, and {sizes.top_k} retrieved documents."
    )


def pays(found: pd.DataFrame, documents: int) -> str:
    """A sentence: from how many questions per document on each memory costs less, after so many documents."""
    parts = []
    for (method, against), own in found[found["documents"] == documents].groupby(["method", "against"], sort=False):
        row = own.iloc[0]
        names = f"{method_style(method).name} against {method_style(against).name}"
        if math.isinf(row["questions"]):
            parts.append(f"{names} never")
        elif row["questions"] == 0:
            parts.append(f"{names} from the start" + ("" if math.isinf(row["most"]) else f" up to {row['most']:.1f}"))
        else:
            parts.append(f"{names} from {row['questions']:.2f}")
    return f"After {documents} documents, questions per document from which memory costs less: {'; '.join(parts)}."


def measured(evaluations: Mapping[str, SavedEvaluation]) -> pd.DataFrame:
    """Measured milliseconds of writing a document (mean of the stream) and of a question (at its end) by method, from
    how many questions per document on the gated memory took less time than a method on its device, and on which device.

    Raises DataError when no method has saved its cost.
    """
    rows = {}
    for method in in_order(evaluations):
        cost = evaluations[method].cost
        if cost is not None:
            write = _saved(cost, "write_seconds")
            ask = cost.get("query_seconds", [None])[-1]
            rows[method] = {
                "Write, ms": 1e3 * sum(write) / len(write) if write else math.nan,
                "Ask, ms": math.nan if ask is None else 1e3 * ask,
                "Device": evaluations[method].device or "",
            }
    if not rows:
        raise DataError("no evaluation has saved its cost")
    frame = pd.DataFrame.from_dict(rows, orient="index")
    if GATED in rows:
        writes, asks = (frame.loc[GATED, key] - frame[key] for key in ("Write, ms", "Ask, ms"))
        least = (writes.clip(lower=0) / -asks).where(~(asks >= 0), math.inf)
        least = least.where(frame["Device"] == frame.loc[GATED, "Device"])
        frame.insert(2, f"Questions from which {method_style(GATED).name} took less", least.drop(GATED))
    return frame.rename(index=lambda method: method_style(method).name).rename_axis("Method")


def _saved(cost: Mapping[str, Sequence[float | None]], key: str) -> list[float]:
    """A line of a saved cost; empty where it is not there, or not for every document."""
    line = cost.get(key, [])
    return [] if None in line else [float(value) for value in line if value is not None]


def _costs(shape: DecoderShape, memory: MemoryShape | None, sizes: Sizes, t: int) -> dict[str, tuple[float, float]]:
    """Writing document number `t` (from 0) and asking after it, by method."""
    document, question = round(sizes.document), sizes.question
    before, after = (round(sizes.preamble + count * sizes.document) for count in (t, t + 1))
    found = round(sizes.preamble + min(t + 1, sizes.top_k) * sizes.document)
    stored = round(sizes.stored * sizes.document)
    gated = round(sizes.preamble) + (t + 1) * stored
    alone = prefill_flops(shape, document, round(sizes.preamble))
    costs = {
        GNM: (alone + projection_flops(shape, document), query_flops(shape, question, after)),
        GATED: (alone + projection_flops(shape, stored), query_flops(shape, question, gated)),
        CACHED: (prefill_flops(shape, document, before), query_flops(shape, question, after)),
        UNCACHED: (0, query_flops(shape, question, after, cached=False)),
        RETRIEVAL: (0, query_flops(shape, question, found, cached=False)),
        NOTHING: (0, query_flops(shape, question, round(sizes.preamble))),
    }  # fmt: skip
    if memory is not None:
        slots = memory.tokens * memory.blocks
        write = prefill_flops(shape, memory.tokens, memory.tokens) + 2 * projection_flops(shape, memory.tokens)
        costs[POOL] = (write, query_flops(shape, question, slots))
    return costs
