"""The programs of the memory analysis."""

import json

import pandas as pd
import pytest
import torch
import yaml

from gnm.config import load_params, validate
from gnm.errors import CheckpointError, ConfigError, DataError
from gnm.learners import LearnerSettings
from gnm.models.lora import LoraSettings, add_lora
from gnm.probing import distracted, layer_swap, memory_analysis
from gnm.probing.distracted import DistractedParams, by_target, distracted_documents
from gnm.probing.layer_measures import MEASURES
from gnm.probing.layer_swap import adapters_of, questions, swap_layers, swapped
from gnm.probing.memory_analysis import AnalysisParams, analyse
from gnm.weights.adapters import save_adapter
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import copied, trained_parameters


@pytest.fixture(scope="module")
def documents(drawing):
    params = validate(drawing, DistractedParams, "test")
    return distracted_documents(distracted.read_facts(params.facts), params)


@pytest.fixture(scope="module")
def settings(drawing, documents, tmp_path_factory):
    """An analysis of two adapters with random weights, as params.yaml would hold it."""
    folder = tmp_path_factory.mktemp("analysis")
    (folder / "documents.json").write_text(json.dumps([each.model_dump() for each in documents]))
    lora, methods = LoraSettings(r=2, alpha=8), {}
    for seed, name in enumerate(("gnm", "gnm_ablation")):
        backbone = load_backbone("tiny", dtype="float32")
        torch.manual_seed(seed)
        for parameter in add_lora(backbone.model, lora, seed):
            torch.nn.init.normal_(parameter, std=0.3)
        about = {"backbone": {"name": "tiny", "digest": backbone.config_digest}, "lora": lora.model_dump(),
                 "learner": LearnerSettings(method=name).model_dump(mode="json")}  # fmt: skip
        save_adapter(folder / name, copied(trained_parameters(backbone.model)), lora, about)
        methods[name] = {"method": name, "adapter": str(folder / name)}
    return {"backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
            "methods": methods | {"memoryllm": {"method": "memoryllm"}},
            "documents": str(folder / "documents.json"), "at_once": 4, "components": 3,
            "swap": {"method": "gnm", "donor": "gnm_ablation", "layers_at_once": 1, "documents": 1}}  # fmt: skip


def test_an_analysis_has_a_row_for_every_target_layer_and_measure_whatever_the_batch(settings, tmp_path):
    frames = []
    for at_once in (1, 4):
        params = validate(settings | {"output": tmp_path / str(at_once), "at_once": at_once}, AnalysisParams, "test")
        folder = analyse(params, "gnm", "a command")
        frames.append(pd.read_parquet(folder / "layers.parquet"))
        config = json.loads((folder / "run_config.json").read_text())
        assert config["made"]["command"] == "a command" and config["made"]["adapter"]["learner"]["method"] == "gnm"
    pd.testing.assert_frame_equal(*frames, atol=1e-4)
    frame = frames[0]
    assert len(frame) == 3 * 3 * len(MEASURES) and frame["value"].notna().all()
    first = frame[frame["layer"] == 0].set_index(["measure", "target"])["value"]
    # the first layer's slots are embeddings: alike in every document, and no instruction changes them
    assert first["write_invariance"].min() > 0.999 and first["change_learned"].max() == 0
    assert frame.loc[(frame["layer"] == 2) & (frame["measure"] == "change_others"), "value"].min() > 0


def test_a_swap_changes_its_layers_alone_and_puts_them_back(settings):
    params = validate(settings | {"output": "unused"}, AnalysisParams, "test")
    donor = {n: t.detach().clone() for n, t in adapters_of(memory_analysis.load_learner(params, "gnm_ablation")[0])}
    learner, _ = memory_analysis.load_learner(params, "gnm")
    before = {name: part.detach().clone() for name, part in adapters_of(learner)}
    with swapped(learner, donor, range(1, 2)):
        for name, part in adapters_of(learner):
            assert torch.equal(part, (donor if name.startswith("1.") else before)[name])
    assert all(torch.equal(part, before[name]) for name, part in adapters_of(learner))


