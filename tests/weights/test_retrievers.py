"""A retriever is used with the model that it was trained on alone, and says which that is."""

import re
from dataclasses import replace

import pytest
import torch

from gnm.api import load
from gnm.errors import ConfigError
from gnm.models.lora import DEFAULT, LoraSettings, add_lora, add_selector
from gnm.models.retriever import Retriever
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from gnm.weights.retrievers import digest_below, inputs_digest, load_retriever
from gnm.weights.trained import read_weights, trained_parameters

COMMAND = "run there python -m gnm.training.retriever --block retriever"


def saved(folder, backbone, layer=1, size=48):
    """The folder of a retriever with random weights for the inputs that `backbone` gives."""
    own = Retriever.new((size, 10, 6), layer, True, 0)
    replace(own, model=inputs_digest(backbone, layer), adapter="models/first").save(folder, {})
    return folder


@torch.no_grad()
def changed(backbone, part, layer):
    """`backbone` with other weights of its adapter `part` in one layer."""
    for name, value in trained_parameters(backbone.model)[part].items():
        if f"layers.{layer}." in name:
            value.add_(0.5)
    return backbone


def adapted():
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=2, alpha=4), 0)
    return backbone


def test_the_digest_tells_what_enters_a_layer_and_nothing_above(tiny):
    plain, own = inputs_digest(tiny, 1), inputs_digest(adapted(), 1)
    assert plain == tiny.config_digest and own.startswith(f"{plain}-") and own == inputs_digest(adapted(), 1)
    assert inputs_digest(adapted(), 0) == plain  # the embeddings, which no adapter changes
    assert inputs_digest(changed(adapted(), DEFAULT, 0), 1) != own
    assert inputs_digest(changed(adapted(), DEFAULT, 1), 1) == own
    assert inputs_digest(changed(adapted(), DEFAULT, 1), 2) != inputs_digest(adapted(), 2)
    selecting = adapted()
    add_selector(selecting.model, LoraSettings(r=2, alpha=4), 2)
    assert inputs_digest(changed(selecting, "selector", 0), 1) == own


def test_another_model_is_refused_with_both_adapters_and_the_command(tmp_path):
    folder = saved(tmp_path / "r", adapted())
    assert load_retriever(folder, changed(adapted(), DEFAULT, 1), "models/second").layer == 1
    other = changed(adapted(), DEFAULT, 0)
    both = [inputs_digest(each, 1) for each in (adapted(), other)]
    told = f"trained for the adapter models/first ({both[0]}), and models/second ({both[1]}) is loaded"
    with pytest.raises(ConfigError, match=f"{re.escape(told)}.*{COMMAND}"):
        load_retriever(folder, other, "models/second")


def test_a_conversation_is_refused_before_it_begins(open_gates, tmp_path):
    _, own = load_model(open_gates, load_backbone("tiny", dtype="float32"))
    settings = {"dtype": "float32", "device": "cpu", "capacity": 70}
    store = {"by": "trained", "layer": 1}
    load(open_gates, **settings, store={**store, "retriever": saved(tmp_path / "own", own)})
    folder = saved(tmp_path / "other", changed(own, DEFAULT, 0))
    with pytest.raises(ConfigError, match=rf"trained for the adapter models/first .*, and {open_gates} \(.*{COMMAND}"):
        load(open_gates, **settings, store={**store, "retriever": folder})


def test_the_shipped_retriever_is_for_the_shipped_adapter(project):
    adapter = project / "models/smollm2-135m/gnm"
    retriever = Retriever.load(project / "models/smollm2-135m/retriever")
    backbone = read_about(adapter)["backbone"]["digest"]
    assert retriever.model == digest_below(backbone, read_weights(adapter, DEFAULT), retriever.layer)
