"""Training on a tiny backbone: it learns, resumes to bit-equal weights, and refuses bad settings before work."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gnm import train
from gnm.api import load
from gnm.config import validate
from gnm.data.documents import read_documents
from gnm.data.instructions import instruction_for
from gnm.data.types import NEIGHBOUR, PARAPHRASE
from gnm.errors import CheckpointError, ConfigError, DataError
from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import LoraSettings, add_lora, add_selector
from gnm.params import TrainParams
from gnm.train import Trainer
from gnm.training.batches import Material, training_batch
from gnm.training.loss import SUMS, TrainingLoss
from gnm.weights.adapters import load_adapter, read_about, save_adapter
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from gnm.weights.trained import WEIGHTS, copied, layers_of, read_weights, trained_parameters
from small_runs import SAMPLING, train_params, train_settings, write_small_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def trainer(data: Path, output: Path, method: str = "gnm", **loop) -> Trainer:
    return Trainer(train_params(data, output, **loop), method, "a test")


def changed_trainer(data: Path, output: Path, changes: dict, method: str = "gnm") -> Trainer:
    """A run of `train_settings` with other top-level blocks."""
    return Trainer(validate({**train_settings(data, output), **changes}, TrainParams, "test"), method, "a test")


MEMORY_MODEL = {"backbone": {"name": "tiny-gnm", "dtype": "float32", "device": "cpu"}, "lora": None}


@pytest.mark.parametrize("method", ["gnm", "gnm_ablation", "in_context_ft", "retrieval_ft"])
def test_the_loss_of_a_step_that_is_repeated_falls(data, tmp_path, method):
    run = trainer(data, tmp_path, method, steps=100)
    losses = [run.step(1)["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5


def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    trainer(data, tmp_path / "whole").fit()

    honest = Trainer.step

    def killed_at_5(self, step, *drawn):
        if step == 5:
            raise KeyboardInterrupt
        return honest(self, step, *drawn)

    monkeypatch.setattr(Trainer, "step", killed_at_5)
    with pytest.raises(KeyboardInterrupt):
        trainer(data, tmp_path / "killed").fit()
    monkeypatch.setattr(Trainer, "step", honest)
    second = trainer(data, tmp_path / "killed")
    steps = []
    monkeypatch.setattr(Trainer, "step", lambda self, step, *drawn: steps.append(step) or honest(self, step, *drawn))
    logged = tmp_path / "killed" / ".gnm-live" / "plots" / "metrics" / "train" / "loss.tsv"
    assert len(logged.read_text().splitlines()) == 6  # a heading and steps 0 to 4
    second.fit()
    assert steps == [4, 5]  # the checkpoint of step 4 was whole
    assert [line.split("\t")[0] for line in logged.read_text().splitlines()] == ["step", *"012345"]
    logs = [tmp_path / name / ".gnm-live" / "plots" / "metrics" for name in ("whole", "killed")]
    names = [sorted(path.relative_to(log) for path in log.rglob("*.tsv")) for log in logs]
    assert names[0] == names[1]
    for name in names[0]:
        if name.stem != "seconds":
            assert (logs[0] / name).read_text() == (logs[1] / name).read_text()
    whole, resumed = (load_file(tmp_path / name / "gnm" / WEIGHTS) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path):
    trainer(data, tmp_path).fit()
    with pytest.raises(CheckpointError, match="training"):
        trainer(data, tmp_path, max_queries_per_document=3).fit()


def test_the_saved_adapter_says_how_it_was_made_and_loads(data, tmp_path, tiny):
    trainer(data, tmp_path).fit()
    about = read_about(tmp_path / "gnm")
    assert about["made"]["steps"] == 6 and about["made"]["seed"] == 0 and "torch" in about["made"]["versions"]
    assert "gnm on tiny" in (tmp_path / "gnm" / "README.md").read_text()
    load_adapter(tmp_path / "gnm", tiny)
    assert any("lora_A" in name for name, _ in tiny.model.named_parameters())


def test_the_best_adapter_is_saved_not_the_last(data, tmp_path, monkeypatch):
    values = iter([{"loss": 1.0}, {"loss": 2.0}])
    run = trainer(data, tmp_path)
    states = []

    def validate(self):
        states.append({name: tensor.bfloat16() for name, tensor in train.copied(self.parts)["default"].items()})
        return next(values)

    monkeypatch.setattr(Trainer, "validate", validate)
    run.fit()
    saved = load_file(tmp_path / "gnm" / WEIGHTS)
    assert all(torch.equal(saved[name], states[0][name]) for name in saved)
    assert not all(torch.equal(saved[name], states[1][name]) for name in saved)


def test_training_stops_early_when_validation_gets_worse(data, tmp_path, monkeypatch):
    values = iter([{"loss": value} for value in (1.0, 2.0, 3.0, 4.0, 5.0)])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(values))
    run = trainer(data, tmp_path, steps=50, validate_every=1, patience=2)
    run.fit()
    assert read_about(tmp_path / "gnm")["made"]["steps"] == 3


def validations(monkeypatch, *losses):
    """Runs whose steps add 1 to every weight, and whose validations give these losses."""
    values = iter([{"loss": value} for value in losses])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(values))

    @torch.no_grad()
    def step(self, number, drawn):
        for parameter in self.parameters:
            parameter.add_(1.0)
        return {}

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize(
    ("losses", "steps", "best"),
    [
        ((5.0, 6.0, 4.0, 5.0, 6.0), 5, 3),  # an improvement begins the count anew
        ((5.0, 5.0, 5.0), 3, 1),  # as good is no better
        ((5.0, 6.0, 4.0, 3.0, 2.0, 1.0), 6, 6),
    ],
)
def test_training_waits_for_so_many_validations_in_a_row_that_are_no_better(
    data, tmp_path, monkeypatch, losses, steps, best
):
    validations(monkeypatch, *losses)
    trainer(data, tmp_path, steps=6, validate_every=1, patience=2).fit()
    made = read_about(tmp_path / "gnm")["made"]
    assert (made["steps"], made["best step"], made["validation loss"]) == (steps, best, f"{min(losses):.4f}")


def test_the_last_step_is_validated_whatever_its_number(data, tmp_path, monkeypatch):
    validations(monkeypatch, 2.0, 1.0)
    trainer(data, tmp_path, steps=3, validate_every=2).fit()
    assert read_about(tmp_path / "gnm")["made"]["best step"] == 3


def test_a_resumed_run_keeps_the_best_weights_so_far_and_the_count_of_worse_ones(data, tmp_path, monkeypatch):
    """The first validation is the best; the run is killed after the second, and the third ends it."""
    settings = {"steps": 6, "validate_every": 1, "patience": 2, "checkpoint_every": 1}
    validations(monkeypatch, 1.0, 2.0)
    with pytest.raises(StopIteration):  # there is no third validation
        trainer(data, tmp_path, **settings).fit()
    validations(monkeypatch, 3.0)
    run = trainer(data, tmp_path, **settings)
    start = copied(run.parts)["default"]
    run.fit()
    saved, made = load_file(tmp_path / "gnm" / WEIGHTS), read_about(tmp_path / "gnm")["made"]
    assert all(torch.equal(saved[name], (start[name] + 1).bfloat16()) for name in saved)  # those after one step
    assert (made["steps"], made["best step"], made["validation loss"]) == (3, 1, "1.0000")


def gradients_of_a_step(run, monkeypatch):
    """What the optimizer is given in step 0."""
    seen = []
    monkeypatch.setattr(run.optimizer, "step", lambda: seen.extend(p.grad.clone() for p in run.parameters))
    run.step(0)
    return seen


def test_a_step_follows_the_means_over_tokens_and_over_documents(data, tmp_path, monkeypatch):
    """The answers' loss is a mean over tokens, the writes' own one over documents."""
    changes = {
        "methods": {"gnm": {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}},
        "opt": {"learning_rate": 0.02, "warmup_steps": 1, "clip_norm": 1e9},
    }
    run = changed_trainer(data, tmp_path, changes)
    losses, sums = run.module(training_batch(run.params, run.train, 0))
    sums = dict(zip(SUMS, sums.tolist(), strict=True))
    assert sums["documents"] == 4 < sums["tokens"]
    (losses[0] / sums["tokens"] + losses[1] / 4).backward()
    expected = [p.grad.clone() for p in run.parameters]
    run.module.zero_grad()
    for ours, theirs in zip(gradients_of_a_step(run, monkeypatch), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


GATED = {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}


def test_steps_between_those_that_ask_train_what_is_stored_alone(data, tmp_path):
    loop = {**train_settings(data, tmp_path)["loop"], "answers_every": 3}
    run = changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}, "loop": loop})
    deepest = [p for name, p in run.module.named_parameters() if p.requires_grad and "layers.2." in name]
    assert deepest and run.module.learner.lm.gating.layer == 2
    for step in range(6):
        before = [parameter.detach().clone() for parameter in deepest]
        gate = run.module.learner.lm.gating.gate.weight.detach().clone()
        means = run.step(step)
        asked = step in (2, 5)
        assert ("loss" in means) == asked and "write_loss" in means
        assert not torch.equal(gate, run.module.learner.lm.gating.gate.weight)
        changed = [not torch.equal(*pair) for pair in zip(before, deepest, strict=True)]
        assert any(changed) == asked


def test_the_loss_of_what_is_stored_alone_is_that_of_the_writes(data, tmp_path):
    """With gates and no keep gates the writes' own loss is all that there is."""
    run = changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}})
    batch = training_batch(run.params, run.train, 0)
    (asked, _), (alone, sums) = run.module(batch), run.module(batch, asks=False)
    torch.testing.assert_close(alone[1], asked[1])
    assert float(alone[0].detach()) == 0 and sums[SUMS.index("tokens")] == 0


