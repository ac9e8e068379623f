"""Counted costs are those of the passes that are made, and a break-even is where the two totals meet."""

import math

import pytest

from gnm.analysis.saved import SavedEvaluation
from gnm.costs import (
    CACHED,
    GATED,
    GNM,
    NOTHING,
    POOL,
    RETRIEVAL,
    UNCACHED,
    Sizes,
    break_even,
    cost_of_stream,
    measured,
    pays,
    sizes_in_words,
    sizes_of,
)
from gnm.errors import ConfigError, DataError
from gnm.files import write_json
from gnm.models.flops import DecoderShape, forward_flops, linear_flops, query_flops
from gnm.plan import known_shape

SIZES = Sizes(preamble=20, document=100, question=40, stored=0.2, top_k=2)
SMALL, LARGE = "smollm2-135m", "memoryllm-8b-chat"


@pytest.fixture(scope="module")
def costs():
    return cost_of_stream(SMALL, SIZES, 6)


def cell(frame, method, measure, t):
    return frame.set_index(["method", "measure", "t"])["value"][method, measure, t]


def test_each_method_pays_for_the_passes_that_it_makes(costs):
    shape = DecoderShape.of(known_shape(SMALL)[0])
    project = 4 * shape.layers * shape.hidden * shape.kv_heads * shape.head_dim
    alone = forward_flops(shape, 100, 20, 0)
    assert cell(costs, GNM, "write_flops", 0) == cell(costs, GNM, "write_flops", 5) == alone + 100 * project
    assert cell(costs, GATED, "write_flops", 5) == alone + 20 * project
    assert cell(costs, CACHED, "write_flops", 3) == forward_flops(shape, 100, 320, 0)
    for method, slots in ((GNM, 420), (CACHED, 420), (GATED, 100)):
        assert cell(costs, method, "query_flops", 3) == query_flops(shape, 40, slots)
    for method, tokens in ((UNCACHED, 420), (RETRIEVAL, 220)):  # retrieval reads two documents at most
        assert cell(costs, method, "write_flops", 3) == 0
        reading = forward_flops(shape, tokens, 0, 0)
        assert cell(costs, method, "query_flops", 3) == query_flops(shape, 40, tokens) + reading
    assert cell(costs, NOTHING, "query_flops", 3) == query_flops(shape, 40, 20)
    assert cell(costs, NOTHING, "write_flops", 3) == 0
    assert POOL not in set(costs["method"])


def test_the_published_pool_is_read_whole_by_every_question():
    costs = cost_of_stream(LARGE, SIZES, 3)
    shape = DecoderShape.of(known_shape(LARGE)[0])
    assert cell(costs, POOL, "query_flops", 0) == cell(costs, POOL, "query_flops", 2) == query_flops(shape, 40, 12800)
    assert cell(costs, POOL, "write_flops", 0) > linear_flops(shape, 256)
    with pytest.raises(ConfigError, match="sizes of the backbone 'x' are not known"):
        cost_of_stream("x", SIZES, 1)


def test_a_break_even_is_where_the_totals_meet(costs):
    """Recomputed by adding up streams with that many questions a document, a few more and a few fewer."""

    def total(method, documents, questions):
        own = costs[(costs["method"] == method) & (costs["t"] < documents)]
        sums = own.groupby("measure")["value"].sum()
        return sums["write_flops"] + questions * sums["query_flops"]

    found = break_even(costs)
    assert len(found) == 6 * 2 * 2
    for row in found.itertuples():
        memory, other = ((row.method, row.documents), (row.against, row.documents))
        if 0 < row.questions < math.inf:
            assert total(*memory, row.questions) == pytest.approx(total(*other, row.questions))
            assert total(*memory, 1.1 * row.questions) < total(*other, 1.1 * row.questions)
            assert total(*memory, 0.9 * row.questions) > total(*other, 0.9 * row.questions)
        elif row.questions == 0:
            assert total(*memory, 0) <= total(*other, 0)
        else:
            assert all(total(*memory, questions) >= total(*other, questions) for questions in (0, 1, 100, 10**6))
    gated = found[(found["method"] == GATED) & (found["against"] == RETRIEVAL)]
    assert gated["questions"].between(0.01, 2).all()


