"""Where a training starts: from an adapter, from those of a memory model, or from a new one."""

from gnm.errors import ConfigError
from gnm.learners import LearnerSettings
from gnm.models.gates.write import gate_layer
from gnm.models.lora import LoraSettings, add_lora, add_selector
from gnm.params import TrainParams
from gnm.weights.backbones import Backbone
from gnm.weights.pretrained import load_model, model_digest


def starting_point(
    backbone: Backbone, settings: LearnerSettings, params: TrainParams
) -> tuple[Backbone, LoraSettings | None, dict[str, str]]:
    """The backbone with what is to be trained, the shape of its adapters, and what tells where training starts.

    It starts from the method's `adapter`, from those of a memory model, or from a new one that `params.lora` shapes.
    Without any of these the backbone stays as it is. With `params.selection_only` it gets an adapter that selects, if
    it has none. Raises ConfigError if `params.lora` is another than that of the adapter, or if there is no adapter that
    selecting could start from; and CheckpointError as `load_model` does.
    """
    own, start = backbone.memory and backbone.memory.shape.lora, {}
    if settings.adapter:
        about, backbone = load_model(settings.adapter, backbone)
        own, start = about["lora"] and LoraSettings(**about["lora"]), {"start": model_digest(backbone)}
    if own and params.lora and own.model_dump() != params.lora.model_dump():
        where = f"the adapter {settings.adapter}" if settings.adapter else f"the memory model {backbone.name}"
        raise ConfigError(f"lora: {where} has LoRA of its own ({own}); leave `lora` out, or give the same")
    if params.selection_only:
        if not own:
            raise ConfigError("selection_only: there is no adapter to start from; name it in the method's `adapter`")
        add_selector(backbone.model, own, gate_layer(settings.write.gates, backbone.model.config.num_hidden_layers))
    if own:
        return backbone, own, start
    if params.lora is not None:
        add_lora(backbone.model, params.lora, params.seed)
    return backbone, params.lora, start