@pytest.mark.parametrize("write", [{}, {"gates": {"by": "random", "threshold": 0, "share": 0.5}}])
def test_steps_without_questions_need_gates_that_learn(data, tmp_path, write):
    loop, methods = train_settings(data, tmp_path)["loop"], {"gnm": {"method": "gnm", "write": write}}
    with pytest.raises(ConfigError, match="loop.answers_every: gnm has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "loop": {**loop, "answers_every": 2}})
    with pytest.raises(ConfigError, match="selection_only: gnm has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "selection_only": True})


def test_selecting_is_learned_alone(data, tmp_path):
    """By an adapter of its own: what else was trained stays as it is, to the bit."""
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": GATED}}).fit()
    first = tmp_path / "first" / "gnm"
    settings = {"methods": {"gnm": {**GATED, "adapter": str(first)}}, "lora": None, "selection_only": True}
    run = changed_trainer(data, tmp_path / "second", settings)
    assert list(run.parts) == ["default", "selector", "memory_module"]
    assert set(run.validate()) == {"write_loss"} == set(run.step(0))
    changed_trainer(data, tmp_path / "second", settings).fit()
    before, after = (
        {part: read_weights(f, part) for part in ("default", "memory_module")}
        for f in (first, tmp_path / "second" / "gnm")
    )
    assert all(torch.equal(tensor, after["default"][name]) for name, tensor in before["default"].items())
    assert not torch.equal(before["memory_module"]["gate.weight"], after["memory_module"]["gate.weight"])
    assert "about_gate.weight" not in after["memory_module"]  # without `revise` nothing is taken back
    selector = read_weights(tmp_path / "second" / "gnm", "selector")
    assert layers_of(selector) == run.module.learner.lm.gating.layer == 2
    assert all(not torch.equal(tensor, before["default"][name]) for name, tensor in selector.items())
    about = read_about(tmp_path / "second" / "gnm")
    assert float(about["made"]["validation loss"]) > 0 and about["training"]["selection_only"]
    settings["methods"]["gnm"]["adapter"] = str(tmp_path / "second" / "gnm")  # and goes on from there
    again = copied(changed_trainer(data, tmp_path / "third", settings).parts)["selector"]
    assert all(torch.equal(tensor, again[name].bfloat16()) for name, tensor in selector.items())


def test_what_is_taken_back_is_told_by_the_gate_of_before(data, tmp_path):
    revising = {**GATED, "write": {"gates": {"threshold": 0.0, "revise": True}}}
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": revising}}).fit()
    settings = {"methods": {"gnm": {**revising, "adapter": str(tmp_path / "first" / "gnm")}}, "lora": None}
    changed_trainer(data, tmp_path / "second", {**settings, "selection_only": True}).fit()
    before, after = (read_weights(tmp_path / name / "gnm", "memory_module") for name in ("first", "second"))
    for part in ("weight", "bias"):
        assert torch.equal(after[f"about_gate.{part}"], before[f"gate.{part}"])
        assert not torch.equal(after[f"gate.{part}"], before[f"gate.{part}"])


def test_steps_without_questions_need_writing_with_gradient(data, tmp_path):
    methods = {"gnm": {**GATED, "method": "gnm_ablation"}}
    with pytest.raises(ConfigError, match="selection_only: gnm_ablation has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "selection_only": True})


@pytest.fixture
def with_selector(tmp_path) -> Path:
    """An untrained adapter with gates and a selector away from where it starts."""
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=4, alpha=8), seed=0)
    add_selector(backbone.model, LoraSettings(r=4, alpha=8), 2)
    for part in trained_parameters(backbone.model).values():
        for name, parameter in part.items():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    learner = build_learner(validate(GATED, LearnerSettings, "test"), backbone, training=True)
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest, "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8},
        "learner": GATED,
    }
    weights = copied(trained_parameters(backbone.model, learner.own_parameters()))
    save_adapter(tmp_path / "selects", weights, LoraSettings(r=4, alpha=8), about)
    return tmp_path / "selects"


