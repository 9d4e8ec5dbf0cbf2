"""Linear layers whose matrix products on a CPU are oneDNN's.

torch multiplies float32 matrices on a CPU with MKL, which keeps to AVX2 on processors that are not
Intel's. oneDNN, which torch has as well, takes the widest instructions there are: on an AMD Zen 5
it multiplies matrices of BERT's shapes twice as fast, forward and backward. Its linear operator has
no gradient, so the three products are put together here. Where oneDNN does not serve (other
devices, other types, autocast, compiled or exported models), all is torch's own.

Legend: M rows, I inputs, O outputs.
"""

from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Model = TypeVar("Model", bound=nn.Module)

FEWEST = 2**20
"""Multiplications that are worth oneDNN's 15 microseconds of preparation."""


def use_fast_linear(model: Model) -> Model:
    """Let each nn.Linear inside ``model`` multiply by `linear`.

    The modules keep class, call, parameters and names, so that weights are saved and loaded, and
    gradient checkpointing, sharding and adapters work, as before. Only second derivatives and
    torch.func's transformations are torch's alone: they need an unchanged model.

    Args:
        model: changed in place and returned.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            layer: Any = module
            layer.forward = partial(_forward, layer)
    return model


def _forward(layer: nn.Linear, inputs: Tensor) -> Tensor:
    return linear(inputs, layer.weight, layer.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return inputs @ weight.T + bias, with gradients: what torch's F.linear returns.

    Args:
        inputs: (..., I).
        weight: (O, I).
        bias: (O), or None.

    Returns:
        (..., O).
    """
    if inputs.ndim < 2 or torch.compiler.is_compiling() or not _served(inputs, weight):
        return F.linear(inputs, weight, bias)
    # A view made inside the Function could not be changed in place.
    return _Linear.apply(inputs.flatten(0, -2), weight, bias).unflatten(0, inputs.shape[:-1])


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left @ right.T + bias without gradients.

    Args:
        left: (M, I).
        right: (O, I).
        bias: (O), or None.

    Returns:
        (M, O), in the type of ``left``.
    """
    if not _served(left, right):
        return F.linear(left, right, bias)
    return torch.ops.mkldnn._linear_pointwise(_dense(left), _dense(right), bias, "none", [], "")


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left.T @ right without gradients: a gradient of weights.

    Args:
        left: (M, O).
        right: (M, I).

    Returns:
        (O, I), with its rows or its columns one after the other in memory.
    """
    # oneDNN is fastest where the second matrix is the wider one.
    if left.shape[1] > right.shape[1]:
        return product(right.t(), left.t()).t()
    return product(left.t(), right.t())


def _served(left: Tensor, right: Tensor) -> bool:
    """Return whether oneDNN multiplies them, and not slower."""
    return bool(
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and left.numel() * right.shape[0] >= FEWEST
        and type(right) in (Tensor, nn.Parameter)  # Neither sharded nor quantised.
        and not hasattr(right, "ds_id")  # DeepSpeed takes weights away before backward.
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
    )


def _dense(matrix: Tensor) -> Tensor:
    """Return ``matrix`` with its rows or its columns one after the other in memory."""
    return matrix if matrix.t().is_contiguous() else matrix.contiguous()


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_inputs = product(of_outputs, weight.t())
        if ctx.needs_input_grad[1]:
            # In another order than that of the weights it would be copied each time it is added.
            of_weight = transposed_product(of_outputs, inputs).contiguous()
        if ctx.needs_input_grad[2]:
            of_bias = of_outputs.sum(0)
        return of_inputs, of_weight, of_bias
