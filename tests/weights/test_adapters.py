"""Saved adapters: what is read is what was saved, and damage is refused."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from gnm.errors import CheckpointError
from gnm.models.decoder import Decoder
from gnm.models.lora import LoraSettings
from gnm.weights.adapters import load_adapter, read_about, save_adapter
from gnm.weights.backbones import load_backbone
from saved_adapters import FIRST, IDS, SETTINGS, about, trained, weights
from spoiling import flip_a_bit, without_checksums
from stock import another, plain_sdpa, stock_logits


def saved_adapter(folder, name="tiny", settings=SETTINGS):
    """An adapter folder, and the logits of the model whose adapter it is."""
    backbone = load_backbone(name, dtype="float32")
    trained(backbone, settings)
    save_adapter(folder, weights(backbone), settings, about(backbone, settings) | {"made": {"seed": 1, "command": "x"}})
    with torch.no_grad():
        return stock_logits(backbone.model, IDS)


@torch.no_grad()
def test_a_loaded_adapter_is_the_saved_one_to_the_bit(tiny_family, tmp_path):
    expected = saved_adapter(tmp_path / "a", tiny_family.name)
    made = load_adapter(tmp_path / "a", tiny_family)
    assert torch.equal(stock_logits(tiny_family.model, IDS), expected)
    assert made["learner"]["method"] == "gnm" and made["made"] == {"seed": 1, "command": "x"}
    assert not any(p.requires_grad for p in tiny_family.model.parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@torch.no_grad()
def test_pefts_own_loading_gives_the_same_model(tiny_family, tmp_path):
    expected, stock = saved_adapter(tmp_path / "a", tiny_family.name), another(tiny_family)
    before = stock_logits(stock, IDS)
    theirs = PeftModel.from_pretrained(stock, str(tmp_path / "a"))
    torch.testing.assert_close(stock_logits(theirs, IDS), expected, atol=1e-5, rtol=1e-5)
    assert (before - expected).abs().max() > 0.1
    load_adapter(tmp_path / "a", tiny_family)
    Decoder(tiny_family.model)
    with plain_sdpa(tiny_family.model) as ours:
        torch.testing.assert_close(stock_logits(ours, IDS), expected, atol=1e-5, rtol=1e-5)


def test_a_folder_holds_adapter_config_settings_and_card(tmp_path):
    saved_adapter(tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "gnm.json", "README.md",
    }  # fmt: skip
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny\n") and "# gnm on tiny" in card
    assert "| seed | 1 |" in card and '"alpha": 6' in card
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"] == ["down_proj", "q_proj"]


def test_saving_again_replaces_the_folder(tmp_path):
    saved_adapter(tmp_path / "a")
    (tmp_path / "a" / "stray").touch()
    saved_adapter(tmp_path / "a", settings=LoraSettings(r=1, alpha=1))
    assert read_about(tmp_path / "a")["lora"]["r"] == 1 and not (tmp_path / "a" / "stray").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failed_save_leaves_the_old_adapter(tiny, tmp_path, monkeypatch):
    expected = saved_adapter(tmp_path / "a")
    trained(tiny, seed=7)
    monkeypatch.setattr("gnm.weights.adapters.write_text", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_adapter(tmp_path / "a", weights(tiny), SETTINGS, about(tiny))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    fresh = load_backbone("tiny", dtype="float32")
    load_adapter(tmp_path / "a", fresh)
    assert torch.equal(stock_logits(fresh.model, IDS), expected)


def test_an_adapter_that_a_kill_left_moved_aside_is_brought_back(tiny, tmp_path):
    saved_adapter(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / ".a.abcd1234.old")
    assert load_adapter(tmp_path / "a", tiny)["lora"]["alpha"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_adapter_of_another_backbone_is_refused(tmp_path):
    saved_adapter(tmp_path / "a")
    other = load_backbone("tiny-qwen2", dtype="float32")
    with pytest.raises(CheckpointError, match="was trained on tiny .* not on tiny-qwen2"):
        load_adapter(tmp_path / "a", other)
    assert not any(".lora_" in name for name, _ in other.model.named_parameters())


def change_weights(change):
    """Other tensors in a folder that has no checksums, as those of earlier versions."""

    def spoil(folder):
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        without_checksums(folder)

    return spoil


def rewrite_about(change):
    """Another gnm.json with a right checksum, as only a program can make it."""

    def spoil(folder):
        made = json.loads((folder / "gnm.json").read_text())
        del made["checksums"]["gnm.json"]
        (folder / "gnm.json").write_text(json.dumps(change(made)))

    return spoil


SPOILT = {
    "no gnm.json": (lambda f: (f / "gnm.json").unlink(), "no gnm.json in it"),
    "gnm.json cut off": (lambda f: (f / "gnm.json").write_text('{"backbone": '), "gnm.json is damaged"),
    "gnm.json in bytes": (lambda f: (f / "gnm.json").write_bytes(b"\xff\xfe\x00"), "gnm.json is damaged"),
    "gnm.json of a list": (rewrite_about(lambda made: [made]), "gnm.json is damaged"),
    "gnm.json without backbone": (rewrite_about(lambda made: {"lora": made["lora"]}), "gnm.json is damaged.*backbone"),
    "gnm.json without lora": (rewrite_about(lambda made: {"backbone": made["backbone"]}), "gnm.json is damaged.*lora"),
    "gnm.json without the backbone's digest": (
        rewrite_about(lambda m: m | {"backbone": {"name": "tiny"}}), "gnm.json is damaged.*digest"
    ),
    "gnm.json of a later version": (rewrite_about(lambda m: m | {"version": 2}), "version 2, this program reads"),
    "gnm.json with another lora": (rewrite_about(lambda m: m | {"lora": {"rank": 2}}), "gnm.json is damaged.*rank"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    "weights cut off": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-9]),
        "adapter_model.safetensors is damaged .its checksum is another.*train it anew",
    ),
    "one bit flipped": (
        lambda f: flip_a_bit(f / "adapter_model.safetensors", 8),
        "adapter_model.safetensors is damaged .its checksum is another.*restore the folder from a copy",
    ),
    "checksums that are none": (rewrite_about(lambda m: m | {"checksums": 3}), "gnm.json is damaged.*no mapping"),
    "gnm.json with an unknown block": (rewrite_about(lambda m: m | {"lorb": None}), "unknown block 'lorb'"),
    "gnm.json without end": (lambda f: (f / "gnm.json").write_text(100_000 * "["), "gnm.json is damaged"),
    "NaN": (change_weights(lambda t: t[FIRST].fill_(float("nan"))), f"NaN or infinity in {FIRST}; restore"),
    "numbers of 8 bits": (
        change_weights(lambda t: t.update({FIRST: t[FIRST].to(torch.float8_e4m3fn)})),
        f"holds {FIRST} in float8_e4m3fn; weights are in one of bfloat16, float16",
    ),
    "infinity": (change_weights(lambda t: t[FIRST][0, 0].fill_(float("inf"))), f"NaN or infinity in {FIRST}"),
    "a tensor short": (change_weights(lambda t: t.pop(FIRST)), f"does not fit.* 1 tensors.*{FIRST}"),
    "a tensor too many": (change_weights(lambda t: t.update(extra=torch.zeros(1))), "does not fit.* 1 tensors.*extra"),
    "a tensor misshapen": (
        change_weights(lambda t: t.update({FIRST: torch.zeros(2, 5)})), f"does not fit.* 1 tensors.*{FIRST}"
    ),
    "a rank that is not the settings'": (rewrite_about(lambda m: m | {"lora": m["lora"] | {"r": 3}}), "12 tensors"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_adapter_is_refused_by_what_is_wrong(tiny, tmp_path, how):
    saved_adapter(tmp_path / "a")
    spoil, message = SPOILT[how]
    spoil(tmp_path / "a")
    with pytest.raises(CheckpointError, match=message):
        load_adapter(tmp_path / "a", tiny)


@torch.no_grad()
def test_an_adapter_without_checksums_is_loaded(tiny, tmp_path):
    expected = saved_adapter(tmp_path / "a")
    assert read_about(tmp_path / "a")["checksums"].keys() == {"adapter_model.safetensors", "gnm.json"}
    without_checksums(tmp_path / "a")
    assert "checksums" not in load_adapter(tmp_path / "a", tiny)
    assert torch.equal(stock_logits(tiny.model, IDS), expected)


def test_every_flipped_bit_of_the_settings_is_told(tmp_path):
    """What is read after a flip is what was saved (a blank that became another one), or it is refused."""
    saved_adapter(tmp_path / "a")
    path = tmp_path / "a" / "gnm.json"
    whole, right = path.read_bytes(), read_about(tmp_path / "a")
    names = {*right["checksums"]}
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read = read_about(tmp_path / "a")
        except CheckpointError:
            continue
        # a name among the checksums that is no file is told when the files are compared
        assert read == right or {*read["checksums"]} != names, bytes(damaged[place // 8 - 20 : place // 8 + 20])


def test_settings_that_were_changed_by_hand_are_told_and_how_to_use_them(tiny, tmp_path):
    saved_adapter(tmp_path / "a")
    path = tmp_path / "a" / "gnm.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(made.items()))))  # another layout of the same
    assert load_adapter(tmp_path / "a", tiny)["lora"]["alpha"] == 6
    made["lora"]["alpha"] = 7
    path.write_text(json.dumps(made))
    with pytest.raises(CheckpointError, match="checksum is another.* take 'gnm.json' out of its block 'checksums'"):
        load_adapter(tmp_path / "a", load_backbone("tiny", dtype="float32"))
    del made["checksums"]["gnm.json"]
    path.write_text(json.dumps(made))
    assert load_adapter(tmp_path / "a", load_backbone("tiny", dtype="float32"))["lora"]["alpha"] == 7


@pytest.mark.parametrize("where", ["absent", "file"])
def test_what_is_no_adapter_folder_is_refused(tiny, tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"{where} is no adapter of this project"):
        load_adapter(tmp_path / where, tiny)