@pytest.mark.parametrize("method", [{"method": "in_context_ft"}, {"method": "gnm"}])
def test_a_method_that_does_not_select_leaves_the_selector_as_it_is(data, tmp_path, with_selector, method):
    run = changed_trainer(data, tmp_path, {"methods": {"m": {**method, "adapter": with_selector}}, "lora": None}, "m")
    assert not any(parameter.requires_grad for parameter in run.parts["selector"].values())
    assert all(parameter.requires_grad for parameter in run.parts["default"].values())


def test_selecting_needs_an_adapter_to_start_from(data, tmp_path):
    with pytest.raises(ConfigError, match="selection_only: there is no adapter to start from"):
        changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}, "selection_only": True, "lora": None})


def test_gradients_are_clipped_to_the_norm(data, tmp_path, monkeypatch):
    norms = []
    for clip in (1e9, 1e-3):
        run = changed_trainer(data, tmp_path, {"opt": {"learning_rate": 0.02, "warmup_steps": 1, "clip_norm": clip}})
        seen = gradients_of_a_step(run, monkeypatch)
        norms.append(float(torch.cat([gradient.flatten() for gradient in seen]).norm()))
    assert norms[0] > 2e-3 and norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_step_has_its_own_learning_rate_and_leaves_no_gradient(data, tmp_path):
    opt = {"learning_rate": 0.02, "warmup_steps": 2, "own_rate": 10.0}
    run = changed_trainer(data, tmp_path, {**MEMORY_MODEL, "opt": opt})
    for step, rate in ((0, 0.01), (1, 0.02), (4, 0.01)):
        run.step(step)
        assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([rate, rate, 10 * rate])
        assert all(parameter.grad is None for parameter in run.parameters)


