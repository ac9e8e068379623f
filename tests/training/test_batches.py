"""What a training step draws: the curriculum's documents, how many questions are asked, what episodes share."""

from pathlib import Path

import pytest

from gnm.data.documents import read_documents
from gnm.errors import DataError
from gnm.training.batches import Material, training_batch
from small_runs import train_params, write_small_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_a_document_of_just_so_many_facts_is_easy(data, tmp_path):
    document = read_documents(data / "train.json")[0]
    facts = len(document.fact_ids)
    material = Material([document])
    drawn = training_batch(train_params(data, tmp_path, curriculum={"facts": facts}), material, 0)
    assert {step.document for episode in drawn for step in episode.steps} == {document.text}
    with pytest.raises(DataError, match=f"curriculum.facts = {facts - 1}"):
        training_batch(train_params(data, tmp_path, curriculum={"facts": facts - 1}), material, 0)


def test_as_many_steps_are_easy_as_the_setting_says_and_later_ones_draw_their_length(data, tmp_path):
    params = train_params(
        data, tmp_path, curriculum={"steps": 3}, sequence_length=[2, 4], documents_per_step=8, steps=20
    )
    material = Material.read([data / "train.json"], None)
    lengths = [{len(e.steps) for e in training_batch(params, material, step)} for step in range(20)]
    assert lengths[:3] == [{1}] * 3 and set.union(*lengths[3:]) == {2, 3, 4}
    assert all(len(drawn) == 1 for drawn in lengths)  # sequences of a step are equally long


def test_no_document_is_followed_by_more_questions_than_the_setting_says(data, tmp_path):
    material = Material.read([data / "train.json"], None)
    counts = {}
    for most in (2, 50):
        params = train_params(data, tmp_path, max_queries_per_document=most)
        counts[most] = [len(row) for step in range(6) for e in training_batch(params, material, step)
                        for row in e.queries]  # fmt: skip
    assert max(counts[2]) == 2 < max(counts[50])


def test_contrastive_episodes_share_their_documents_and_no_two_steps_share_a_seed(data, tmp_path):
    params, material = train_params(data, tmp_path), Material.read([data / "train.json"], None)
    seeds = []
    for step in range(6):
        drawn = training_batch(params, material, step)
        seeds += [episode.seed for episode in drawn]
        for one, other in zip(drawn[::2], drawn[1::2], strict=True):
            texts = [[written.document for written in episode.steps] for episode in (one, other)]
            assert texts[0] == texts[1] and one.episode != other.episode
    assert len(set(seeds)) == len(seeds)