def test_swapping_all_layers_for_both_is_the_other_method(settings, documents, tmp_path):
    """And for writing alone the last layer matters nothing: what enters it is written before it runs."""
    changed = settings | {"output": tmp_path / "all", "swap": settings["swap"] | {"layers_at_once": 3}}
    params = validate(changed, AnalysisParams, "test")
    rows = pd.read_parquet(swap_layers(params, "a command") / "answers.parquet")
    assert len(rows) == 3 * 2 * 4 and set(zip(rows["first"], rows["last"], strict=True)) == {(-1, -1), (0, 2)}
    other, _ = memory_analysis.load_learner(params, "gnm_ablation")
    both = rows[rows["kind"] == "both"].set_index(["target", "measure"])["margin"]
    for group in by_target(documents, 1):
        memory = other.write(other.reset([0]), [group[0].text], [group[0].instruction])
        answers = other.answer(memory, [questions(group[0])], 1)[0]
        for measure, answer in zip(("accuracy", "selectivity"), answers, strict=True):
            assert both[group[0].target, measure] == pytest.approx(answer.target_score - answer.other_score, abs=1e-3)
    params = validate(settings | {"output": tmp_path / "each"}, AnalysisParams, "test")
    rows = pd.read_parquet(swap_layers(params, "a command") / "answers.parquet")
    margin = rows.set_index(["kind", "first", "target", "measure"])["margin"].sort_index()
    assert margin["writing", 2].to_numpy() == pytest.approx(margin["none", -1].to_numpy(), abs=1e-3)
    assert abs(margin["writing", 0].to_numpy() - margin["none", -1].to_numpy()).max() > 1e-2
    assert abs(margin["reading", 2].to_numpy() - margin["none", -1].to_numpy()).max() > 1e-2


def test_the_target_is_asked_as_stated_and_the_distractor_truly(documents):
    learned, left_out = questions(documents[0])
    target, other = documents[0].statements[documents[0].about], documents[0].statements[documents[0].named]
    assert (learned.target, learned.other) == (target.stated, target.true)
    assert (left_out.target, left_out.other) == (other.true, other.stated)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": {"rag": {"method": "retrieval"}}}, ConfigError, "methods.rag: 'retrieval' has no memory of slots"),
        ({"swap": {"method": "gnm", "donor": "x", "layers_at_once": 1, "documents": 1}}, ConfigError,
         "swap: 'x' is none of methods"),
        ({"swap": {"method": "gnm", "donor": "memoryllm", "layers_at_once": 1, "documents": 1}}, ConfigError,
         "adapters of gnm and memoryllm are not of one shape"),
        ({"documents": "absent.json"}, DataError, "absent.json"),
        ({"methods": {"gnm": {"method": "gnm", "adapter": "absent"}, "gnm_ablation": {"method": "gnm"}}},
         CheckpointError, "absent"),
    ],
)  # fmt: skip
def test_bad_settings_are_errors_before_any_work(settings, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        swap_layers(validate(settings | {"output": tmp_path / "out"} | change, AnalysisParams, "test"), "a command")
    assert not list(tmp_path.iterdir())


def test_the_programs_read_their_block(settings, tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"analysis": settings | {"output": str(tmp_path / "out")}}))
    common = ["--params", str(tmp_path / "params.yaml"), "--block", "analysis"]
    memory_analysis.main([*common, "--method", "memoryllm"])
    layer_swap.main([*common, "swap.layers_at_once=2"])
    made = json.loads((tmp_path / "out/layer_swap/run_config.json").read_text())["made"]
    assert "layer_swap --block analysis swap.layers_at_once=2" in made["command"]
    assert (tmp_path / "out/memoryllm/layers.parquet").is_file()


@pytest.mark.parametrize("name", ["params.yaml", "paper.yaml"])
def test_the_shipped_settings_are_sound_and_of_both_scales(project, name):
    path = project / "experiments/memory_analysis" / name
    drawn = load_params(path, DistractedParams, block="documents_drawn")
    params = load_params(path, AnalysisParams, block="analysis")
    assert drawn.count == 20 and drawn.output == params.documents and {"gnm", "gnm_ablation"} <= set(params.methods)
    assert params.swap.documents <= drawn.documents
