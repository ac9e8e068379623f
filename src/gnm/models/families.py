"""Which decoders are run as the stock model runs them.

- `FAMILIES` is the whole list, by `config.model_type`; a test compares each with the stock forward pass.
- Many families look like Llama and are not: they scale hidden states or scores, clip or norm differently. Their logits
  would be wrong without a word, so they are refused by name.
- Settings of a config that a listed family has no code for are refused too, where they would change the result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gnm.errors import BackboneError

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "gemma",
    "starcoder2",
    "ministral",
    "arcee",
    "seed_oss",
    "bitnet",
    "granite",
    "smollm3",
    "olmo2",
    "phi3",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "ernie4_5",
    "helium",
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "clip_qkv": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "partial_rotary_factor": (1,),
    "no_rope_layers": (),
    "num_kv_shared_layers": (0,),
    "use_bidirectional_attention": (),
}
"""Settings that change a decoder's result, and the values beside None and False with which they do not."""
_OWN = {
    "granite": ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"),
    "smollm3": ("no_rope_layers",),
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
    "gemma3_text": ("final_logit_softcapping",),
    "glm": ("partial_rotary_factor",),
    "glm4": ("partial_rotary_factor",),
    "phi3": ("partial_rotary_factor",),
}
"""Of these, what a family's layers, or `decoder.py`, have code for."""
_WINDOWED = ("mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2")
"""Families in which all layers have the window `sliding_window`, if it is set."""
_OF_KINDS = ("gemma2", "gemma3_text", "ministral", "qwen2", "qwen3", "smollm3")
"""Families in which each layer attends to everything or over the window, as its `layer_types` say."""
_ROTARY = ("default", "linear", "llama3", "yarn", "dynamic")
"""Kinds of rotary positions whose frequencies are the same for every text that fits the window."""


def attention_windows(config: Any) -> dict[str | None, int | None]:
    """How many positions, its own included, a token attends over in layers of each kind (`layer_kinds`); None: all."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in _OF_KINDS:
        return {"full_attention": None, "sliding_attention": window}
    return {None: window if config.model_type in _WINDOWED else None}


def layer_kinds(config: Any) -> Sequence[str | None]:
    """The kind of attention of each layer; None in a family where all layers are of one kind."""
    return config.layer_types if config.model_type in _OF_KINDS else (None,) * config.num_hidden_layers


def rotary_settings(config: Any) -> Mapping[str | None, Mapping[str, Any]]:
    """The settings of rotary positions of layers of each kind, or of the kind None, if all layers have the same."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope if "full_attention" in rope else {None: rope}


def check_family(config: Any, name: str | None = None) -> None:
    """Check that a decoder of `config` is run as the stock model runs it; name: what the user calls the model.

    Raises BackboneError that names the family or the setting, what is supported, and what to do.
    """
    family = getattr(config, "model_type", None)
    which = f"backbone {name!r}" if name else "this backbone"
    if family not in FAMILIES:
        raise BackboneError(
            f"{which} is of the family {family!r}, which is not run as its own code runs it; use a decoder of the "
            f"Llama shape, one of these families: {', '.join(FAMILIES)}"
        )
    ropes = rotary_settings(config).values()
    found = {key: getattr(config, key, None) for key in _NEUTRAL}
    for rope in ropes:
        found["partial_rotary_factor"] = rope.get("partial_rotary_factor", found["partial_rotary_factor"])
    for key, value in found.items():
        if key in _OWN.get(family, ()):
            continue
        if value is not None and value is not False and value not in _NEUTRAL[key]:
            raise BackboneError(
                f"{which} sets {key}: {value} in its config, which is not supported and would change its answers; "
                f"use a {family} without it"
            )
    for kind in (rope.get("rope_type", "default") for rope in ropes):
        if kind not in _ROTARY:
            raise BackboneError(
                f"{which} has rotary positions of the kind {kind!r}, which is not supported; use one of: "
                f"{', '.join(_ROTARY)}"
            )
    for kind in sorted(set(layer_kinds(config)) - attention_windows(config).keys(), key=str):
        raise BackboneError(
            f"{which} has layers with {kind!r}, which is not supported; use a {family} with full_attention and "
            "sliding_attention alone"
        )
