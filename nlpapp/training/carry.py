"""What training carries from step to step for each row, dealt to another number of processes.

A carry is None, or tensors in nested tuples, lists and dicts, whose first dimension is the rows of
its micro-batch: (b, ...).
"""

from collections.abc import Sequence
from typing import Any

import torch


def deal_carries(
    carries: Sequence[Any], *, rank: int, world_size: int, accumulation: int
) -> list[Any]:
    """Return one process's carries, one for each of its micro-batches.

    Rows stay in their order and go where `nlpapp.data.sampling.split_step` deals them.

    Args:
        carries: those of all micro-batches of a step, process by process.
        rank: of the process.
        world_size: processes that go on.
        accumulation: micro-batches of a process.
    """
    if any(carry is None for carry in carries):
        return [None] * accumulation
    own = _split(_join(carries), world_size)[rank]
    return _split(own, accumulation)


def _join(carries: Sequence[Any]) -> Any:
    first = carries[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(tuple(carries))
    if isinstance(first, dict):
        return {key: _join([carry[key] for carry in carries]) for key in first}
    return type(first)(_join(column) for column in zip(*carries, strict=True))


def _split(carry: Any, number: int) -> list[Any]:
    if isinstance(carry, torch.Tensor):
        # Copies: of a view, a checkpoint would hold all rows.
        return [part.clone() for part in carry.tensor_split(number)]
    if isinstance(carry, dict):
        columns = {key: _split(value, number) for key, value in carry.items()}
        return [{key: columns[key][part] for key in columns} for part in range(number)]
    items = [_split(item, number) for item in carry]
    return [type(carry)(item[part] for item in items) for part in range(number)]
