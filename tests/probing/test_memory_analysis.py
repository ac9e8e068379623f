"""The memory analysis: its documents, whose slots are whose, every measure on made-up slots, and the layer swap."""

import pytest
import torch
import yaml

from gnm.config import validate
from gnm.data.instructions import instruction_for
from gnm.errors import ConfigError, DataError
from gnm.inference.prompts import block
from gnm.learners import LearnerSettings, build_learner
from gnm.probing import distracted
from gnm.probing.distracted import DistractedParams, by_target, distracted_documents, read_distracted
from gnm.probing.layer_measures import MEASURES, first_share, mean_cosine, measures_of, relative_change
from gnm.probing.line_slots import END, OBJECT, OUTSIDE, STEM, LineSlots, write_lines
from gnm.weights.backbones import load_backbone

TARGETS = ["country", "car_company"]


DISTRACTORS = ["religion", "sports_related_occupation", "continents"]


@pytest.fixture(scope="module")
def documents(drawing):
    params = validate(drawing, DistractedParams, "test")
    return distracted_documents(distracted.read_facts(params.facts), params)


def learner_of(backbone, **settings):
    return build_learner(LearnerSettings(**{"method": "gnm"} | settings), backbone, training=True).eval()


def test_a_target_stands_in_each_of_its_documents_among_one_fact_of_every_other_group(documents):
    assert len(documents) == 9
    for number, group in enumerate(by_target(documents)):
        targets = {each.statements[each.about].fact_id for each in group}
        assert len(group) == 3 and len(targets) == 1
        for each in group:
            subcategories = [statement.subcategory for statement in each.statements]
            assert sorted(subcategories) == sorted([TARGETS[number % 2], *DISTRACTORS])
            assert each.named != each.about
            assert each.instruction == instruction_for(subcategories[each.about], "test")
            assert each.swapped == instruction_for(subcategories[each.named], "test")
            lines = each.text.strip().split("\n")[1:]
            assert lines == [f"* {s.phrase} {s.stated}" for s in each.statements]
        others = [s.fact_id for each in group for s in each.statements if s.fact_id not in targets]
        assert len(set(others)) == len(others)  # the distractors of a target's documents all differ
    assert len({each.about for each in documents}) > 1
    assert [len(group) for group in by_target(documents, most=2)] == [2] * 3


def test_documents_are_written_read_and_drawn_again_alike(drawing, documents, tmp_path, capsys):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"drawn": drawing | {"output": str(tmp_path / "d.json")}}))
    distracted.main(["--params", str(tmp_path / "params.yaml"), "--block", "drawn"])
    assert read_distracted(tmp_path / "d.json") == documents and "9 documents" in capsys.readouterr().out
    plain = validate(drawing | {"paraphrased": False}, DistractedParams, "test")
    own_words = distracted_documents(distracted.read_facts(plain.facts), plain)
    assert all(s.question == s.phrase for each in own_words for s in each.statements)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": ["beauty"]}, ConfigError, "'beauty' is no subcategory"),
        ({"distractors": ["country"]}, ConfigError, "'country' is in targets and in distractors"),
        ({"count": 10_000}, DataError, "facts of country, 5000 are drawn"),
        ({"facts": "absent.json"}, DataError, "absent.json"),
    ],
)
def test_what_cannot_be_drawn_is_explained(drawing, change, error, message):
    with pytest.raises(error, match=message):
        params = validate(drawing | change, DistractedParams, "test")
        distracted_documents(distracted.read_facts(params.facts), params)


def test_a_foreign_file_of_documents_is_explained(tmp_path):
    for content in ("{}", "[]", '[{"document": "a"}]'):
        (tmp_path / "d.json").write_text(content)
        with pytest.raises(DataError, match="holds no documents of a memory analysis"):
            read_distracted(tmp_path / "d.json")


