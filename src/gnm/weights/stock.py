"""A check at load: a decoder that is run layer by layer gives the logits of the stock model."""

import torch

from gnm.errors import BackboneError
from gnm.models.decoder import Decoder
from gnm.models.taps import InputTap

_TOKENS = 16
_TOLERANCE = {torch.float32: 1e-4}
_ROUNDED = 0.1
"""How far logits may be apart, as a share of the largest one: in float32, and in dtypes of less precision. Measured on
SmolLM2 (30 layers): 3e-6, and 0.03 in bfloat16; with unrotated keys 0.3."""


@torch.no_grad()
def compare_with_stock(name: str, model: torch.nn.Module) -> None:
    """Raise BackboneError if `Decoder` gives other logits than the stock model does, on one short text.

    Half of the text is written as slots and read as a prefix, so that their projections and positions are compared too.
    name: what the user calls the backbone.
    """
    ids = (torch.arange(1, _TOKENS + 1, device=model.device) * 7919 % model.config.vocab_size)[None]
    expected = model(ids, use_cache=False).logits[0].float()
    decoder, half = Decoder(model), _TOKENS // 2
    real = torch.ones(1, 1, half, dtype=torch.bool, device=ids.device)
    tap, positions = InputTap(), torch.arange(half, device=ids.device)[None]
    decoder.read(decoder.empty_prefix(1), ids[None, :, :half], real, tap)
    prefix = decoder.rotated(*decoder.project(tap.slots), real[:, 0], positions)
    found = decoder.logits(decoder.read(prefix, ids[None, :, half:], real)[0, 0])
    apart = float((found - expected[half:]).abs().max() / expected.abs().max().clamp(min=1))
    if not apart <= _TOLERANCE.get(decoder.dtype, _ROUNDED):
        raise BackboneError(
            f"backbone {name!r}, of the family {model.config.model_type!r}, gives other logits here than in its own "
            f"code (apart by {apart:.2g} of the largest); use another backbone, and report this one"
        )
