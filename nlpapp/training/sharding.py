"""How processes hold the model they train: each of them whole, or in the pieces that FSDP2 cuts.

With ``fully_shard`` each process holds a piece of every weight (a DTensor), of its gradient and of
its optimizer state. Checkpoints and model folders hold whole tensors under the names of the plain
model, so that a run may go on, and a model may be used, on any number of processes. Where nothing
is sharded, a `Strategy` does what ``state_dict`` and ``load_state_dict`` do.
"""

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from nlpapp.errors import CheckpointError

PARAMETER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def sharding_plugin(precision: str) -> FullyShardedDataParallelPlugin | None:
    """Return what Accelerate needs to shard a model, or None where the launcher asks for no FSDP.

    Args:
        precision: float32, bf16 or fp16: of the weights that the forward pass gathers. Gradients
            are added up over the processes in float32, and the pieces themselves stay float32.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    plugin = FullyShardedDataParallelPlugin()
    if precision in PARAMETER_DTYPES:
        # Accelerate's own choice adds gradients up in the low precision.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=PARAMETER_DTYPES[precision], reduce_dtype=torch.float32
        )
    return plugin


def will_shard() -> bool:
    """Say whether the launcher asks for FSDP or for DeepSpeed, which cut a model in pieces."""
    asked = (os.environ.get(f"ACCELERATE_USE_{name}", "false") for name in ("FSDP", "DEEPSPEED"))
    return any(value.lower() == "true" for value in asked)


def is_sharded(model: nn.Module) -> bool:
    """Say whether the processes hold pieces of the weights instead of whole ones."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def model_to_train(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Return the module to hand to a `Strategy`: a copy where it will be cut in pieces.

    Cutting changes a module in place and for good; the caller's model stays whole, and
    `Strategy.copy_weights` brings the trained weights back.
    """
    is_cut = accelerator.is_fsdp2 or accelerator.distributed_type == DistributedType.DEEPSPEED
    return copy.deepcopy(model) if is_cut else model


class Strategy:
    """What depends on how processes hold a model: an update, and whole tensors in and out.

    This one serves a single process, DDP and FSDP2. All processes call each method together:
    gathering is an exchange between them.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Any) -> None:
        """Prepare ``model`` and ``optimizer``, which are kept as they are to be called."""
        self.accelerator = accelerator
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Surround forward and backward pass of a micro-batch, the step's ``last`` or not.

        Gradients are exchanged between processes only at the last one.
        """
        sync = contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
        with sync, self.accelerator.autocast():
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step; processes are averaged."""
        self.accelerator.backward(loss)

    def clip(self, max_grad_norm: float) -> torch.Tensor | None:
        """Scale the gradients down to ``max_grad_norm`` (0: leave them); return what they had.

        None where that is not known, or where fp16's scaler deals with one that is not finite.
        """
        if max_grad_norm == 0:
            return None
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)
        if self.accelerator.scaler is not None:
            return None
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def update(self) -> None:
        """Update the weights and clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Give out the plain module for an evaluation, and put it into training mode after it."""
        yield self.accelerator.unwrap_model(self.model)
        self.model.train()

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Return the whole weights by name; tied ones once, under the first of their sorted names.

        Where the model is cut in pieces they are on the CPU, and the dict is empty except on the
        main process; elsewhere they are the model's own tensors.
        """
        weights = {}
        for name, tensor in self._weights().items():
            whole = self._gather(tensor)
            if self.accelerator.is_main_process or not self._is_cut():
                weights[name] = whole
        return weights

    def load_full_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy whole ``weights``, the same on every process, into the model.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape is another one.
        """
        own = self._weights()
        # A file may name tied weights otherwise than `full_weights` does.
        known = own.keys() | self.accelerator.unwrap_model(self.model).state_dict()
        faults = [f"{name} is missing" for name in own if name not in weights]
        faults += [f"{name} is unknown" for name in weights if name not in known]
        faults += [
            f"{name} has the shape {tuple(weights[name].shape)}, here {tuple(shape)}"
            for name, shape in ((name, self._shape(tensor)) for name, tensor in own.items())
            if name in weights and weights[name].shape != shape
        ]
        if faults:
            raise CheckpointError("the weights do not fit this model: " + "; ".join(faults[:5]))
        with torch.no_grad():
            for name, tensor in own.items():
                self._fill(tensor, weights[name])

    def copy_weights(self, target: nn.Module) -> None:
        """Copy the whole weights into a plain ``target`` on every process."""
        own = named_weights(target)
        with torch.no_grad():
            # One weight after the other: no device holds a second whole model.
            for name, tensor in self._weights().items():
                own[name].copy_(self._gather(tensor))

    def full_optimizer(self) -> dict[str, Any]:
        """Return the optimizer's ``state_dict()`` with whole tensors; see `full_weights`."""
        state = self.optimizer.state_dict()
        if not self._is_cut():
            return state
        entries = {}
        for index, entry in state["state"].items():
            whole = {name: self._gather(value) for name, value in entry.items()}
            if self.accelerator.is_main_process:
                entries[index] = whole
        return {**state, "state": entries} if self.accelerator.is_main_process else {}

    def load_full_optimizer(self, state: dict[str, Any]) -> None:
        """Load what `full_optimizer` returned on the main process, given to every process."""
        if self._is_cut():
            groups = self.optimizer.param_groups
            parameters = [tensor for group in groups for tensor in group["params"]]
            entries = {
                index: {name: _piece(value, parameters[index]) for name, value in entry.items()}
                for index, entry in state["state"].items()
            }
            state = {**state, "state": entries}
        self.optimizer.load_state_dict(state)

    def _weights(self) -> dict[str, torch.Tensor]:
        return named_weights(self.accelerator.unwrap_model(self.model))

    def _is_cut(self) -> bool:
        return is_sharded(self.model)

    def _shape(self, tensor: torch.Tensor) -> torch.Size:
        return tensor.shape

    def _gather(self, tensor: Any) -> Any:
        if isinstance(tensor, DTensor):
            return tensor.full_tensor().detach().cpu()
        return tensor.detach() if isinstance(tensor, torch.Tensor) else tensor

    def _fill(self, tensor: torch.Tensor, whole: torch.Tensor) -> None:
        tensor.copy_(_piece(whole, tensor))


def named_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights and buffers of an unwrapped model as they are, each of them once."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # After an evaluation the whole weights are still there.
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _piece(whole: Any, like: torch.Tensor) -> Any:
    """Return this process's piece of ``whole`` where ``like`` is one, without any exchange."""
    # The step count of AdamW is a scalar beside tensors of the weight's shape.
    if not isinstance(like, DTensor) or getattr(whole, "shape", None) != like.shape:
        return whole
    on_device = whole.to(like.device, like.dtype)
    piece = distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
    return piece.clone()  # The piece is a view that would keep the whole on the device.