@pytest.mark.parametrize("settings", [{}, {"order": "document_first"}, {"write": {"gates": {"threshold": 0.0}}}])
def test_slots_are_told_apart_by_line_and_part_whatever_the_batch(tiny, documents, settings):
    """The first layer's slots are the tokens' embeddings; a byte is a token here, so these spell the lines."""
    learner = learner_of(tiny, **settings)
    some = documents[:3]
    told = [each.instruction for each in some]
    embedding = tiny.model.get_input_embeddings().weight
    for each, own, alone in zip(
        some, write_lines(learner, some, told, 3), write_lines(learner, some, told, 1), strict=True
    ):
        torch.testing.assert_close(own.slots, alone.slots, atol=1e-4, rtol=1e-4)
        for number, (stem, stated) in enumerate(each.lines):
            for text, part in ((stem, STEM), (stated, OBJECT)):
                expected = embedding[torch.tensor(learner.reader.chat.encode(text))]
                torch.testing.assert_close(own.of(number, part)[0], expected)
        assert set(own.line.tolist()) == set(range(4)) and OUTSIDE not in own.part
        assert own.every.shape[1] > own.slots.shape[1]  # the instruction's slots too


def test_a_document_that_is_not_stored_whole_is_explained(tiny, documents):
    learner = learner_of(tiny, write={"gates": {"by": "random", "threshold": 0.0, "share": 0.2}})
    with pytest.raises(ConfigError, match="write every token"):
        write_lines(learner, documents[:1], [documents[0].instruction], 1)


def test_the_published_memory_has_as_many_slots_for_every_document(documents):
    learner = learner_of(load_backbone("tiny-gnm", dtype="float32"))
    some, lm = documents[:2], learner.lm
    told = [each.instruction for each in some]
    with pytest.raises(ConfigError, match="more slots a document"):
        write_lines(learner, some, told, 2)
    texts = [block(each.text, each.instruction, learner.order) for each in some]
    tokens = max(len(learner.reader.chat.encode(text)) for text in texts)
    lm.write_settings = lm.write_settings.model_copy(update={"tokens": tokens})
    lm.pool = lm.pool.model_copy(update={"capacity": 2 * tokens})
    for each, own in zip(some, write_lines(learner, some, told, 2), strict=True):
        assert own.every.shape[1] == tokens
        assert own.of(each.about, OBJECT).shape[1] == len(learner.reader.chat.encode(each.lines[each.about][1]))


def test_cosine_share_and_change_are_their_formulas():
    flat = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[3.0, 0.0]]])
    assert mean_cosine(flat).tolist() == pytest.approx([1 / 3])
    assert mean_cosine(flat[:1]).isnan().all()
    slots = torch.zeros(1, 4, 3)
    slots[0, :, 0], slots[0, :, 1] = torch.tensor([3.0, -3.0, 0, 0]), torch.tensor([0, 0, 1.0, -1.0])
    assert first_share(slots + 7.0, 1).tolist() == pytest.approx([0.9])
    assert first_share(slots, 2).tolist() == pytest.approx([1.0])
    before, after = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 1.5]]])
    assert relative_change(before, after).tolist() == [[0.5]]


def test_what_an_instruction_changes_is_found_on_its_lines_and_nowhere_else(documents):
    """Slots made up: the target's line moves by its own length, the named one by a half, the others not at all."""
    document, generator = documents[0], torch.Generator().manual_seed(0)
    line = torch.arange(4).repeat_interleave(3)
    part = torch.tensor([STEM, OBJECT, END]).repeat(4)
    slots = torch.randn(2, 12, 5, generator=generator)
    moved = slots.clone()
    moved[:, line == document.about] *= 2.0
    moved[:, line == document.named] *= 0.5
    told, swap = (LineSlots(each, each, line, part) for each in (slots, moved))
    direction = torch.nn.functional.normalize(torch.randn(1, 2, 5, generator=generator), dim=-1)
    found = measures_of([document], [told], [swap], direction, 2, fixed=False)
    for name, expected in (("change_learned", 1.0), ("change_left_out", 0.5), ("change_others", 0.0)):
        assert found[name].tolist() == pytest.approx([expected] * 2)
    assert set(found) == set(MEASURES)
    plain = slots[:, part != OBJECT].mean(1) - moved[:, part != OBJECT].mean(1)
    torch.testing.assert_close(found["selectivity_index_paired"], (plain * direction[0]).sum(-1))
    torch.testing.assert_close(found["selectivity_index"], (slots.mean(1) * direction[0]).sum(-1))
    # the object's own slots are left out of the paired index: moving them changes nothing
    moved[:, part == OBJECT] += 9.0
    again = measures_of([document], [told], [LineSlots(moved, moved, line, part)], direction, 2, fixed=False)
    torch.testing.assert_close(again["selectivity_index_paired"], found["selectivity_index_paired"])
