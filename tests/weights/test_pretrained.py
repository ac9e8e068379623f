"""Memory models saved and loaded as the ecosystem does it."""

import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from gnm.api import load
from gnm.conversation import Conversation
from gnm.errors import BackboneError, CheckpointError, ConfigError, GNMError, MemoryFileError
from gnm.models.lora import LoraSettings, add_lora, use_adapter
from gnm.weights import pretrained
from gnm.weights.adapters import save_adapter
from gnm.weights.backbones import REGISTRY, Random, load_backbone
from gnm.weights.memoryllm import MemoryShape
from gnm.weights.pretrained import STATE
from gnm.weights.trained import copied, trained_parameters
from hub import stand_in
from spoiling import flip_a_bit, without_checksums
from stock import plain_sdpa, stock_logits

MODULE = "memory_module.safetensors"
PHRASE, IDS = "The capital of Elbonia is", list(range(30, 42))
SETTINGS = LoraSettings(r=2, alpha=6, target_modules=("q_proj", "down_proj"))
OPTIONS = {"dtype": "float32", "device": "cpu"}


def randomise(parameters, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.2).bfloat16())


def adapter_folder(folder):
    backbone = load_backbone("tiny", dtype="float32")
    randomise(add_lora(backbone.model, SETTINGS, seed=0))
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest, "dtype": "float32"},
        "lora": SETTINGS.model_dump(mode="json"),
        "learner": {"method": "gnm"},
    }
    save_adapter(folder, copied(trained_parameters(backbone.model)), SETTINGS, about | {"made": {"seed": 1}})
    return folder


@pytest.fixture(params=["an adapter", "a memory model", "two adapters"])
def conversation(request, tmp_path, monkeypatch):
    """One document in the memory of each kind of model."""
    if request.param == "an adapter":
        memory = load(adapter_folder(tmp_path / "adapter"), **OPTIONS)
    else:
        two = request.param == "two adapters"
        shape = MemoryShape(32, 4, lora=SETTINGS if two else None, two_adapters=two)
        monkeypatch.setitem(REGISTRY, "memory", {"random": Random("llama", memory=shape)})
        memory = load(None, backbone="memory", **OPTIONS)
        lm = memory._learner.lm
        randomise([p for name, p in lm.named_parameters() if "lora_" in name], seed=2)
        randomise([lm.bos_embedding, lm.new_memory_positional_emb], seed=3)
        memory.write("Before the model changed.", "Learn.")
        memory = Conversation(memory._learner, memory._backbone, memory._about, "later")
    memory.write("The capital of Elbonia is Orvane.", "Memorize all facts.")
    return memory


def same(first, second):
    torch.testing.assert_close(first.state.slots, second.state.slots, atol=1e-4, rtol=1e-4)
    assert first.documents == second.documents and first.ask(PHRASE) == second.ask(PHRASE)


def test_what_is_loaded_is_what_was_saved(conversation, tmp_path, monkeypatch):
    if conversation._digest == "later":  # the weights were changed by hand, so what they are known by is not asked
        monkeypatch.setattr("gnm.api.model_digest", lambda backbone: "later")
    conversation.save_pretrained(tmp_path / "model")
    loaded = Conversation.from_pretrained(tmp_path / "model", **OPTIONS)
    same(conversation, loaded)
    text = "A later text."
    assert loaded.write(text, "Learn.") == conversation.write(text, "Learn.") == 1
    same(conversation, loaded)


def test_each_part_lies_in_its_own_file(conversation, tmp_path):
    conversation.save_pretrained(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"gnm.json", "README.md", STATE, "tokenizer.json", "generation_config.json"} <= names
    kind = conversation._learner.lm.write_settings.tap
    assert (MODULE in names) == (kind == "outputs")
    assert not any(name.startswith("model") for name in names)  # the frozen backbone is not written
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<|end|>"
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == 4
    assert json.loads((tmp_path / "model" / "gnm.json").read_text())["backbone"]["name"] in ("tiny", "memory")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@torch.no_grad()
def test_pefts_own_loading_gives_the_same_adapters(conversation, tmp_path):
    conversation.save_pretrained(tmp_path / "model")
    adapters = {"default": None, "decoder_adapter": "decoder_adapter"}
    for name, subfolder in adapters.items():
        if not (tmp_path / "model" / (subfolder or "") / "adapter_config.json").is_file():
            continue
        stock = load_backbone("tiny", dtype="float32").model
        theirs = PeftModel.from_pretrained(stock, str(tmp_path / "model"), subfolder=subfolder)
        ours = conversation._backbone.model
        with plain_sdpa(ours), use_adapter(ours, name):
            torch.testing.assert_close(stock_logits(theirs, IDS), stock_logits(ours, IDS), atol=1e-4, rtol=1e-4)


def test_a_memory_module_that_does_not_fit_is_refused(tmp_path):
    load(None, backbone="tiny-memoryllm", **OPTIONS).save_pretrained(tmp_path / "model")
    path = without_checksums(tmp_path / "model") / MODULE
    whole = load_file(path)
    save_file({**whole, "bos_embedding": whole["bos_embedding"][:2].clone()}, path)
    with pytest.raises(CheckpointError, match=r"bos_embedding is of shape \(2, 1, 48\), not \(3, 1, 48\)"):
        load(tmp_path / "model", **OPTIONS)
    with pytest.raises(CheckpointError, match="belongs to a memory model; tiny is a plain decoder"):
        load(tmp_path / "model", backbone="tiny", **OPTIONS)
    path.write_bytes(b"?")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load(tmp_path / "model", **OPTIONS)


