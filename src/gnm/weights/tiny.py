"""Random decoders and a tokenizer of bytes: every path of the project runs on them in seconds, with no download.

- Every parameter is drawn, norms and biases too, at a scale where logits depend strongly on the context: an
  equality that holds on these models does not hold because a term was zero.
- Drawing leaves torch's global random state as it was.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from gnm.models.lora import inject_lora
from gnm.weights.memoryllm import MemoryShape, MemoryWeights, memory_sizes

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each UTF-8 byte (ids 5 to 260) and the five special tokens (ids 0 to 4), with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def random_memory(model: PreTrainedModel, shape: MemoryShape, seed: int = 0) -> MemoryWeights:
    """Make `model` a memory model of the published form: gives it random adapters; returns a random pool and marks."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in shape.adapters:
        inject_lora(model, shape.lora, adapter, fused=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator).bfloat16())
    sizes = memory_sizes(model.config, shape)
    drawn = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return MemoryWeights(shape, drawn["bos_embedding"], 0.3 * drawn["new_memory_positional_emb"], drawn["memory"])


# settings by which a family differs from Llama, at values where each of them counts
_OF_FAMILY = {
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.5,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "gemma2": {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {
        "query_pre_attn_scalar": 20,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
    "phi3": {"partial_rotary_factor": 0.5},
}
_SLIDING = ("gemma2", "gemma3_text", "ministral")  # these have to have a window


def _windowed(family: str, window: int | None) -> dict[str, Any]:
    """Settings of a decoder with a window: in the second layer too, if all layers of the family are of one kind."""
    if window is None and family not in _SLIDING:
        return {"sliding_window": None}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return {"sliding_window": window or 8192, "use_sliding_window": True, "layer_types": kinds}


def random_decoder(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float32, window: int | None = None
) -> PreTrainedModel:
    """A decoder of a transformers family (see `gnm.models.families`) for `byte_tokenizer`.

    Three layers of width 48, four query heads over two key/value heads; equal for equal arguments. The Llama
    ties its embeddings, the others don't, so that both kinds are met.
    window: how many positions layers with a window attend over; None: no fewer than there are.
    """
    config = AutoConfig.for_model(
        family,
        vocab_size=len(SPECIAL_TOKENS) + 256,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=8192,
        tie_word_embeddings=family == "llama",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
        **_windowed(family, window),
        **_OF_FAMILY.get(family, {}),
    )
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))
            parameter.data = parameter.to(dtype)  # the rotary frequencies stay float32, as when weights are read
    return model
