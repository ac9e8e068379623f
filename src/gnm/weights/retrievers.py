"""A trained retriever with the model that it was trained on: no other model may search by it.

- A retriever takes what enters layer l of a decoder. That depends on the backbone, and on what was trained of its
  layers below l. Weights above, the selector's and the gates' change nothing of it, so they may be trained further.
- `python -m gnm.training.retriever --block retriever`, in experiments/small_long, trains one and saves this digest.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gnm.errors import ConfigError
from gnm.models.lora import DEFAULT, layers_of
from gnm.models.retriever import Retriever
from gnm.weights.backbones import Backbone
from gnm.weights.trained import trained_parameters, weights_digest


def inputs_digest(backbone: Backbone, layer: int) -> str:
    """The checksum of what the inputs of layer `layer` depend on: the backbone's, and one of the weights below it."""
    return digest_below(backbone.config_digest, trained_parameters(backbone.model).get(DEFAULT, {}), layer)


def digest_below(backbone: str, adapter: Mapping[str, Tensor], layer: int) -> str:
    """As `inputs_digest`, from the digest of a backbone and the weights of an adapter by their names in its file."""
    own = {name: value.detach().cpu() for name, value in adapter.items() if 0 < layers_of([name]) <= layer}
    return f"{backbone}-{weights_digest([own])}" if own else backbone


def load_retriever(folder: str | Path, backbone: Backbone, adapter: str | Path) -> Retriever:
    """The retriever of `folder`, for the model `backbone`, into which `adapter` was loaded.

    Raises CheckpointError as `Retriever.load` does, ConfigError if it was trained on another model.
    """
    found = Retriever.load(folder, backbone.model.device)
    if found.model != (loaded := inputs_digest(backbone, found.layer)):
        raise ConfigError(
            f"the retriever {folder} was trained for the adapter {found.adapter} ({found.model}), and {adapter} "
            f"({loaded}) is loaded, which gives other inputs of layer {found.layer}; train one for it: set "
            "retriever.adapter in experiments/small_long/params.yaml, and run there python -m gnm.training.retriever "
            "--block retriever"
        )
    return found
