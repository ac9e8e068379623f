"""Checkpoints as they lie on disk: shards, one file, torch's own; whole, incomplete, and foreign."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from gnm.cli import main
from gnm.errors import CheckpointError
from gnm.models.decoder import Decoder
from gnm.weights.memoryllm import load_published, read_config
from gnm.weights.tensor_files import WeightFiles, convert


@pytest.fixture
def golden(golden_folder):
    return golden_folder


@pytest.fixture
def plain(golden):
    """The weights without a wrapper, by name."""
    return load_file(golden / "case3_lora" / "model.safetensors")


@pytest.fixture
def folder(golden, plain, tmp_path):
    """A copy that may be spoilt."""
    save_file(plain, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((golden / "case3_lora" / "config.json").read_text())
    return tmp_path


def logits(model, memory):
    lm, ids = memory.lm(Decoder(model)), torch.arange(5, 14)[None]
    with torch.no_grad():
        prefix = lm.prefix(lm.initial(torch.tensor([0])))
        return lm.decoder.logits(lm.decoder.read(prefix, ids[:, None], torch.ones(1, 1, 9, dtype=torch.bool))[0, 0])


def test_a_wrappers_shards_are_the_plain_weights(golden, plain):
    files = WeightFiles(golden / "wrapper" / "sharded")
    assert len(files.files) == 2 and files.shapes == {name: tensor.shape for name, tensor in plain.items()}
    found = dict(files)
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    assert torch.equal(files.tensor("memory"), plain["memory"])


def test_names_in_every_wrapper_are_found_without_it(golden, plain, tmp_path):
    names = json.loads((golden / "wrapper" / "state_dict_keys.json").read_text())
    assert {f"model.{name}" for name in plain} == {*names["MemoryLLMChatWrapper"]}
    fields = json.loads((golden / "case3_lora" / "config.json").read_text())
    llama = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in fields.items() if k in LlamaConfig().to_dict()}))
    for wrapper in ("ICLChatWrapper", "RAGChatWrapper"):
        (tmp_path / wrapper).mkdir()
        save_file({name: torch.zeros(1) for name in names[wrapper]}, tmp_path / wrapper / "model.safetensors")
        assert {*WeightFiles(tmp_path / wrapper).shapes} == {*llama.state_dict()}


def test_shards_one_file_and_torchs_own_load_into_the_same_model(golden, plain, folder):
    expected = logits(*load_published(folder, torch.float32))
    torch.save({f"model.{name}": tensor for name, tensor in plain.items()}, folder / "wrapped.pth")
    (folder / "model.safetensors").rename(folder.parent / "one.safetensors")
    assert torch.equal(logits(*load_published(folder, torch.float32)), expected)
    assert torch.equal(logits(*load_published(folder / "wrapped.pth", torch.float32)), expected)
    base = golden / "case3_lora"
    model, memory = load_published(golden / "wrapper" / "sharded", torch.float32, base=base)
    assert torch.equal(logits(model, memory), expected)


def test_the_pool_of_the_base_is_the_start(golden, plain, folder):
    """What training left in the checkpoint's own pool counts for nothing beside its base."""
    save_file({**plain, "memory": torch.zeros_like(plain["memory"])}, folder / "model.safetensors")
    assert not load_published(folder, torch.float32)[1].start.any()
    start = load_published(folder, torch.float32, base=golden / "case3_lora")[1].start
    assert torch.equal(start, plain["memory"])


def test_adapters_stay_float32(folder):
    model, memory = load_published(folder, torch.bfloat16)
    kinds = {".lora_" in name: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16} and memory.start.dtype == torch.bfloat16
    assert memory.bos_embedding.dtype == torch.float32


def test_conversion_to_one_file(golden, plain, tmp_path, capsys):
    target = tmp_path / "one.safetensors"
    main(["convert", str(golden / "wrapper" / "sharded"), str(target)])
    assert f"{len(plain)} tensors" in capsys.readouterr().out
    found = load_file(target)
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    with pytest.raises(CheckpointError, match="is a file of the checkpoint itself"):
        convert(target, target)


def change(folder, **changes):
    weights = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bos_embedding": None, "model__norm__weight": None}, "2 missing: bos_embedding, model.norm.weight"),
        ({"model__extra__weight": torch.zeros(2)}, "1 not known: model.extra.weight"),
        ({"memory": torch.zeros(3, 16, 32)}, r"1 of another shape: memory \(3, 16, 32\) instead of \(3, 32, 32\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, changes, said):
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=f"does not fit the model: {said}"):
        load_published(folder)


def test_old_rotary_buffers_are_no_surprise(folder):
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    load_published(folder)


def test_a_missing_or_damaged_file_is_named(golden, folder, tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        WeightFiles(tmp_path / "nowhere")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 2 of its 2 shards \(model-1.safetensors"):
        load_published(folder)
    for text in ("{", 100_000 * "["):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match="index.json is damaged"):
            load_published(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        load_published(folder)
    (folder / "model.safetensors").rename(folder / "model.pth")
    with pytest.raises(CheckpointError, match="no state dict that can be read safely"):
        load_published(folder)
    torch.save({"weights": [1, 2]}, folder / "model.pth")
    with pytest.raises(CheckpointError, match="something else than named tensors"):
        load_published(folder)


def test_several_files_without_an_index_are_ambiguous(tmp_path):
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="2 weight files and no index"):
        WeightFiles(tmp_path)
    assert dict(WeightFiles(tmp_path / "a.safetensors")).keys() == {"x"}


def test_a_config_that_is_missing_or_of_another_kind_is_refused(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for changes, said in (
        ({"model_type": "gpt2"}, "no Llama's"),
        ({"add_bos_embedding": False}, "without add_bos_embedding"),
        ({"num_blocks": "many"}, "is damaged"),
    ):
        path.write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=said):
            read_config(folder)
    path.write_text(100_000 * "[")
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        read_config(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_published(folder)


def test_linear_rope_scaling_is_read_from_the_published_config(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    before = logits(*load_published(folder, torch.float32))
    path.write_text(json.dumps(config | {"rope_scaling": {"type": "linear", "factor": 1.8125}}))
    model, memory = load_published(folder, torch.float32)
    frequencies = model.model.rotary_emb.inv_freq
    expected = 1 / 10000 ** (torch.arange(0, 8, 2) / 8) / 1.8125
    torch.testing.assert_close(frequencies, expected)
    assert not torch.allclose(logits(model, memory), before)


def test_one_shard_at_a_time_is_in_memory(golden, tmp_path):
    """Loading two float32 shards of 117 MB as bfloat16 takes the 117 MB that stay, and about one shard."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is read as Linux tells it")
    config = json.loads((golden / "case1_plain" / "config.json").read_text())
    plain = {key: config[key] for key in config if not key.startswith(("num_tokens", "num_blocks", "num_memory"))}
    plain |= {"vocab_size": 60_000, "hidden_size": 512, "num_hidden_layers": 0, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    index = {}
    for number, name in enumerate(("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")):
        size = (512,) if name.endswith("norm.weight") else (60_000, 512)
        save_file({name: torch.ones(size)}, tmp_path / f"model-{number}.safetensors")
        index[name] = f"model-{number}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    program = (
        "import re, sys, torch; from gnm.weights.memoryllm import load_published\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = peak(); held = load_published(sys.argv[1], torch.bfloat16); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    weights, shard = 2 * 60_000 * 512 * 2 / 2**20, 60_000 * 512 * 4 / 2**20
    assert weights * 0.8 < float(done.stdout) < weights + 1.5 * shard