def test_one_flipped_bit_of_the_weights_is_told(conversation, tmp_path):
    conversation.save_pretrained(tmp_path / "model")
    for path in sorted((tmp_path / "model").rglob("*.safetensors")):
        whole = path.read_bytes()
        flip_a_bit(path)
        with pytest.raises(GNMError, match=f"{path.name} is damaged .*checksum is another.*restore"):
            load(tmp_path / "model", **OPTIONS)
        path.write_bytes(whole)


def test_a_repository_of_the_hub_is_loaded_by_its_name(tmp_path, monkeypatch):
    memory = load(adapter_folder(tmp_path / "adapter"), **OPTIONS)
    memory.write("The capital of Elbonia is Orvane.", "Learn.")
    memory.save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    with stand_in({("model", "somebody/memory"): files}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        same(memory, load("somebody/memory", **OPTIONS))
        with pytest.raises(BackboneError, match="nobody/memory .* nor reachable"):
            load("nobody/memory", **OPTIONS)


def test_what_is_pushed_is_what_is_saved(tmp_path, monkeypatch):
    memory, calls = load(None, backbone="tiny", **OPTIONS), []

    class Api:
        def create_repo(self, repo, **options):
            calls.append((repo, options))

        def repo_info(self, repo):
            return SimpleNamespace(private=repo != "somebody/public")

        def upload_folder(self, repo_id, folder_path, **_):
            calls.append((repo_id, {path.name for path in folder_path.iterdir()}))
            return "https://hub/commit"

    monkeypatch.setattr(pretrained, "HfApi", Api)
    assert memory.push_to_hub("somebody/memory") == "https://hub/commit"
    assert calls[0] == ("somebody/memory", {"private": True, "exist_ok": True})
    assert calls[1][0] == "somebody/memory" and {"gnm.json", STATE, "README.md"} <= calls[1][1]
    with pytest.raises(BackboneError, match="nothing was pushed: everybody can read somebody/public.*private=False"):
        memory.push_to_hub("somebody/public")
    assert len(calls) == 3  # nothing was uploaded
    assert memory.push_to_hub("somebody/public", private=False) == "https://hub/commit"


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    memory = load(None, backbone="tiny", **OPTIONS)
    (tmp_path / "results").mkdir()
    memory.save_pretrained(tmp_path / "results")
    memory.save_pretrained(tmp_path / "results")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="other holds something else than a memory model"):
        memory.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "precious"
    for name in (None, "", 3):
        with pytest.raises(CheckpointError, match="is no folder to save a model to; give its name"):
            memory.save_pretrained(name)


def test_what_is_no_part_of_a_model_is_not_deleted(conversation, tmp_path):
    conversation.save_pretrained(tmp_path / "m")
    for name in ("mine.mem", "sub"):
        (tmp_path / "m" / name).mkdir()
        with pytest.raises(CheckpointError, match=f"m holds {name}, which is no part of a memory model and would be"):
            conversation.save_pretrained(tmp_path / "m")
        (tmp_path / "m" / name).rmdir()
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "m" / f".{STATE}.lock").touch()  # as `gnm write` on the folder's memory leaves it
    conversation.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and not list(tmp_path.glob(".*"))


def test_a_model_whose_memory_was_changed_meanwhile_is_not_written_over(tmp_path):
    load(None, backbone="tiny", **OPTIONS).save_pretrained(tmp_path / "m")
    one, other = (load(tmp_path / "m", **OPTIONS) for _ in range(2))
    for each in (one, other):
        each.write("Bern is in Asia.", "All.")
    one.save_pretrained(tmp_path / "m")
    with pytest.raises(MemoryFileError, match="was changed since this conversation loaded or saved it"):
        other.save_pretrained(tmp_path / "m")
    one.write("Oslo is in Africa.", "All.")
    one.save_pretrained(tmp_path / "m")
    assert len(load(tmp_path / "m", **OPTIONS).documents) == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    memory = load(None, backbone="tiny", **OPTIONS)
    (tmp_path / "file").write_text("precious")
    for name, message in (
        ("file/model", "file: a file of this name is in the way"),
        ("file/a/model", "a: a part of its path is a file"),
        ("m" * 300, "the name is too long"),
    ):
        with pytest.raises(CheckpointError, match=f"the model is not saved: cannot use .*{message}.*; choose a"):
            memory.save_pretrained(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_take_it_is_one_sentence(monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    memory = load(None, backbone="tiny", **OPTIONS)
    with pytest.raises(BackboneError, match="the hub did not take somebody/memory"):
        memory.push_to_hub("somebody/memory")
    with pytest.raises(BackboneError, match="None is no repository of the hub"):
        memory.push_to_hub(None)


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"eviction": "newest"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load(None, backbone="tiny", **OPTIONS, **wrong)


def test_the_card_says_what_the_folder_holds(tmp_path):
    load(None, backbone="tiny-memoryllm", **OPTIONS).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "A memory model of Generalized Neural Memory" in card and "It was made by" not in card
    assert "library_name" not in card and "base_model: tiny-memoryllm" in card


@pytest.mark.parametrize("use", ["load", "save"])
def test_a_model_that_a_kill_left_moved_aside_is_brought_back(tmp_path, monkeypatch, use):
    memory = load(None, backbone="tiny", **OPTIONS)
    memory.write("The capital of Elbonia is Orvane.", "Learn.")
    monkeypatch.chdir(tmp_path)  # "here/model" could be the name of a repository, too
    memory.save_pretrained("here/model")
    (tmp_path / "here" / "model").rename(tmp_path / "here" / ".model.abcd1234.old")
    (tmp_path / "here" / ".model.efgh5678.part").mkdir()
    if use == "save":
        memory.save_pretrained("here/model")
        assert [path.name for path in (tmp_path / "here").iterdir()] == ["model"]
    same(memory, load("here/model", **OPTIONS))
