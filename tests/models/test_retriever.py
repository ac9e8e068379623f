"""A trained retriever: what it makes of untrained keys, its folder, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from gnm.errors import CheckpointError
from gnm.memory.retriever_file import ABOUT, WEIGHTS, retriever_digest
from gnm.models.retriever import Retriever
from gnm.training.retriever import RetrieverParams, fit

SIZES = (12, 10, 6)


def keys(count, seed=0, size=SIZES[0]):
    return normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def settings(**changed):
    return RetrieverParams(
        backbone={"name": "tiny"}, adapter="a", written="w", drawn={"facts": "f", "documents": 1}, at_once=1, layer=1,
        whiten=True, hidden=32, size=16, seed=3, steps=60, questions=40, segments=60, learning_rate=0.01,
        weight_decay=0.0, output="o", **changed,
    )  # fmt: skip


def test_keys_have_length_1_and_both_sides_begin_alike():
    retriever = Retriever.new(SIZES, 1, True, 0)
    asked, found = (retriever(side, keys(5)) for side in ("question", "segment"))
    assert torch.equal(asked, found) and asked.shape == (5, retriever.key_size) == (5, 18)
    assert torch.allclose(asked.norm(dim=-1), torch.ones(5))
    trained = retriever.trained("question", keys(5))
    assert torch.allclose(asked @ asked.T, (trained @ trained.T + keys(5) @ keys(5).T) / 2, atol=1e-6)
    assert retriever.flops == 2 * (12 * 10 + 10 * 6) and retriever.sizes == SIZES
    again, other = (Retriever.new(SIZES, 1, True, seed).segment[0] for seed in (0, 1))
    assert torch.equal(again, retriever.segment[0]) and not torch.equal(other, again)


def test_it_learns_which_segment_a_question_is_about_where_cosines_say_nothing():
    segments = keys(80)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(9)))[0]
    questions, right = segments @ turn, torch.arange(80)

    def found(retriever):
        scores = retriever.trained("question", questions) @ retriever.trained("segment", segments).T
        return float((scores.argmax(-1) == right).float().mean())

    trained, last = fit(settings(), questions, segments, right)
    again, same = fit(settings(), questions, segments, right)
    untrained = Retriever.new((12, 32, 16), 1, True, 3)
    assert found(untrained) < 0.1 and found(trained) > 0.6
    assert last == same and torch.equal(trained.segment[0], again.segment[0])
    assert not trained.question[0].requires_grad


def test_a_saved_one_is_loaded_as_it_was_rounded_and_says_how_it_was_made(tmp_path):
    retriever = replace(Retriever.new(SIZES, 2, False, 0), model="a-b", adapter="models/a")
    retriever.save(tmp_path / "r", {"made": {"command": "here"}})
    loaded = Retriever.load(str(tmp_path / "r"))
    assert (loaded.layer, loaded.whiten, loaded.sizes) == (2, False, SIZES)
    assert (loaded.model, loaded.adapter) == ("a-b", "models/a")
    for ours, theirs in zip(loaded.parameters(), retriever.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16().float())
    assert json.loads((tmp_path / "r" / ABOUT).read_text())["made"] == {"command": "here"}
    Retriever.new(SIZES, 2, False, 1).save(tmp_path / "other", {})
    assert retriever_digest(tmp_path / "r") != retriever_digest(tmp_path / "other")


def test_what_is_missing_or_damaged_is_refused(tmp_path):
    Retriever.new(SIZES, 2, False, 0).save(tmp_path / "r", {})
    with pytest.raises(CheckpointError, match=r"nothing is no retriever of this project \(no retriever.json in it\)"):
        Retriever.load(tmp_path / "nothing")
    about, weights = (tmp_path / "r" / name for name in (ABOUT, WEIGHTS))
    whole, told = weights.read_bytes(), about.read_text()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="retriever.safetensors is damaged"):
        Retriever.load(tmp_path / "r")
    weights.write_bytes(whole)
    for spoiled in (
        told[:40],
        "[]",
        told.replace(WEIGHTS, "x"),
        told.replace("12,", "11,"),
        told.replace("layer", "l"),
        told.replace("model", "m"),
    ):
        about.write_text(spoiled)
        with pytest.raises(CheckpointError, match="damaged"):
            Retriever.load(tmp_path / "r")


def test_one_that_a_kill_left_moved_aside_is_brought_back(tmp_path):
    Retriever.new(SIZES, 2, False, 0).save(tmp_path / "r", {})
    (tmp_path / "r").rename(tmp_path / ".r.abcd1234.old")
    assert Retriever.load(tmp_path / "r").sizes == SIZES