def test_gradients_reach_what_the_setting_says(data, tmp_path):
    """Through `all`, `last` and no writing at all: three different gradients of the same loss."""
    gradients = {}
    for name, method, through in (("all", "gnm", "all"), ("last", "gnm", "last"), ("none", "gnm_ablation", "all")):
        run = trainer(data, tmp_path, method, gradients_through=through, sequence_length=2, curriculum=None)
        with torch.no_grad():
            for parameter in run.parameters:  # B starts at zero, and with it every gradient of A
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        losses, _ = run.module(training_batch(run.params, run.train, 0))
        losses[0].backward()
        gradients[name] = (float(losses[0].detach()), torch.cat([p.grad.flatten() for p in run.parameters]))
    assert gradients["all"][0] == pytest.approx(gradients["last"][0], rel=1e-5)
    assert gradients["all"][0] == pytest.approx(gradients["none"][0], rel=1e-5)
    for one, other in (("all", "last"), ("all", "none"), ("last", "none")):
        assert not torch.allclose(gradients[one][1], gradients[other][1], rtol=1e-3, atol=1e-6)


def test_retrieval_of_all_documents_trains_as_in_context_does(data, tmp_path):
    losses = {}
    for method in ("in_context_ft", "retrieval_ft"):
        run = trainer(data, tmp_path, method)
        means = [run.step(step) for step in range(4)]
        losses[method] = [value for mean in means for value in mean.values()]
    assert losses["in_context_ft"] == pytest.approx(losses["retrieval_ft"], rel=1e-4)


