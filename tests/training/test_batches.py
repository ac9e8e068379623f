"""What a training step draws: the curriculum's documents, how many questions are asked, what episodes share."""

import re
from pathlib import Path

import pytest

from gnm.config import validate
from gnm.data.documents import read_documents
from gnm.data.labels import label_writes
from gnm.data.people.episodes import index_facts
from gnm.data.people.written import read_written
from gnm.data.segments import split_segments
from gnm.errors import DataError
from gnm.params import Replay, TrainParams
from gnm.training.batches import Material, training_batch, validation_episodes
from known_facts import FACTS
from small_runs import train_params, train_settings, write_small_documents


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


# --- sequences in people's words


def people_params(data, output, share, written=None, **loop):
    """Settings of a training of which a `share` is in people's words; `written` of these were written one by one."""
    people = {"share": share, "train": "facts.json", "validation": "facts.json", "everyday": 0}
    if written is not None:
        people["written"] = {"share": written, "train": "written.json", "validation": "written.json"}
    settings = train_settings(data, output) | {"people": people}
    settings["loop"] |= {"curriculum": None, "sequence_length": 1, **loop}
    return validate(settings, TrainParams, "test")


@pytest.fixture(scope="module")
def material(data, project) -> Material:
    written = read_written(project / "data/people/written_dev.json")
    return Material(read_documents(data / "train.json"), index_facts(FACTS), written)


def kinds_of(episodes):
    """Where each episode's first document is from: "protocol", "facts" (of `known_facts`) or "written"."""
    found = []
    for episode in episodes:
        text = episode.steps[0].document
        is_protocol = text.startswith("The following statements hold:")  # a form in which people's facts may stand too
        found.append("facts" if re.search(r"Subject\d+ Name", text) else "protocol" if is_protocol else "written")
    return found


@pytest.mark.parametrize(
    ("share", "written", "kinds"),
    [
        (0.0, 1.0, {"protocol"}),
        (1.0, None, {"facts"}),
        (1.0, 0.0, {"facts"}),
        (1.0, 1.0, {"written"}),
        (0.5, 0.5, {"protocol", "facts", "written"}),
    ],
)
def test_shares_of_the_sequences_are_in_peoples_words(data, tmp_path, material, share, written, kinds):
    params = people_params(data, tmp_path, share, written, max_queries_per_document=2)
    drawn = [episode for step in range(12) for episode in training_batch(params, material, step)]
    assert set(kinds_of(drawn)) == kinds
    assert len({episode.seed for episode in drawn}) == len(drawn) == 12 * 4
    for episode in drawn:
        assert episode.labels == label_writes(episode.steps) and len(episode.queries) == len(episode.steps)
        assert all(len(row) <= 2 for row in episode.queries)
    assert max(len(row) for episode in drawn for row in episode.queries) == 2
    again = training_batch(params, material, 3)
    assert again == drawn[12:16] and again != training_batch(params, material, 4)


def test_a_validation_has_as_many_sequences_of_each_kind(data, tmp_path, material):
    settings = {"validation_sequences": 3, "sequence_length": [1, 2]}
    for written, kinds in ((None, ["protocol", "facts"]), (0.1, ["protocol", "facts", "written"])):
        params = people_params(data, tmp_path, 0.2, written, **settings)
        drawn = validation_episodes(params, material)
        assert kinds_of(drawn) == [kind for kind in kinds for _ in range(3)]
        assert [episode.seed for episode in drawn] == list(range(3 * len(kinds)))
        assert all(len(episode.steps) == 2 for episode in drawn)
        assert all(episode.labels == label_writes(episode.steps) for episode in drawn)
        assert drawn == validation_episodes(params, material)  # the same at every validation
    plain = train_params(data, tmp_path, curriculum=None, **settings)
    assert validation_episodes(plain, material) == drawn[:3]


def test_replay_gives_a_share_of_the_sequences_an_earlier_trainings_targets(data, tmp_path):
    material = Material.read([data / "train.json"], None)
    plain = train_params(data, tmp_path, curriculum=None, sequence_length=1)
    earlier = {"target_types": ["formats"], "groups": "seen", "eligible_formats": ["json_text", "yaml_text"]}

    def drawn(share):
        params = plain.model_copy(update={"replay": validate({"share": share, "targets": earlier}, Replay, "test")})
        return [episode for step in range(10) for episode in training_batch(params, material, step)]

    own = [episode for step in range(10) for episode in training_batch(plain, material, step)]
    assert drawn(0.0) == own
    of_earlier, some = drawn(1.0), drawn(0.3)
    assert all(step.target_type == "formats" for episode in of_earlier for step in episode.steps)
    replayed = [episode != other for episode, other in zip(some, own, strict=True)]
    assert 0 < sum(replayed) < len(own) / 2
    assert [e for e, is_replayed in zip(some, replayed, strict=True) if is_replayed] == [
        e for e, is_replayed in zip(of_earlier, replayed, strict=True) if is_replayed
    ]


def test_each_document_comes_with_a_revocation_of_what_it_taught(data, tmp_path):
    material = Material.read([data / "train.json"], None)
    drawn = training_batch(train_params(data, tmp_path, curriculum=None, sequence_length=2), material, 0)
    for episode in drawn:
        for step, labels in zip(episode.steps, episode.labels, strict=True):
            [(text, taken)] = step.revocations
            stated = {segment.strip() for segment in split_segments(step.document)}
            assert text and taken <= stated and taken in (step.wanted or frozenset(), stated)
            assert [each[0] for each in labels.revocations] == [text]
