"""The plan of a GPU's memory against what models really hold, and the paper's scale without its hardware."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from gnm import plan as planning
from gnm.cli import main
from gnm.config import validate
from gnm.errors import ConfigError
from gnm.learners import LearnerSettings, Question, build_learner
from gnm.models.lora import SELECTOR, FusedLoraLinear, LoraSettings, add_lora, add_selector
from gnm.models.tokens import TokenBatch
from gnm.params import EvaluateParams, TrainParams
from gnm.plan import QUESTION_TOKENS, RECALLED_AT_ONCE, SEGMENT_TOKENS, Model, known_shape, plan
from gnm.weights.backbones import load_backbone
from gnm.weights.memoryllm import empty_model, memory_sizes
from small_runs import evaluate_settings, train_settings

LORA = LoraSettings(r=4, alpha=8)
LAYERS, HIDDEN, INNER, KV, VOCABULARY = 32, 4096, 14336, 1024, 128256


def test_the_8b_memory_model_has_the_published_shapes():
    config, shape = known_shape("gnm_all")
    sizes = {name: tuple(parameter.shape) for name, parameter in empty_model(config, shape).named_parameters()}
    expected = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    expected["model.norm.weight"] = (HIDDEN,)
    linear = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        expected |= {f"{at}{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        expected[f"{at}self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        for name, (out, into) in linear.items():
            expected[f"{at}{name}.base_layer.weight"] = (out, into)
            for adapter in ("default", "decoder_adapter"):
                expected[f"{at}{name}.lora_A.{adapter}.weight"] = (16, into)
                expected[f"{at}{name}.lora_B.{adapter}.weight"] = (out, 16)
    assert sizes == expected
    memory = memory_sizes(config, shape)
    assert memory["memory"] == (32, 12_800, 4_096)
    assert all(parameter.is_meta for parameter in empty_model(config, shape).parameters())
    numbers = sum(torch.Size(size).numel() for size in (*sizes.values(), *memory.values()))
    assert round(numbers / 1e9) == 10 and round(sum(torch.Size(s).numel() for s in expected.values()) / 1e8) == 81
    assert config.rope_parameters["factor"] == 1.8125


def test_the_plain_8b_decoder_has_8_billion_parameters():
    model = Model.of("icl_all", None)
    assert (model.weights, model.adapters, model.formed) == (8_030_261_248, 0, 0)


@pytest.fixture
def tiny_sizes(monkeypatch):
    """The tiny random backbones as if shapes.yaml knew them."""

    def known(name):
        backbone = load_backbone(name)
        return backbone.model.config, backbone.memory and backbone.memory.shape

    monkeypatch.setattr(planning, "known_shape", known)


@pytest.fixture
def settings(tmp_path):
    """Settings of an evaluation of 2 states, 3 documents each, and of a training; only their sizes are read."""
    return evaluate_settings(tmp_path, tmp_path), train_settings(tmp_path, tmp_path)


def held(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "tiny-memoryllm"])
def test_weights_pool_and_prefix_are_what_a_model_holds(name, tiny_sizes, settings):
    backbone, tokens = load_backbone(name, dtype="float32"), 50
    params = validate(settings[0] | {"backbone": {"name": name, "dtype": "float32"}}, EvaluateParams, "test")
    need = plan(params, "memoryllm", 1, tokens)
    assert need.weights == held(backbone.model.parameters())
    lm = build_learner(LearnerSettings(method="memoryllm"), backbone).lm
    lm.preamble = []
    memory = lm.initial(torch.tensor([0, 1]))
    for _ in range(3):
        ids = torch.randint(5, 200, (2, tokens))
        memory = lm.write(memory, TokenBatch.of(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert need.memory == memory.state.slots.nbytes
    prefix = lm.prefix(memory)
    marked = 2 * 2 * 3 * 2 * 12 * 4 if backbone.memory else 0  # one slot more of two states' keys and values
    read = held(prefix.keys) + (held(prefix.values) if backbone.memory else 0)
    assert need.prefix == held(memory.keys) + held(memory.values) + read - marked


def test_a_store_and_what_questions_read_of_it_are_what_a_model_holds(tiny_sizes):
    texts, tokens, k = 5, 60, 2
    method = {"write": {"gates": {"threshold": 0.0}}, "method": "memoryllm"}
    method["memory"] = {"capacity": 2 * tokens, "eviction": "oldest", "store": {"k": k, "layer": 1}}
    values = evaluate_settings(Path("data"), Path("out")) | {"backbone": {"name": "tiny", "dtype": "float32"}}
    values |= {"methods": {"memoryllm": method}, "loop": values["loop"] | {"sequence_length": texts}}
    values["loop"] |= {"sequences_at_once": 1}
    need = plan(validate(values, EvaluateParams, "test"), "memoryllm", 1, tokens)
    without = plan(
        validate(values | {"methods": {"memoryllm": {"method": "memoryllm", "memory": {"capacity": 2 * tokens}}}},
                 EvaluateParams, "test"),
        "memoryllm", 1, tokens,
    )  # fmt: skip
    lm = build_learner(LearnerSettings(**method), load_backbone("tiny", dtype="float32"), training=True).lm
    lm.preamble = []
    memory = lm.initial(torch.tensor([0]))
    for _ in range(texts):
        ids = torch.randint(5, 200, (1, tokens))
        segment = torch.arange(tokens)[None] // SEGMENT_TOKENS
        memory = lm.write(memory, TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), segment, segment >= 0))
    store = memory.state.store[0]
    assert need.memory == memory.state.slots.nbytes == without.memory
    assert need.store == held(store.entries) > 0 == without.store
    prefix = lm.recalled(memory, [(0, (place, place + 1)) for place in range(4)])
    read = (held(prefix.keys) + held(prefix.values)) // 4  # of one context
    assert need.prefix == held(memory.keys) + held(memory.values) + RECALLED_AT_ONCE * read
    assert need.total + need.store == sum(getattr(need, field.name) for field in fields(need))


def test_adapters_count_with_the_weights_that_are_formed_of_them(tiny_sizes):
    backbone = load_backbone("tiny", dtype="float32")
    parameters = add_lora(backbone.model, LORA, seed=0)
    model = Model.of("tiny", LORA)
    assert model.adapters == model.trained == sum(p.numel() for p in parameters)
    backbone.model(torch.tensor([[5, 6]]))
    formed = [module._formed["default"].weight for module in backbone.model.modules() if hasattr(module, "_formed")]
    assert model.formed == sum(weight.numel() for weight in formed) > 0
    assert Model.of("tiny-memoryllm", None).trained == (3 + 1) * 48


def test_a_selector_counts_with_the_layers_that_it_adapts_once_more(tiny_sizes, settings, tmp_path):
    gated = {"method": "gnm", "adapter": str(tmp_path), "write": {"gates": {}}}
    values = settings[0] | {"backbone": {"name": "tiny", "dtype": "float32"}, "methods": {"gnm": gated}}
    params = validate(values, EvaluateParams, "test")
    without = plan(params, "gnm", 1).adapters
    (tmp_path / SELECTOR).mkdir()
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(), seed=0)
    add_selector(backbone.model, LoraSettings(), 2)  # of three layers
    selector = [p for name, p in backbone.model.named_parameters() if f".{SELECTOR}." in name]
    layers = [layer for layer in backbone.model.modules() if isinstance(layer, FusedLoraLinear)]
    formed = [layer.base_layer.weight for layer in layers if SELECTOR in layer.lora_A]
    assert plan(params, "gnm", 1).adapters - without == held(selector) + held(formed)
    methods = {"gnm": {**gated, "adapter": tmp_path.name}}
    named_from_its_folder = validate(values | {"methods": methods}, EvaluateParams, "test")
    assert plan(named_from_its_folder, "gnm", 1, folder=tmp_path.parent) == plan(params, "gnm", 1)


def test_what_a_step_keeps_for_its_gradients_is_about_what_is_planned(tiny_sizes):
    """Bytes saved for the backward pass, each storage once, within a factor of 1.5 of the estimate."""
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LORA, seed=0)
    learner = build_learner(LearnerSettings(method="gnm"), backbone)
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # held, so that no other takes its address
        return tensor

    count, question = 4, Question("Some words that stand before what is asked here", "x", "y")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        state = learner.reset([0] * count)
        state = learner.write(state, ["A document of some length. " * 8] * count, ["All"] * count)
        learner.loss(state, [[question] * 6] * count)
    formed = sum(m._formed["default"].weight.nbytes for m in backbone.model.modules() if hasattr(m, "_formed"))
    tokens, asked = int(state.state.valid[0].sum()), len(learner.reader._prompt(question)) + 1
    estimate = count * (tokens + 6 * asked) * Model.of("tiny", LORA).kept_per_token(tokens, 4)
    measured = sum(storage.nbytes() for storage in saved.values()) - formed
    assert estimate / 1.5 < measured < estimate * 1.5, (estimate, measured)


def test_a_bank_needs_its_slots_and_parameters_and_keeps_nothing_of_the_backbone(tiny_sizes, settings):
    method = {"lora": None, "methods": {"bank": {"method": "latent_bank", "bank": {"slots": 16, "size": 24}}}}
    backbone, count, tokens = load_backbone("tiny", dtype="float32"), 4, 250
    training = validate(settings[1] | method, TrainParams, "test")
    del method["lora"]
    evaluation = plan(validate(settings[0] | method, EvaluateParams, "test"), "bank", 1, tokens)
    learner = build_learner(training.method("bank"), backbone, training=True)
    need, own = plan(training, "bank", 1, tokens), held(learner.own_parameters().values())
    assert evaluation.memory == held([learner.reset([0, 1]).slots]) and need.prefix == 0
    assert (need.weights, need.adapters) == (held(backbone.model.parameters()), own)
    assert (need.gradients, need.optimizer) == (own, 2 * own)
    weights = {parameter.untyped_storage().data_ptr() for parameter in learner.parameters()}
    saved = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    question = Question("Some words that stand before what is", "x", "y")
    asked = len(learner.reader._prompt(question)) + 1
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        state = learner.write(learner.reset([0] * count), ["A document of some length. " * 8] * count, ["All"] * count)
        learner.loss(state, [[question] * 4] * count)
    measured = sum(storage.nbytes() for storage in saved.values())
    assert asked == QUESTION_TOKENS
    assert need.activations / 1.5 < measured < need.activations * 1.5


def test_more_processes_need_less_each(tiny_sizes, settings):
    params = validate(settings[1], TrainParams, "test")
    one, two = (plan(params, "gnm", count) for count in (1, 2))
    assert (two.memory * 2, two.prefix * 2, two.activations * 2) == (one.memory, one.prefix, one.activations)
    assert (two.weights, two.adapters, two.gradients, two.optimizer) == (
        one.weights, one.adapters, one.gradients, one.optimizer,
    )  # fmt: skip
    assert one.optimizer == 2 * one.gradients > 0


def test_what_saves_memory_is_counted(tiny_sizes, settings):
    plain = validate(settings[1], TrainParams, "test")
    loop = settings[1]["loop"] | {"gradient_checkpointing": True}
    saving = {"loop": loop, "opt": settings[1]["opt"] | {"optimizer": "adamw_8bit"}, "distributed": {"shard": True}}
    saving = validate(settings[1] | saving, TrainParams, "test")
    before, after = (plan(params, "gnm", 2) for params in (plain, saving))
    assert after.weights == before.weights / 2 and after.adapters < before.adapters
    assert after.activations < before.activations / 2 and after.optimizer == before.optimizer / 4
    assert plan(saving, "gnm", 1).weights == before.weights


def test_the_table_of_an_experiment(project, capsys):
    main(["plan", str(project / "experiments" / "small_exp1")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-9:] == [
        "weights", "adapters", "memory", "prefix", "activations", "gradients", "optimizer", "store", "total",
    ]  # fmt: skip
    assert any(line.startswith("train gnm, 1 of 1") for line in lines)
    assert any(line.startswith("evaluate no_memory, 1 of 1") for line in lines)
    main(["plan", str(project / "experiments" / "small_exp1"), "--processes", "2", "backbone.name=gnm_all"])
    assert "evaluate gnm, 1 of 2" in capsys.readouterr().out


def test_an_evaluation_in_peoples_words_can_be_planned(project, capsys):
    main(["plan", str(project / "experiments" / "people")])
    rows = {line.split(",")[0]: line.split()[-9:] for line in capsys.readouterr().out.splitlines()[1:]}
    memory, prefix = ([float(rows[f"evaluate {name}"][at]) for name in ("generalist", "no_memory")] for at in (2, 3))
    assert memory[0] > memory[1] == 0 and prefix[0] > prefix[1] == 0


def test_what_cannot_be_planned_is_said(project, tmp_path):
    with pytest.raises(ConfigError, match="sizes of the backbone 'tiny' are not known; known are: smollm2-135m"):
        known_shape("tiny")
    with pytest.raises(SystemExit, match="cannot read settings"):
        main(["plan", str(tmp_path)])
    (tmp_path / "params.yaml").write_text("report: {}\n")
    with pytest.raises(SystemExit, match="nothing to plan"):
        main(["plan", str(tmp_path)])
    with pytest.raises(SystemExit, match="--processes must be at least 1"):
        main(["plan", str(project / "experiments" / "small_exp1"), "--processes", "0"])


def test_known_sizes_are_those_of_the_backbone(smollm2):
    config, _ = known_shape("smollm2-135m")
    assert all(getattr(config, key) == getattr(smollm2.model.config, key) for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings",
    ))  # fmt: skip