def test_steps_are_a_pure_function_of_seed_and_number(data, tmp_path):
    params = train_params(data, tmp_path)
    material = Material.read([data / "train.json"], None)
    assert training_batch(params, material, 3) == training_batch(params, material, 3)
    assert training_batch(params, material, 3) != training_batch(params, material, 4)


def test_the_first_steps_are_easy(data, tmp_path):
    """Single short documents under one phrasing, with questions of their own."""
    curriculum = {"steps": 12, "documents_per_step": 6, "sampling": SAMPLING | {"num_paraphrase_from_other_facts": 0}}
    params = train_params(data, tmp_path, curriculum=curriculum, sequence_length=[2, 2])
    documents = read_documents(data / "train.json")
    short = {document.text for document in documents if len(document.fact_ids) <= 4}
    assert 0 < len(short) < len(documents)
    later, ignored = set(), set()
    for step in range(24):
        batch = training_batch(params, Material(documents), step)
        lengths = [len(episode.steps) for episode in batch]
        assert lengths == ([1] * 6 if step < 12 else [2, 2])
        written = [written for episode in batch for written in episode.steps]
        if step < 12:
            assert {step.document for step in written} <= short
            assert all(step.instruction == instruction_for(step.target, "train") for step in written)
            assert all(query.learn for step in written for query in step.queries)
        else:
            later |= {step.document for step in written}
            ignored |= {query.learn for step in written for query in step.queries}
    assert not later <= short and ignored == {True, False}


def test_settings_that_leave_no_easy_document_are_refused(data, tmp_path):
    with pytest.raises(DataError, match="curriculum.facts"):
        trainer(data, tmp_path, curriculum={"facts": 2})
    trainer(data, tmp_path, curriculum=None)


def test_more_processes_than_sequences_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.Accelerator, "num_processes", 3)
    with pytest.raises(ConfigError, match="3 processes.* only 2"):
        trainer(data, tmp_path)