def test_where_questions_cost_more_memory_never_pays_or_up_to_a_number():
    costs = cost_of_stream(LARGE, SIZES, 400)
    rows = break_even(costs).set_index(["method", "against", "documents"])
    assert math.isinf(rows.loc[(POOL, CACHED, 2), "questions"]) and rows.loc[(POOL, CACHED, 2), "most"] == 0
    said = pays(break_even(costs), 2)
    assert "Memory, untrained, published pool against In-context (untrained), keys and values kept never" in said
    assert "GNM, generalist against Retrieval (untrained) from " in said


@pytest.fixture
def evaluations(tmp_path):
    """A stream of three documents, evaluated in context and with gates, which took longer to write and less to ask."""
    shape = DecoderShape.of(known_shape(SMALL)[0])
    found = {}
    for method, kept, seconds in (("in_context", [120, 220, 320], (0.1, 0.4)), (GATED, [40, 60, 80], (0.3, 0.2))):
        folder = tmp_path / method
        write_json(folder / "cost.json", {
            "kept": kept, "bytes": kept, "query_flops": [query_flops(shape, 40, k) for k in kept],
            "write_seconds": [seconds[0]] * 3, "query_seconds": [None, None, seconds[1]]})  # fmt: skip
        write_json(folder / "run_config.json", {"made": {"device": "a CPU"}})
        found[method] = SavedEvaluation("e", method, "", folder)
    return found


def test_sizes_are_those_of_the_stream_that_was_evaluated(evaluations):
    sizes = sizes_of(evaluations, SMALL, 2)
    assert sizes == Sizes(preamble=20, document=100, question=40, stored=pytest.approx(0.2), top_k=2)
    assert "documents of 100 tokens" in sizes_in_words(sizes) and "20 % of the tokens" in sizes_in_words(sizes)
    with pytest.raises(DataError, match="cost of generalist"):
        sizes_of({"in_context": evaluations["in_context"]}, SMALL, 2)


def test_costs_of_other_keys_or_without_numbers_are_explained(evaluations):
    for cost in ({"beauty": [1.0]}, {"kept": [1.0, None, 3.0], "query_flops": [1.0] * 3}):
        write_json(evaluations["in_context"].folder / "cost.json", cost)
        with pytest.raises(DataError, match="cost of in_context; evaluate"):
            sizes_of(evaluations, SMALL, 2)
        row = measured(evaluations).loc["In-context (untrained)"]
        assert row.drop("Device").isna().all()
    write_json(evaluations["in_context"].folder / "cost.json", {"kept": [5.0] * 3, "query_flops": [1.0] * 3})
    with pytest.raises(DataError, match="a context that grows"):
        sizes_of(evaluations, SMALL, 2)


def test_a_count_of_documents_that_cannot_be_is_explained(evaluations):
    """None at all; and two streams of different lengths."""
    with pytest.raises(DataError, match="a stream has one document or more, not 0"):
        cost_of_stream(SMALL, SIZES, 0)
    write_json(evaluations[GATED].folder / "cost.json", {"kept": [40, 60], "query_flops": [1.0] * 2})
    with pytest.raises(DataError, match="in_context saw 3 documents, generalist 2"):
        sizes_of(evaluations, SMALL, 2)


def test_measured_seconds_stand_beside_with_their_device(evaluations):
    table = measured(evaluations)
    row = table.loc["In-context (untrained)"]
    assert (row["Write, ms"], row["Ask, ms"], row["Device"]) == (pytest.approx(100), pytest.approx(400), "a CPU")
    assert row["Questions from which GNM, generalist took less"] == pytest.approx(1.0)  # 0.2 s more, 0.2 s less
    write_json(evaluations["in_context"].folder / "run_config.json", {"made": {"device": "a GPU"}})
    assert math.isnan(
        measured(evaluations).loc["In-context (untrained)", "Questions from which GNM, generalist took less"]
    )
    with pytest.raises(DataError, match="no evaluation has saved its cost"):
        measured({})
