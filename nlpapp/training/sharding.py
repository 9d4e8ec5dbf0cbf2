"""Weights and optimizer states that FSDP2 has cut into pieces, gathered and given out again.

With ``fully_shard`` each process holds a piece of every weight (a DTensor), of its gradient and of
its optimizer state. Checkpoints and model folders hold whole tensors under the names of the plain
model, so that a run may go on, and a model may be used, on any number of processes. Where nothing
is sharded, these functions do what ``state_dict`` and ``load_state_dict`` do.

All processes call each function together: gathering is an exchange between them.
"""

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from nlpapp.errors import CheckpointError, ConfigError

PARAMETER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def sharding_plugin(precision: str) -> FullyShardedDataParallelPlugin | None:
    """Return what Accelerate needs to shard a model, or None where the launcher asks for no FSDP.

    Args:
        precision: float32, bf16 or fp16: of the weights that the forward pass gathers. Gradients
            are added up over the processes in float32, and the pieces themselves stay float32.

    Raises:
        ConfigError: the launcher asks for DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        # Its engine steps inside the backward pass, before a loss that is not finite is seen, and
        # its checkpoints cannot be read without it.
        raise ConfigError(
            "DeepSpeed is not supported; FSDP2 cuts the same things in pieces: launch with "
            "configs/accelerate/fsdp.yaml for what ZeRO-3 does, and with "
            "--fsdp_reshard_after_forward false for what ZeRO-2 does"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    plugin = FullyShardedDataParallelPlugin()
    if precision in PARAMETER_DTYPES:
        # Accelerate's own choice adds gradients up in the low precision.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=PARAMETER_DTYPES[precision], reduce_dtype=torch.float32
        )
    return plugin


def is_sharded(model: nn.Module) -> bool:
    """Say whether the processes hold pieces of the weights instead of whole ones."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def model_to_train(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Return the module to hand to ``accelerator.prepare``: a copy where it will be sharded.

    Sharding changes a module in place and for good; the caller's model stays whole, and
    `copy_weights` brings the trained weights back.
    """
    return copy.deepcopy(model) if accelerator.is_fsdp2 else model


def full_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole weights by name; tied ones once, under the first of their sorted names.

    Where the model is sharded they are on the CPU, and the dict is empty except on the main
    process; elsewhere they are the model's own tensors.
    """
    weights = {}
    for name, tensor in _weights(accelerator, model).items():
        whole = _gather(tensor)
        if accelerator.is_main_process or not isinstance(tensor, DTensor):
            weights[name] = whole
    return weights


def load_full_weights(
    accelerator: Accelerator, model: nn.Module, weights: dict[str, torch.Tensor]
) -> None:
    """Copy whole ``weights``, the same on every process, into ``model``.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape is another one.
    """
    own = _weights(accelerator, model)
    # A file may name tied weights otherwise than `full_weights` does.
    known = own.keys() | accelerator.unwrap_model(model).state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in known]
    faults += [
        f"{name} has the shape {tuple(weights[name].shape)}, here {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError("the weights do not fit this model: " + "; ".join(faults[:5]))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(_piece(weights[name], tensor))


def copy_weights(accelerator: Accelerator, source: nn.Module, target: nn.Module) -> None:
    """Copy the whole weights of ``source``, sharded or not, into a plain ``target`` everywhere."""
    own = _weights(accelerator, target)
    with torch.no_grad():
        # One weight after the other: no device holds a second whole model.
        for name, tensor in _weights(accelerator, source).items():
            own[name].copy_(_gather(tensor))


def full_optimizer(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Return ``optimizer.state_dict()`` with whole tensors; see `full_weights`."""
    state = optimizer.state_dict()
    if not is_sharded(model):
        return state
    entries = {}
    for index, entry in state["state"].items():
        whole = {name: _gather(value) for name, value in entry.items()}
        if accelerator.is_main_process:
            entries[index] = whole
    return {**state, "state": entries} if accelerator.is_main_process else {}


def load_full_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, state: dict[str, Any]
) -> None:
    """Load what `full_optimizer` returned on the main process, given to every process."""
    if is_sharded(model):
        parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        entries = {
            index: {name: _piece(value, parameters[index]) for name, value in entry.items()}
            for index, entry in state["state"].items()
        }
        state = {**state, "state": entries}
    optimizer.load_state_dict(state)


def _weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    plain = accelerator.unwrap_model(model)
    for module in plain.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # After an evaluation the whole weights are still there.
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in sorted(plain.state_dict(keep_vars=True).items()):
        found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _gather(tensor: Any) -> Any:
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().detach().cpu()
    return tensor.detach() if isinstance(tensor, torch.Tensor) else tensor


def _piece(whole: Any, like: torch.Tensor) -> Any:
    """Return this process's piece of ``whole`` where ``like`` is one, without any exchange."""
    # The step count of AdamW is a scalar beside tensors of the weight's shape.
    if not isinstance(like, DTensor) or getattr(whole, "shape", None) != like.shape:
        return whole
    on_device = whole.to(like.device, like.dtype)
    piece = distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
    return piece.clone()  # The piece is a view that would keep the whole on the device.