def test_what_is_logged_is_what_the_answers_say(data, tmp_path):
    """Accuracy, selectivity and specificity of a validation against the learner's own answers."""
    run = trainer(data, tmp_path)
    means, learner = run.validate(), run.module.learner
    kinds = {(PARAPHRASE, True): "accuracy", (PARAPHRASE, False): "selectivity", (NEIGHBOUR, True): "specificity"}
    right = {kind: [] for kind in kinds.values()}
    for episode in run.validation:
        state = learner.reset([episode.seed])
        for t, step in enumerate(episode.steps):
            state = learner.write(state, [step.document], [step.instruction])
            answers = learner.answer(state, [episode.questions(t)], 1)[0]
            for query, answer in zip(episode.queries[t], answers, strict=True):
                right[kinds[query.type, query.learn]].append(answer.target_score > answer.other_score)
    assert means.keys() == {"loss", *right}
    for name, verdicts in right.items():
        assert means[name] == pytest.approx(sum(verdicts) / len(verdicts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lop": {}}, "did you mean 'loop'"),
        ({"data": {"train": ["absent.json"], "validation": "absent.json"}}, "absent.json"),
        ({"backbone": {"name": "tinny", "dtype": "float32"}}, "did you mean 'tiny'"),
        ({"methods": {"gnm": {"method": "gmn"}}}, "did you mean 'gnm'"),
        ({"methods": {"gnm": {"method": "gnm", "adapter": "absent"}}}, "absent is no adapter"),
        ({"lora": None}, "lora is missing: tiny has no adapters of its own"),
        ({"opt": {"learning_rate": 0.1, "warmup_steps": 1, "optimizer": "adamw_8bit"}}, "runs on CUDA only"),
    ],
)
def test_bad_settings_end_in_one_sentence_before_any_work(data, tmp_path, change, message):
    settings = train_settings(data, tmp_path / "out") | change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        train.main(["--method", "gnm", "--params", str(tmp_path / "params.yaml")])
    assert message in str(stop.value) and "Traceback" not in str(stop.value)
    assert not (tmp_path / "out").exists()


# --- where training starts from


def test_training_goes_on_from_an_adapter(data, tmp_path):
    trainer(data, tmp_path / "first").fit()
    method = {"methods": {"gnm": {"method": "gnm", "adapter": str(tmp_path / "first" / "gnm")}}}
    run = changed_trainer(data, tmp_path / "second", method)
    saved = load_file(tmp_path / "first" / "gnm" / WEIGHTS)
    assert all(torch.equal(tensor.bfloat16(), saved[name]) for name, tensor in copied(run.parts)["default"].items())
    run.fit()
    about = read_about(tmp_path / "second" / "gnm")
    assert about["start"] and "start" not in read_about(tmp_path / "first" / "gnm")
    with pytest.raises(ConfigError, match="has LoRA of its own"):
        changed_trainer(data, tmp_path, {**method, "lora": {"r": 3, "alpha": 8}})


