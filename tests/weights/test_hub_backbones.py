"""Backbones of the hub: out of reach, behind a licence, in the cache, damaged."""

import hashlib
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import GatedRepoError

from gnm.errors import BackboneError
from gnm.weights import sources as weights
from gnm.weights.backbones import REGISTRY, load_backbone
from gnm.weights.sources import Hub
from gnm.weights.tiny import byte_tokenizer, random_decoder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hub_out_of_reach(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.hub_constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="HuggingFaceTB/SmolLM2-135M-Instruct at revision 12fd.* nor reachable"):
        load_backbone("smollm2-135m", source="hub")


def test_hub_needs_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.hub_constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "huge", {"hub": Hub("nobody/huge", "main", 10**18)})
    with pytest.raises(BackboneError, match="needs 1000000000.0 GB"):
        load_backbone("huge")


def test_hub_repository_behind_a_licence(monkeypatch):
    def gated(*_, **__):
        raise GatedRepoError("gated", response=Mock())

    monkeypatch.setattr(weights, "snapshot_download", gated)
    with pytest.raises(BackboneError, match="Meta-Llama-3-8B-Instruct asks for its licence to be accepted"):
        load_backbone("llama3-8b-instruct")


def test_hub_snapshot_in_the_cache_works_offline(monkeypatch, tmp_path):
    saved, _ = cached_repository(monkeypatch, tmp_path)
    loaded = load_backbone("cached", dtype="float32")
    ids = torch.randint(5, 261, (1, 10))
    torch.testing.assert_close(loaded.model(ids).logits, saved(ids).logits)
    assert loaded.origin == "nobody/tiny@" + "a" * 40


def test_checkpoint_without_all_parameters_is_refused(monkeypatch, tmp_path):
    _, snapshot = cached_repository(monkeypatch, tmp_path)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(BackboneError, match=r"9 of the decoder's parameters are not in .*model.layers.3"):
        load_backbone("cached")


def test_checkpoint_that_is_cut_short_is_refused(monkeypatch, tmp_path):
    _, snapshot = cached_repository(monkeypatch, tmp_path)
    file = snapshot / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BackboneError, match="'cached' cannot be loaded from"):
        load_backbone("cached")


def test_checkpoint_of_another_family_is_refused_before_its_weights_are_read(monkeypatch, tmp_path):
    _, snapshot = cached_repository(monkeypatch, tmp_path)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(config | {"model_type": "cohere"}))
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="backbone 'cached' is of the family 'cohere'.*one of these families: lla"):
        load_backbone("cached")


@pytest.mark.parametrize("more", [{}, {"num_tokens": 8}], ids=["decoder", "memory model"])
def test_a_checkpoints_own_code_never_runs(monkeypatch, tmp_path, more):
    _, snapshot = cached_repository(monkeypatch, tmp_path)
    config = json.loads((snapshot / "config.json").read_text()) | {"model_type": "homemade", **more}
    config["auto_map"] = {"AutoConfig": "homemade.Config", "AutoModelForCausalLM": "homemade.Model"}
    (snapshot / "config.json").write_text(json.dumps(config))
    told = json.loads((snapshot / "tokenizer_config.json").read_text())
    told |= {"tokenizer_class": "Tokens", "auto_map": {"AutoTokenizer": ["homemade.Tokens", None]}}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(told))
    (snapshot / "homemade.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(BackboneError, match="'cached'"):
        load_backbone("cached")
    assert not (tmp_path / "ran").exists()


def test_a_repository_needs_no_entry_in_the_registry(monkeypatch, tmp_path):
    model, snapshot = cached_repository(monkeypatch, tmp_path)
    backbone = load_backbone("nobody/tiny", dtype="float32")
    assert backbone.origin == f"nobody/tiny@{snapshot.name}"
    assert all(torch.equal(a, b) for a, b in zip(backbone.model.parameters(), model.parameters(), strict=True))


def cached_repository(monkeypatch, tmp_path):
    """A tiny model in the hub client's cache layout, registered as "cached"."""
    commit = "a" * 40
    repository = tmp_path / "models--nobody--tiny"
    snapshot = repository / "snapshots" / commit
    saved = random_decoder("mistral").eval()
    saved.save_pretrained(snapshot)
    byte_tokenizer().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(weights.hub_constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "cached", {"hub": Hub("nobody/tiny", "main", 10**6)})
    return saved, snapshot
