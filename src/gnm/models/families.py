"""Which decoders are run as the stock model runs them.

- `FAMILIES` is the whole list, by `config.model_type`; a test compares each with the stock forward pass.
- Many families look like Llama and are not: they scale hidden states or scores, clip or norm differently. Their logits
  would be wrong without a word, so they are refused by name.
- Settings of a config that a listed family has no code for are refused too, where they would change the result.
"""

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
}
"""Settings that change a decoder's result, and the values beside None and False with which they do not."""
_OWN = {
    "granite": ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"),
    "smollm3": ("no_rope_layers",),
}
"""Of these, what a family's layers, or `decoder.py`, have code for."""
_ROTARY = ("default", "linear", "llama3", "yarn", "dynamic")
"""Kinds of rotary positions whose frequencies are the same for every text that fits the window."""


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
    rope = getattr(config, "rope_parameters", None) or {}
    found = {key: getattr(config, key, None) for key in _NEUTRAL}
    found["partial_rotary_factor"] = rope.get("partial_rotary_factor", found["partial_rotary_factor"])
    for key, value in found.items():
        if key in _OWN.get(family, ()):
            continue
        if value is not None and value is not False and value not in _NEUTRAL[key]:
            raise BackboneError(
                f"{which} sets {key}: {value} in its config, which is not supported and would change its answers; "
                f"use a {family} without it"
            )
    if (kind := rope.get("rope_type", "default")) not in _ROTARY:
        raise BackboneError(
            f"{which} has rotary positions of the kind {kind!r}, which is not supported; use one of: "
            f"{', '.join(_ROTARY)}"
        )
