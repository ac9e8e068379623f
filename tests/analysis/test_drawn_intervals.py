"""Which intervals figures draw and how they tell it; the reference that other methods are compared with."""

import numpy as np
import pandas as pd
import pytest

from gnm.analysis.grouped import grouped_bars
from gnm.analysis.intervals import drawn_intervals, footnote
from gnm.analysis.lines import measure_lines

COLUMNS = ["method", "value", "low", "high", "sequences", "interval"]


def frame(*rows):
    return pd.DataFrame(rows, columns=COLUMNS).astype({"sequences": "Int64"})


def bootstrap(value=0.5, sequences=30, method="gnm"):
    return method, value, value - 0.1, value + 0.1, sequences, "bootstrap"


@pytest.mark.parametrize(
    ("value", "sequences", "kind"),
    [(0.5, 5, "bootstrap"), (0.5, 4, "few"), (1.0, 30, "alike"), (0.0, 30, "alike"), (0.99, 30, "bootstrap"),
     (0.01, 30, "bootstrap"), (1.0, 2, "few")],
)  # fmt: skip
def test_intervals_of_few_sequences_or_of_equal_answers_are_not_drawn(value, sequences, kind):
    shown = drawn_intervals(frame(bootstrap(value, sequences))).iloc[0]
    assert shown["interval"] == kind and shown["value"] == value
    assert np.isnan(shown["low"]) == np.isnan(shown["high"]) == (kind != "bootstrap")


def test_wilsons_intervals_are_drawn_at_the_ends_too():
    """They have a width there."""
    shown = drawn_intervals(frame(("gnm", 1.0, 0.9, 1.0, None, "wilson"))).iloc[0]
    assert shown["interval"] == "wilson" and shown["low"] == 0.9


def test_the_footnote_says_how_intervals_were_made():
    def note(*rows, **marks):
        return footnote(drawn_intervals(frame(*rows)), **marks)

    counted, bare = ("retrieval", 0.5, 0.4, 0.6, None, "wilson"), ("no_memory", 0.5, None, None, None, "none")
    assert note(bootstrap()) == "Whiskers: 95 % intervals, bootstrap over 30 sequences."
    assert "over 6 to 30 sequences" in note(bootstrap(), bootstrap(sequences=6))
    few = note(bootstrap(), bootstrap(sequences=2), bootstrap(sequences=4))
    assert few.endswith("over 30 sequences. No interval is drawn over fewer than 5 sequences (the fewest: 2).")
    alike = "No interval is drawn of 0 and 100 %, where every resample is alike."
    assert note(bootstrap(), bootstrap(1.0)).endswith(alike) and note(bootstrap(0.0)) == alike
    assert "from a summary's counts: Wilson's" in note(counted)
    assert note(bootstrap(), bare).endswith("No intervals (no records): No memory.")
    assert note(bare) == "No intervals: summaries without records."
    assert note(bootstrap(), marks="Bands").startswith("Bands: 95 %")


def measures(reference, others=(), low=True):
    """A measure of GNM, and of no memory, in one group or at three ages."""
    rows = [(*bootstrap(value), "accuracy", age, age, "Group") for value in others for age in range(3)]
    ends = (reference - 0.05, reference + 0.05) if low else (None, None)
    rows += [("no_memory", reference, *ends, 30, "bootstrap" if low else "none", "accuracy", age, age, "Group")
             for age in range(3)]  # fmt: skip
    return pd.DataFrame(rows, columns=[*COLUMNS, "measure", "age", "t", "group"])


def bars(reference, value, low=True):
    rows = measures(reference, [value], low)
    figure = grouped_bars(rows[rows["age"] == 0], "A title", ["accuracy"], "no_memory")
    return figure, figure.subfigs[0].axes[0]


def test_a_reference_has_its_number_and_its_interval():
    figure, axes = bars(0.3, 0.7)
    (line,), (band, *_) = axes.lines[:1], axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((25, 35))
    assert line.get_ydata() == pytest.approx([30, 30]) and "30" in [text.get_text() for text in axes.texts]
    assert figure.subfigs[1].texts[0].get_text().startswith("Whiskers and the dashed line's band: 95 %")
    figure, axes = bars(0.3, 0.7, low=False)
    assert figure.subfigs[1].texts[0].get_text().startswith("Whiskers: 95 %")


def test_a_bar_without_an_interval_has_no_whisker_beside_one_that_has():
    rows = measures(0.3, [0.5])[:2].assign(group=["One", "Two"])
    rows.loc[1, "value"] = 1.0
    axes = grouped_bars(rows, "A title", ["accuracy"]).subfigs[0].axes[0]
    (whiskers,) = [each for each in axes.containers if getattr(each, "has_yerr", False)]
    (ends,) = [path.vertices[:, 1] for path in whiskers.lines[2][0].get_paths()]
    assert ends == pytest.approx([40, 60])


def test_a_reference_at_zero_lies_above_the_axis():
    _, axes = bars(0.0, 0.7)
    (line,) = axes.lines[:1]
    assert not line.get_clip_on() and line.get_zorder() > axes.spines["bottom"].get_zorder()


def test_a_reference_by_age_is_its_mean_with_the_intervals_of_the_ages():
    rows = measures(0.3, [0.7])
    rows.loc[(rows["method"] == "no_memory") & (rows["age"] == 2), ["value", "low", "high"]] = [0.6, 0.5, 0.7]
    axes = measure_lines(rows, "A title", ["accuracy"], reference="no_memory").subfigs[0].axes[0]
    assert axes.lines[-1].get_ydata() == pytest.approx([40, 40]) and axes.texts[0].get_text().strip() == "40"
    assert axes.lines[-1].get_label() == "No memory (mean)"
    low, high = axes.collections[-1].get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((25, 70))


@pytest.mark.parametrize(("above", "lifted"), [(5, True), (9, False), (-5, False)])
def test_a_number_that_would_stand_on_the_reference_goes_above_it(above, lifted):
    """Whiskers reach from 40 to 60 percent."""
    _, axes = bars(0.6 + above / 100, 0.5)
    (number,) = [text for text in axes.texts if text.get_text() == "50"]
    assert number.xy[1] == pytest.approx(60 + above if lifted else 60)
