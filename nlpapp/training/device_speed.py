"""How fast a device multiplies matrices: what the speed of training is measured against."""

import time

import torch
from torch.backends import mkldnn

SECONDS = 0.5
"""Time of the whole measurement, warm-up left out."""
CPU_SIZE, ACCELERATOR_SIZE = 1024, 8192
"""Rows and columns of the matrices: large enough for full speed, small enough for many tries."""


def matmul_peak(device: torch.device | str, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of the fastest of many square matrix multiplications.

    A multiplication with its addition counts as two. CPUs are measured with the threads that torch
    has now, and float32 on them with oneDNN, which `models.fast_linear` trains with; float32 on
    GPUs with the precision that torch.backends allows now.

    Args:
        device: where to multiply.
        dtype: of both factors and the product.

    Returns:
        FLOP/s, measured in about half a second.
    """
    device = torch.device(device)
    size = CPU_SIZE if device.type == "cpu" else ACCELERATOR_SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    _seconds(left, right, product)  # The first one chooses the kernel.
    fastest = float("inf")
    stop = time.perf_counter() + SECONDS
    while fastest == float("inf") or time.perf_counter() < stop:
        fastest = min(fastest, _seconds(left, right, product))
    return 2 * size**3 / fastest


def _seconds(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> float:
    start = time.perf_counter()
    if left.device.type == "cpu" and left.dtype == torch.float32 and mkldnn.is_available():
        torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    else:
        torch.mm(left, right, out=product)
    if product.device.type != "cpu":
        torch.accelerator.synchronize(product.device)
    return time.perf_counter() - start
