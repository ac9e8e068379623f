"""A published checkpoint from folder to evaluation: weights of its own, the rest of its base."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gnm.config import validate
from gnm.errors import BackboneError, CheckpointError, ConfigError
from gnm.evaluate import evaluate, run_sequences
from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import LoraSettings
from gnm.params import EvaluateParams
from gnm.train import Trainer
from gnm.weights import backbones
from gnm.weights.backbones import REGISTRY, Random, load_backbone
from gnm.weights.memoryllm import MemoryShape
from gnm.weights.published import Published, fetched_from
from gnm.weights.sources import Hub
from gnm.weights.tiny import byte_tokenizer
from small_runs import evaluate_settings, train_params, write_small_documents
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS, assert_same_answers

LORA = LoraSettings(r=2, alpha=4, target_modules=("q_proj", "up_proj"))
SHAPE = MemoryShape(tokens=32, blocks=4, per_layer=True, lora=LORA, two_adapters=True)


@pytest.fixture
def original(monkeypatch):
    """The memory model that was published, in float32."""
    monkeypatch.setitem(REGISTRY, "original", {"random": Random("llama", memory=SHAPE)})
    return load_backbone("original", dtype="float32")


@pytest.fixture
def base(tmp_path, monkeypatch, original):
    """The folder of its base: config, tokenizer, starting pool; the hub is not asked for it."""
    folder = tmp_path / "base"
    byte_tokenizer().save_pretrained(folder)
    config = original.model.config.to_dict() | {
        "num_tokens": 32, "num_blocks": 4, "drop_memory_per_layer": True, "add_decoder_lora": True,
        "lora_config": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"memory": original.memory.start}, folder / "model.safetensors")
    monkeypatch.setitem(REGISTRY, "a-base", {"hub": Hub("nobody/base", "main", 1)})
    monkeypatch.setattr(backbones, "hub_snapshot", lambda name, hub, patterns: {"a-base": folder}[name])
    return folder


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, original, base):
    """The folder of its weights, in a wrapper's names, with a pool that training left behind."""
    memory = original.memory
    tensors = {name: p.detach().clone() for name, p in original.model.named_parameters()}
    tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    tensors |= {name: getattr(memory, name) for name in ("bos_embedding", "new_memory_positional_emb")}
    tensors |= {"memory": torch.zeros_like(memory.start), "initialized": torch.tensor(1, dtype=torch.uint8)}
    folder = tmp_path / "models" / "published"
    folder.mkdir(parents=True)
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    entry = Published(Hub("nobody/published", "main", 1), base="a-base", memory=True)
    monkeypatch.setitem(REGISTRY, "published", {"folder": entry})
    monkeypatch.setenv("GNM_MODELS", str(tmp_path / "models"))
    return folder


def answers(backbone):
    learner = build_learner(LearnerSettings(method="memoryllm"), backbone)
    with torch.no_grad():
        state = learner.reset([3])
        for document, instruction in zip(DOCUMENTS, INSTRUCTIONS, strict=True):
            state = learner.write(state, [document], [instruction])
        return learner.answer(state, [list(QUESTIONS)], 3)[0]


def test_a_published_checkpoint_is_the_model_that_was_published(original, checkpoint):
    loaded = load_backbone("published", dtype="float32")
    assert torch.equal(loaded.memory.start, original.memory.start)
    assert_same_answers(answers(loaded), answers(original))


def test_where_it_came_from_is_part_of_what_it_is(checkpoint):
    by_hand = load_backbone("published")
    assert by_hand.origin.startswith("local files, ")
    (checkpoint / "source.json").write_text(json.dumps({"repo": "nobody/published", "commit": "c" * 40, "files": {}}))
    fetched = load_backbone("published")
    assert fetched.origin == fetched_from("published", checkpoint) == "nobody/published@" + "c" * 40
    assert fetched.config_digest != by_hand.config_digest


@pytest.mark.parametrize("text", ["{", "[]", 100_000 * "["])
def test_a_damaged_note_of_where_it_came_from_is_refused(tmp_path, text):
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(BackboneError, match="source.json is damaged; fetch the folder again"):
        fetched_from("published", tmp_path)


def test_a_base_that_was_never_written_to_starts_empty(base, checkpoint, original):
    save_file({"memory": original.memory.start, "initialized": torch.tensor(0)}, base / "model.safetensors")
    assert load_backbone("published").memory.start is None


def test_a_base_with_another_pool_is_refused(base, checkpoint):
    pool = load_file(base / "model.safetensors")["memory"]
    save_file({"memory": pool[:, :64].clone()}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no pool of shape \(3, 128, 48\)"):
        load_backbone("published")


def test_it_is_evaluated_beside_methods_on_another_backbone(checkpoint, tmp_path, monkeypatch):
    data, states = write_small_documents(tmp_path), []
    settings = evaluate_settings(data, tmp_path / "out")
    settings["methods"] = {"gnm": {"method": "gnm", "backbone": "published"}, "no_memory": {"method": "no_memory"}}
    params = validate(settings, EvaluateParams, "test")

    def watched(learner, batch, params, known):
        write = learner.write
        learner.write = lambda *arguments: states.append(write(*arguments)) or states[-1]
        return run_sequences(learner, batch, params, known)

    monkeypatch.setattr("gnm.evaluate.run_sequences", watched)
    folder = evaluate(params, "gnm", "test")
    assert states and not any(state.state.slots.requires_grad for state in states)  # no graph grows along
    made = json.loads((folder / "run_config.json").read_text())
    assert made["learner"]["backbone"] == "published"
    evaluate(params, "no_memory", "test")


@pytest.mark.parametrize("pool", [{"eviction": "oldest"}, {"eviction": "oldest", "per_layer": False}])
def test_the_oldest_may_go_first_in_a_pool_that_draws_for_each_layer(original, pool):
    lm = build_learner(LearnerSettings(method="memoryllm", memory=pool), original).lm
    assert (lm.pool.eviction, lm.pool.per_layer, lm.pool.capacity) == ("oldest", False, 128)
    shared = build_learner(LearnerSettings(method="memoryllm", memory={"per_layer": False}), original).lm
    assert not shared.pool.per_layer and shared.pool.fill


def test_a_memory_model_is_trained_in_its_own_adapters(original, tmp_path):
    params = train_params(write_small_documents(tmp_path), tmp_path / "out")
    settings = replace_backbone(params, "original")
    with pytest.raises(ConfigError, match="the memory model original has LoRA of its own"):
        Trainer(settings, "gnm", "test")
    run = Trainer(settings.model_copy(update={"lora": None}), "gnm", "test")
    assert run.lora.r == 2 and run.step(0)["loss"] > 0


def replace_backbone(params, name):
    return params.model_copy(update={"backbone": params.backbone.model_copy(update={"name": name})})


def test_a_plain_checkpoint_takes_no_weights_of_its_base(checkpoint, base, monkeypatch):
    asked = []
    monkeypatch.setattr(backbones, "hub_snapshot", lambda name, hub, patterns: asked.append(patterns) or base)
    load_backbone("published")
    entry = REGISTRY["published"]["folder"]
    monkeypatch.setitem(REGISTRY, "published", {"folder": replace(entry, memory=False)})
    load_backbone("published")
    assert "*.safetensors" in asked[0] and "*.safetensors" not in asked[1]
