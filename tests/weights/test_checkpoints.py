"""Checkpoints of a training that goes on."""

import errno
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gnm.errors import CheckpointError, exit_on_error
from gnm.models.lora import DEFAULT
from gnm.weights.adapters import load_checkpoint, save_adapter, save_checkpoint
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import trained_parameters
from saved_adapters import FIRST, IDS, SETTINGS, about, trained, weights
from spoiling import flip_a_bit
from stock import stock_logits


def optimised(backbone, steps, parameters=None, optimizer=None):
    """A few optimizer steps on fixed tokens."""
    parameters = parameters or trained(backbone)
    optimizer = optimizer or torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        stock_logits(backbone.model, IDS).square().mean().backward()
        optimizer.step()
    return parameters, optimizer


def save(folder, backbone, optimizer, changes=None):
    held = {"optimizer": optimizer.state_dict(), "best": weights(backbone)}
    settings = about(backbone) | (changes or {})
    save_checkpoint(folder, weights(backbone), SETTINGS, settings, held, {"step": 3, "best": 0.25})


@pytest.fixture
def interrupted(tiny, tmp_path):
    """A checkpoint after three steps, and the weights that three more steps would give."""
    _, optimizer = optimised(tiny, 3)
    save(tmp_path / "c", tiny, optimizer)
    parameters, _ = optimised(tiny, 3, [p for n, p in tiny.model.named_parameters() if ".lora_" in n], optimizer)
    return tmp_path / "c", [p.detach().clone() for p in parameters]


def test_training_goes_on_to_the_same_bits(interrupted):
    folder, expected = interrupted
    fresh = load_backbone("tiny", dtype="float32")
    parameters = trained(fresh, seed=9)
    stock_logits(fresh.model, IDS)
    held, progress = load_checkpoint(folder, trained_parameters(fresh.model), about(fresh))
    assert progress == {"step": 3, "best": 0.25}
    assert all(torch.equal(held["best"][DEFAULT][n], t) for n, t in weights(fresh)[DEFAULT].items())
    optimizer = torch.optim.AdamW(parameters, lr=0.5)
    optimizer.load_state_dict(held["optimizer"])
    optimised(fresh, 3, parameters, optimizer)
    assert all(torch.equal(p, e) for p, e in zip(parameters, expected, strict=True))


def test_without_a_checkpoint_training_starts_anew(tiny, tmp_path):
    assert load_checkpoint(tmp_path / "none", trained_parameters(tiny.model), about(tiny)) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"seed": 2, "loop": {"steps": 5}}}, r"\(training\)"),
        ({"lora": {"r": 4}, "learner": {"method": "in_context_ft"}}, r"\(learner, lora\)"),
        ({"new": 1}, r"\(new\)"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(interrupted, tiny, changes, named):
    folder, _ = interrupted
    before = weights(tiny)[DEFAULT]
    with pytest.raises(CheckpointError, match=f"made with other settings {named}.*delete it to start anew"):
        load_checkpoint(folder, trained_parameters(tiny.model), about(tiny) | changes)
    assert all(torch.equal(value, before[name]) for name, value in weights(tiny)[DEFAULT].items())


def test_settings_of_tuples_and_paths_are_the_settings_they_were_saved_as(interrupted, tiny):
    """JSON makes lists of tuples; that is no other setting."""
    folder, _ = interrupted
    settings = about(tiny) | {"lora": SETTINGS.model_dump()}
    assert load_checkpoint(folder, trained_parameters(tiny.model), settings)[1]["step"] == 3


@pytest.mark.parametrize("file", ["optimizer.pt", "progress.json", "adapter_model.safetensors", "gnm.json"])
@pytest.mark.parametrize("how", ["absent", "empty", "cut", "foreign"])
def test_a_damaged_checkpoint_is_refused(interrupted, tiny, file, how):
    folder, _ = interrupted
    path = folder / file
    raw = path.read_bytes()
    path.unlink()
    if how != "absent":
        path.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "foreign": b"not what it was"}[how])
    with pytest.raises(CheckpointError, match=r"\bc\b"):
        load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))


@pytest.mark.parametrize("place", [-40, 8, 60])
@pytest.mark.parametrize(
    "file", ["optimizer.pt", "progress.json", "adapter_model.safetensors", "gnm.json", "checksums.json"]
)
def test_a_checkpoint_with_one_flipped_bit_is_refused(interrupted, tiny, file, place):
    folder, _ = interrupted
    flip_a_bit(folder / file, min(place, len((folder / file).read_bytes()) // 2 - 1))
    before = weights(tiny)[DEFAULT]
    with pytest.raises(CheckpointError, match=r"\bc\b"):
        load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))
    assert all(torch.equal(value, before[name]) for name, value in weights(tiny)[DEFAULT].items())


@pytest.mark.parametrize("text", [100_000 * "[", json.dumps({"{" * 9000: ""}), json.dumps({"é/" * 200: ""}), "[]"])
def test_checksums_of_foreign_shape_are_refused(interrupted, tiny, text):
    folder, _ = interrupted
    (folder / "checksums.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"\bc\b"):
        load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))


def test_a_checkpoint_without_checksums_is_gone_on_from(interrupted, tiny):
    folder, _ = interrupted
    (folder / "checksums.json").unlink()
    assert load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))[1]["step"] == 3


class FullDisk(io.BytesIO):
    """A file on a disk that has room for 100 bytes."""

    def write(self, data):
        if self.tell() + len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_checkpoint_on_a_full_disk_names_the_disk_and_leaves_the_last_one(interrupted, tiny, monkeypatch):
    """The error is the disk's own; what torch says of it names no disk."""
    folder, _ = interrupted
    _, optimizer = optimised(tiny, 0, [p for n, p in tiny.model.named_parameters() if ".lora_" in n])
    opened = Path.open
    with monkeypatch.context() as full, pytest.raises(SystemExit, match="the disk is full; make room"):
        full.setattr(
            Path, "open", lambda path, *how, **more: FullDisk() if path.suffix == ".pt" else opened(path, *how, **more)
        )
        with exit_on_error():
            save(folder, tiny, optimizer)
    assert load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))[1]["step"] == 3
    assert [p.name for p in folder.parent.iterdir()] == ["c"]


def test_a_kill_while_saving_leaves_the_last_checkpoint(interrupted, tiny, monkeypatch):
    folder, _ = interrupted
    _, optimizer = optimised(tiny, 0, [p for n, p in tiny.model.named_parameters() if ".lora_" in n])
    monkeypatch.setattr("gnm.weights.adapters.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save(folder, tiny, optimizer)
    monkeypatch.undo()
    assert load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))[1]["step"] == 3
    assert [p.name for p in folder.parent.iterdir()] == ["c"]


def test_a_kill_between_two_checkpoints_leaves_the_last_one(interrupted, tiny):
    folder, _ = interrupted
    folder.rename(folder.parent / ".c.x1y2z3w4.old")
    assert load_checkpoint(folder, trained_parameters(tiny.model), about(tiny))[1]["step"] == 3
    assert [p.name for p in folder.parent.iterdir()] == ["c"]


def test_the_adapters_tensors_are_float32_under_pefts_names(tmp_path):
    backbone = load_backbone("tiny", dtype="bfloat16")
    trained(backbone)
    state = weights(backbone)[DEFAULT]
    assert FIRST in state and len(state) == 2 * 2 * 3
    assert {t.dtype for t in state.values()} == {torch.float32}
    save_adapter(tmp_path / "a", weights(backbone), SETTINGS, about(backbone))
    assert load_file(tmp_path / "a" / "adapter_model.safetensors").keys() == state.keys()