def test_what_a_method_has_beside_its_adapters_can_learn_alone(data, tmp_path):
    method = {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": method}}).fit()
    method |= {"adapter": str(tmp_path / "first" / "gnm"), "write": {"gates": {"threshold": 0.0, "revise": True}}}
    alone = {"train_adapters": False, "lora": None}
    loop = {**train_settings(data, tmp_path)["loop"], "unlearning": True}
    run = changed_trainer(data, tmp_path / "second", {**alone, "methods": {"gnm": method}, "loop": loop})
    before = copied(run.parts)
    first = load_file(tmp_path / "first" / "gnm" / "memory_module.safetensors")
    assert all(torch.equal(before["memory_module"][name], tensor) for name, tensor in first.items())
    run.fit()
    after = load_file(tmp_path / "second" / "gnm" / "memory_module.safetensors")
    assert after.keys() == before["memory_module"].keys() > first.keys()
    assert not any(torch.equal(before["memory_module"][name], tensor) for name, tensor in after.items())
    adapters = [load_file(tmp_path / part / "gnm" / WEIGHTS) for part in ("first", "second")]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    with pytest.raises(ConfigError, match="nothing but adapters to train"):
        changed_trainer(data, tmp_path, alone | {"methods": {"gnm": {"method": "gnm", "adapter": method["adapter"]}}})


def test_a_memory_model_trains_its_own_adapters_and_marks(data, tmp_path):
    run = changed_trainer(data, tmp_path, MEMORY_MODEL)
    assert list(run.parts) == ["default", "decoder_adapter", "memory_module"]
    before = copied(run.parts)
    run.fit()
    after = copied(run.parts)
    for part, tensors in before.items():
        assert any(not torch.equal(tensor, after[part][name]) for name, tensor in tensors.items()), part
    backbone = load_backbone("tiny-gnm", dtype="float32")
    about, loaded = load_model(tmp_path / "gnm", backbone)
    assert about["lora"]["r"] == 2
    learner = build_learner(LearnerSettings(method="gnm"), loaded)
    assert torch.equal(learner.lm.bos_embedding, run.module.learner.lm.bos_embedding)
    with torch.no_grad():
        ours, theirs = (TrainingLoss(one, "all")(run.validation[:1])[0][0] for one in (run.module.learner, learner))
    assert float(ours) == pytest.approx(float(theirs), rel=2e-3)  # adapters are rounded when they are saved


def test_a_saved_memory_model_without_adapters_gets_a_new_one(data, tmp_path):
    load(None, backbone="tiny-memoryllm", dtype="float32", device="cpu").save_pretrained(tmp_path / "model")
    backbone = {"backbone": MEMORY_MODEL["backbone"] | {"name": "tiny-memoryllm"}}
    methods = {"methods": {"gnm": {"method": "gnm", "adapter": str(tmp_path / "model")}}}
    run = changed_trainer(data, tmp_path / "out", backbone | methods)
    assert list(run.parts) == ["default", "memory_module"] and run.lora.r == 4
    assert run.step(0)["loss"] > 0 and run.about["start"]


def test_a_killed_training_of_a_memory_model_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    changed_trainer(data, tmp_path / "whole", MEMORY_MODEL).fit()
    run, honest = changed_trainer(data, tmp_path / "killed", MEMORY_MODEL), Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, step, *b: {}[step] if step == 5 else honest(self, step, *b))
    with pytest.raises(KeyError):
        run.fit()
    monkeypatch.setattr(Trainer, "step", honest)
    changed_trainer(data, tmp_path / "killed", MEMORY_MODEL).fit()
    for file in sorted((tmp_path / "whole" / "gnm").rglob("*.safetensors")):
        whole, resumed = load_file(file), load_file(tmp_path / "killed" / file.relative_to(tmp_path / "whole"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_ablation_of_a_memory_model_leaves_what_only_writes_alone(data, tmp_path):
    run = changed_trainer(data, tmp_path, MEMORY_MODEL, "gnm_ablation")
    before = copied(run.parts)
    run.fit()
    after = copied(run.parts)
    same = {part: {n: torch.equal(t, after[part][n]) for n, t in tensors.items()} for part, tensors in before.items()}
    assert all(same["default"].values()) and not all(same["decoder_adapter"].values())
    assert same["memory_module"] == {"bos_embedding": False, "new_memory_positional_emb": True}


# --- memory for gradients


@pytest.mark.parametrize("method", ["gnm", "in_context_ft"])
def test_checkpointed_gradients_are_the_same_and_keep_less(data, tmp_path, method):
    kept, gradients = [], []
    for on in (False, True):
        run = trainer(data, tmp_path, method, gradient_checkpointing=on, sequence_length=2, curriculum=None)
        seen = {}

        def keep(tensor, seen=seen):
            seen[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses, _ = run.module(training_batch(run.params, run.train, 0))
            kept.append(sum(seen.values()))
            losses[0].backward()
        gradients.append([p.grad for p in run.parameters])
    assert kept[1] < 0.6 * kept[0]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["memory model", "selector", "selector alone"])
def test_checkpointed_gradients_are_the_same_with_several_adapters(data, tmp_path, with_selector, kind):
    changes = MEMORY_MODEL
    if kind != "memory model":
        methods = {"gnm": {**GATED, "adapter": with_selector}}
        changes = {"methods": methods, "lora": None, "selection_only": kind == "selector alone"}
    gradients = []
    for on in (False, True):
        loop = {**train_settings(data, tmp_path)["loop"], "gradient_checkpointing": on}
        run = changed_trainer(data, tmp_path, {**changes, "loop": loop})
        with torch.no_grad():
            for parameter in run.parameters:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        losses, _ = run.module(training_batch(run.params, run.train, 0), not run.params.selection_only)
        losses.sum().backward()
        gradients.append([parameter.grad for parameter in run.parameters])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)
