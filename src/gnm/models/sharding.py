"""A frozen backbone shared out over processes (fully sharded data parallelism, Rajbhandari et al. 2020; torch's FSDP2).

- Each process holds a share of every layer's weights; a layer is put together when it runs and taken apart after it.
- What is trained is small and whole on each process; its gradients are averaged by the caller.
- accelerate's own integration shards what is trained too, and leaves out processes without a GPU; this doesn't.
"""

from types import MethodType

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from gnm.models.decoder import pass_layer
from gnm.models.projections import project_slots


def shard_backbone(module: nn.Module, model: nn.Module, processes: int, device: torch.device) -> None:
    """Share out the frozen parameters of the decoder `model` within `module`, whose forward pass runs it.

    Every process must run the same layers in the same order, and `model` must be the same on each.
    """
    mesh = init_device_mesh(device.type, (processes,))
    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
        for use in (pass_layer, project_slots):  # all that leaves a layer must leave through what is registered
            setattr(layer, use.__name__, MethodType(use, layer))
            register_fsdp_forward_method(layer, use.__name__)
    fully_shard(module, mesh=mesh, ignored_params=trained)
