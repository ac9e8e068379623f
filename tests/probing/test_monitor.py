"""What pool and store hold while a stream is written: the rows that are recorded, and their figure."""

import random

import pandas as pd
import pytest
import yaml

from gnm.analysis.stream_figures import COLUMNS, stream_figure
from gnm.data.counterfact import categorise
from gnm.data.documents import make_documents, write_documents
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError
from gnm.probing import monitor

BACKBONE = {"name": "tiny", "dtype": "float32", "device": "cpu"}
STORE = {"k": 2, "layer": 1, "consolidate": True}


@pytest.fixture
def params(open_gates, tmp_path):
    """Settings of a stream of four documents, two of which are written twice."""
    facts = categorise(read_records("embedded"))
    documents = make_documents(facts.train + facts.test, random.Random(5), load_taxonomy().subcategories, 12, 2)
    write_documents(tmp_path / "documents.json", documents)
    kinds = ("from_facts_to_learn", "from_facts_to_refuse", "from_other_facts")
    counts = {f"num_{kind}_{of}": 0 for kind in ("paraphrase", "true_output_neighbor") for of in kinds}
    counts |= {"num_paraphrase_from_facts_to_learn": 1, "max_total_io_pairs_per_sample": 2}
    return {
        "backbone": BACKBONE, "adapter": str(open_gates),
        "memory": {"capacity": 300, "eviction": "oldest", "store": STORE},
        "drawn": {
            "seeds": [0, 1], "data": [str(tmp_path / "documents.json")], "sequence_length": 4, "sampling": counts,
            "targets": {"target_types": ["fact_subcategories"], "groups": "all"},
        },
        "ask_every": 2, "again_every": 2, "title": "T", "output": str(tmp_path / "m"),
    }  # fmt: skip


def run(params, folder):
    (folder / "params.yaml").write_text(yaml.dump(params))
    monitor.main(["--params", str(folder / "params.yaml")])


def test_every_document_is_followed_through_the_stream(params, tmp_path, capsys):
    run(params, tmp_path)
    frame = pd.read_csv(tmp_path / "m.csv")
    assert list(frame.columns) == COLUMNS and set(frame["stream"]) == {0, 1}
    assert sorted(frame["seen"].unique()) == [1, 2, 3, 4, 5, 6]
    assert (frame["age"] == frame["seen"] - 1 - frame["number"]).all()
    assert (frame.groupby(["stream", "seen"])["pool"].sum() <= 300).all()
    assert (frame[frame["seen"] == 1]["retrieved"] == 0).all()  # nothing was asked yet
    last = frame[frame["seen"] == 6]
    assert last["stored"].sum() > 0 and last["evicted"].sum() > 0 and last["retrieved"].sum() > 0
    assert last["merged"].sum() > 0  # documents 0 and 2 came once more
    assert (tmp_path / "m.png").stat().st_size > 10_000 and (tmp_path / "m.svg").is_file()
    assert f"retrieved {last['retrieved'].sum()}" in capsys.readouterr().out
    run(params | {"again_every": 9}, tmp_path)
    assert set(pd.read_csv(tmp_path / "m.csv")["seen"]) == {1, 2, 3, 4}


def test_a_memory_without_a_store_has_nothing_to_follow(params, tmp_path):
    with pytest.raises(SystemExit, match=r"has no long-term store; give its settings, such as \{k: 8\}"):
        run(params | {"memory": {"capacity": 300}}, tmp_path)


def rows():
    """Two streams of two documents; of the first document one slot is stored, of one stream alone."""
    after = [(0, 1, 0, 0, 4, 0, 0.5, 0, 0, 0), (0, 2, 0, 1, 0, 4, 0.5, 1, 6, 2), (0, 2, 1, 0, 2, 0, 1.0, 0, 0, 0)]
    other = [(1, 1, 0, 0, 4, 0, 0.5, 0, 0, 0), (1, 2, 1, 0, 4, 0, 0.8, 0, 0, 0)]
    return pd.DataFrame(after + other, columns=COLUMNS)


def test_the_figure_draws_means_over_streams():
    panels = [axes for sub in stream_figure(rows(), "T").subfigs for axes in sub.axes]
    slots, events, asked, by_age, strengths, read = panels
    pool, store = (area.get_paths()[0].vertices[:, 1].max() for area in slots.collections)
    assert (pool, store) == (4.0, 5.0)  # after two documents 3 in the pool, and 2 stored on top of them
    assert [line.get_ydata().tolist() for line in events.lines] == [[0, 0.5], [0, 1]]
    assert asked.lines[0].get_ydata().tolist() == [0, 3]
    assert [bar.get_height() for bar in by_age.patches] == [3, 0, 0, 2]
    assert strengths.lines[0].get_ydata().tolist() == [0.9, 0.5]
    assert [bar.get_height() for bar in read.patches] == [0, 3]
    with pytest.raises(DataError, match="no document of the stream has a slot"):
        stream_figure(rows().iloc[:0], "T")
