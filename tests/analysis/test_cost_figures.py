"""Cost against documents seen: what is drawn, on which device, and what is told instead."""

import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation

from gnm.analysis.cost_figures import cost_by_documents, cost_lines
from gnm.analysis.report import read_experiment
from gnm.errors import DataError
from gnm.files import write_json


@pytest.fixture
def evaluations(tmp_path):
    """Seconds of a question are known after the last of four documents only."""
    for seed, method in enumerate(("gnm", "retrieval", "no_memory")):
        save_evaluation(tmp_path / "e" / method, made_up_records(seed), keep_records=False)
    return read_experiment(tmp_path / "e")[0]


def costs(*lines):
    """Rows of (method, measure, [value after each document], device)."""
    rows = [(method, measure, t, value, device) for method, measure, values, device in lines
            for t, value in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "measure", "t", "value", "device"])


def panels(figure):
    return figure.subfigs[0].axes


def names(axes):
    return [line.get_label() for line in axes.lines]


def note(figure):
    """The footnote before its last sentence, which every figure of costs has."""
    told = " ".join(text.get_text() for text in figure.subfigs[1].texts).replace("\n", " ")
    last = "No intervals: a cost is counted, or was saved as the mean over sequences."
    assert told.endswith(last)
    return told.removesuffix(last).rstrip()


def test_lines_of_the_same_cost_are_all_seen():
    """Markers are as far from those of other methods as can be."""
    two = costs(*[(method, "kept", [5.0] * 10, None) for method in ("gnm", "retrieval")])
    assert [line.get_markevery() for line in panels(cost_lines(two, "A title"))[0].lines] == [(0, 2), (1, 2)]
    three = costs(*[(method, "kept", [5.0] * 70, None) for method in ("gnm", "retrieval", "no_memory")])
    drawn = panels(cost_lines(three, "A title"))[0].lines
    assert [line.get_markevery() for line in drawn] == [(0, 10), (3, 10), (6, 10)]


def test_what_costs_nothing_is_told_and_not_drawn():
    """It would lie on the axis, under all others that cost nothing."""
    growing = [9e9 * (t + 1) for t in range(9)]
    figure = cost_lines(
        costs(("gnm", "write_flops", growing, None), ("retrieval", "write_flops", [0.0] * 9, None)), "A title"
    )
    assert names(panels(figure)[0]) == ["GNM"] and panels(figure)[0].get_yscale() == "log"
    assert note(figure) == "Writing one document, GFLOP: nothing for Retrieval (untrained)."


@pytest.mark.parametrize(("times", "drawn"), [(9, 3), (11, 2)])
def test_a_method_far_above_all_others_is_told_and_not_drawn(times, drawn):
    """Beside it the others could not be told apart."""
    lines = [("gnm", "query_flops", [1e9] * 5, None), ("retrieval", "query_flops", [2e9] * 5, None)]
    figure = cost_lines(costs(*lines, ("in_context", "query_flops", [1e9] * 4 + [times * 2e9], None)), "A title")
    assert len(names(panels(figure)[0])) == drawn
    told = f"One question, GFLOP, not drawn: In-context (untrained), up to {2 * times}."
    assert note(figure) == ("" if drawn == 3 else told)


def test_of_two_methods_both_are_drawn_however_far_apart():
    lines = [("gnm", "query_flops", [1e9] * 5, None), ("retrieval", "query_flops", [99e9] * 5, None)]
    assert len(names(panels(cost_lines(costs(*lines), "A title"))[0])) == 2


def test_cost_is_drawn_where_it_was_saved(evaluations):
    frame = cost_by_documents(evaluations)
    seconds = frame[(frame["method"] == "gnm") & (frame["measure"] == "query_seconds")]
    assert "device" in frame and frame["device"].isna().all()
    assert seconds[["t", "value"]].to_numpy().tolist() == [[3, 0.5]]
    figure = cost_lines(frame, "A title")
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles[0] == "One question, GFLOP" and len(titles) == 4
    told = "One question, seconds, after 4 documents: GNM 0.5, Retrieval (untrained) 0.5, No memory 0.5."
    assert note(figure) == told
    with pytest.raises(DataError, match="single documents; there is nothing to follow"):
        cost_lines(frame[frame["t"] == 3], "A title")


def test_evaluations_without_their_cost_are_explained(tmp_path):
    save_evaluation(tmp_path / "e" / "gnm", made_up_records(), keep_records=False, cost=False)
    with pytest.raises(DataError, match="no evaluation has saved its cost"):
        cost_by_documents(read_experiment(tmp_path / "e")[0])


def test_the_footnote_names_the_one_device(evaluations, tmp_path):
    write_json(tmp_path / "e" / "gnm" / "run_config.json", {"made": {"device": "CPU, 1 threads, in float32"}})
    frame = cost_by_documents({"gnm": evaluations["gnm"]})
    assert note(cost_lines(frame, "A title")).startswith("Measured on: CPU, 1 thread, in float32.")


@pytest.mark.parametrize(
    ("devices", "drawn", "other"),
    [
        (("a GPU", "a GPU", "a CPU"), ["GNM", "Retrieval (untrained)"], "No memory on a CPU"),
        (("a CPU", "a GPU", "a GPU"), ["Retrieval (untrained)", "No memory"], "GNM on a CPU"),
        (("a GPU", "a CPU", "another"), ["GNM"], "Retrieval (untrained) on a CPU; No memory on another"),
        ((None, "a GPU", "a GPU"), ["Retrieval (untrained)", "No memory"], "GNM on a device that was not saved"),
    ],
)
def test_seconds_are_those_of_the_device_of_most_methods(devices, drawn, other):
    """Of as many, that of the first method; operations and slots are the same on every device."""
    methods = dict(zip(("gnm", "retrieval", "no_memory"), devices, strict=True))
    lines = [(method, measure, [1.0, 2.0], device) for method, device in methods.items()
             for measure in ("query_flops", "write_seconds", "kept", "bytes")]  # fmt: skip
    figure = cost_lines(costs(*lines), "A title")
    flops, seconds, kept, size = panels(figure)
    assert names(seconds) == names(size) == drawn and len(names(flops)) == len(names(kept)) == 3
    assert note(figure).endswith(f"they don't compare with those of {other}, not drawn.")
