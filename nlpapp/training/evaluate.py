"""Evaluation over a whole data set, on all processes, without dropping or repeating an example."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes, reduce
from tqdm.auto import tqdm

from nlpapp.data.sampling import StepData
from nlpapp.objectives.step import Batch, Objective
from nlpapp.training.checkpoint import to_device
from nlpapp.training.processes import process_state


def evaluate_means(model: Any, objective: Objective, steps: StepData) -> dict[str, float]:
    """Return the objective's metrics over ``steps``, each the mean over all of its items.

    The batches are read in order, so that a carry (a language model's memory) goes from one to the
    next. Two evaluations of one model agree to the last bit.
    """
    state = process_state()
    sums: dict[str, list[float]] = {}
    carry = None
    with _evaluating(model, state.device), torch.inference_mode():
        for step in _shown(range(steps.num_steps(0)), state):
            dealt = {"world_size": state.num_processes, "accumulation": 1}
            own = steps.micro_batches(0, step, rank=state.process_index, **dealt)
            # A process without an example runs those of the first, and counts nothing: the pieces
            # of a sharded model are gathered by all processes together.
            for batch in own or steps.micro_batches(0, step, rank=0, **dealt):
                batch = to_device(batch, state.device)
                output = objective(model, batch, objective.counts(batch), carry)
                carry = output.carry
                for name, (total, count) in output.metrics.items():
                    entry = sums.setdefault(name, [0.0, 0.0])
                    if own:
                        entry[0] += float(total)
                        entry[1] += float(count)
    return objective.summary(means(sums))


def means(sums: dict[str, list[float]]) -> dict[str, float]:
    """Return sum / count for each name, over all processes; a name without items is left out."""
    state = process_state()
    names = sorted(sums)
    table = torch.tensor([sums[name] for name in names], dtype=torch.float64).reshape(-1, 2)
    if state.num_processes > 1:
        # MPS and some accelerators have no float64; the group of processes that reduces it does.
        table = reduce(table.to(state.device), reduction="sum").cpu()
    return {
        name: (total / count).item()
        for name, (total, count) in zip(names, table, strict=True)
        if count
    }


def predict_rows(
    model: Any, forward: Callable[[Any, Batch], torch.Tensor], steps: StepData
) -> np.ndarray:
    """Return ``forward(model, batch)`` for every example of ``steps``, in their order.

    Args:
        model: an unwrapped module; it is moved to this process's device.
        forward: gives a (b, ...) tensor for a batch of b examples, always of one trailing shape.
        steps: data read in order, without shuffling.

    Whole steps are dealt to the processes in turn.
    """
    state = process_state()
    world_size, rank = state.num_processes, state.process_index
    num_steps = steps.num_steps(0)
    parts: list[torch.Tensor] = []
    with _evaluating(model, state.device), torch.inference_mode():
        for first in _shown(range(0, num_steps, world_size), state):
            # A process without a step of its own runs the turn's first one and keeps no row: it
            # has to know the shape, and a sharded model is gathered by all processes together.
            step = first + rank if first + rank < num_steps else first
            (batch,) = steps.micro_batches(0, step, rank=0, world_size=1, accumulation=1)
            rows = forward(model, to_device(batch, state.device)).float()
            parts.append(rows if step == first + rank else rows[:0])
    if world_size == 1:
        return torch.cat(parts).cpu().numpy()
    return _in_example_order(parts, state, num_steps)


def _in_example_order(parts: list[torch.Tensor], state: PartialState, num_steps: int) -> np.ndarray:
    sizes = torch.tensor([len(part) for part in parts], device=state.device)
    all_sizes = gather(sizes).view(state.num_processes, -1).cpu()
    rows = pad_across_processes(torch.cat(parts), dim=0)
    all_rows = gather(rows).view(state.num_processes, -1, *rows.shape[1:]).cpu().numpy()
    offsets = np.concatenate(
        [np.zeros((state.num_processes, 1), int), all_sizes.numpy().cumsum(1)], 1
    )
    pieces = []
    for step in range(num_steps):
        turn, owner = divmod(step, state.num_processes)
        pieces.append(all_rows[owner, offsets[owner, turn] : offsets[owner, turn + 1]])
    return np.concatenate(pieces)


def _shown(steps: range, state: PartialState) -> Iterable[int]:
    """Show a bar on the main process where going over ``steps`` takes longer than a moment."""
    hidden = not state.is_main_process
    return tqdm(steps, desc="evaluating", leave=False, delay=2.0, disable=hidden)


class _evaluating:  # noqa: N801 - used like a function
    """Put a model on a device in evaluation mode, and give its mode back afterwards."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device

    def __enter__(self) -> None:
        self.was_training = self.model.training
        self.model.to(self.device)
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)
