"""Memories for programs on a tiny backbone, and what tests say about them."""

import re
from pathlib import Path

import torch

from gnm.api import load
from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import LoraSettings, add_lora
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import save_pretrained

DOCUMENT, INSTRUCTION = "* The capital of Elbonia is Orvane", "Memorize all facts."
LINES = "The following hold:\n* Oman is hot\n* Fiat makes cars, and not a few of them\n"
NOTE = {"instruction": "a", "beginning": "b"}


def blocks(project: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (project / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def same(ours, theirs):
    return ours.written == theirs.written and all(
        torch.equal(tensor, theirs.tensors()[name]) for name, tensor in ours.tensors().items()
    )


def tiny(**settings):
    return load(None, backbone="tiny", **{"dtype": "float32", "device": "cpu", **settings})


def words_in(path):
    """The file as `grep -a` reads it."""
    return path.read_bytes().decode("utf-8", "replace")


def saved_with(folder, gates, **biases):
    """A saved memory model with gates; biases are of its gates by name."""
    settings = {"method": "gnm", "write": {"gates": gates}}
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=2, alpha=4), 0)
    lm = build_learner(LearnerSettings(**settings), backbone, training=True).lm
    with torch.no_grad():
        for gate in filter(None, (lm.gating.gate, lm.gating.about_gate)):
            gate.weight.copy_(torch.linspace(-9, 9, gate.weight.shape[0]))
        for name, bias in biases.items():
            getattr(lm.gating, name).bias.fill_(bias)
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest},
        "lora": {"r": 2, "alpha": 4},
        "learner": settings,
    }
    save_pretrained(folder, backbone, lm, about)
    return folder
