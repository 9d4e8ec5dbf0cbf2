"""Windows without memory: what they predict, and what they cost against a memory.

A model without memory can predict each token from a full context only by reading a fresh window for
each token (the "vanilla" evaluation of Al-Rfou et al. 2019). Dai et al. 2019 (arXiv 1901.02860)
compare that with reading segment by segment with a memory.

Models are called as ``model(input_ids, memory=, mem_len=, logits_to_keep=)`` and return ``logits``
(log-probabilities) and ``memory``.

Legend: S = scored tokens.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nlpapp.errors import ConfigError


@torch.inference_mode()
def window_losses(
    model: Any, token_ids: np.ndarray, targets: np.ndarray, *, window: int, batch_size: int
) -> np.ndarray:
    """Return -log p of each target, in nats, from a window of its own: (S,).

    Args:
        model: in evaluation mode.
        token_ids: (n,) the text; may be memory-mapped.
        targets: (S,) places in the text, none before ``window``.
        window: tokens before each target that are read, and nothing else.
        batch_size: windows read side by side.
    """
    device = next(model.parameters()).device
    losses = []
    for start in range(0, len(targets), batch_size):
        some = targets[start : start + batch_size]
        inputs = token_ids[some[:, None] + np.arange(-window, 0)].astype(np.int64)  # (b, window)
        logits = model(torch.from_numpy(inputs).to(device), mem_len=0, logits_to_keep=1).logits
        chosen = torch.from_numpy(token_ids[some].astype(np.int64)).to(device)
        losses.append(-logits[:, -1].gather(1, chosen[:, None]).squeeze(1).float().cpu().numpy())
    return np.concatenate(losses)


class MemoryReader:
    """Reads a text in segments with a memory; the tokens' losses, and how long they took."""

    def __init__(self, model: Any, *, segment_length: int, mem_len: int) -> None:
        """Read ``segment_length`` tokens at once after a memory of ``mem_len`` positions."""
        self.model, self.segment_length, self.mem_len = model, segment_length, mem_len

    @torch.inference_mode()
    def losses(self, token_ids: np.ndarray, first: int, count: int) -> tuple[np.ndarray, float]:
        """Return -log p (count,) of the tokens from place ``first`` on, in nats, and the seconds.

        The memory is filled from the tokens before; that is not in the seconds.
        """
        device = next(self.model.parameters()).device
        memory, found = None, []
        begin = max(1, first - self.mem_len)
        if begin < first:
            fill = self._inputs(token_ids, begin, first, device)
            for part in fill.split(self.segment_length, dim=1):
                output = self.model(part, memory=memory, mem_len=self.mem_len, logits_to_keep=1)
                memory = output.memory
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        start = time.perf_counter()
        for place in range(first, first + count, self.segment_length):
            stop = min(place + self.segment_length, first + count)
            output = self.model(
                self._inputs(token_ids, place, stop, device), memory=memory, mem_len=self.mem_len
            )
            memory = output.memory
            chosen = torch.from_numpy(token_ids[place:stop].astype(np.int64)).to(device)
            found.append(-output.logits[0].gather(1, chosen[:, None]).squeeze(1).float().cpu())
        seconds = time.perf_counter() - start
        return torch.cat(found).numpy(), seconds

    def _inputs(
        self, token_ids: np.ndarray, first: int, stop: int, device: torch.device
    ) -> torch.Tensor:
        """Return the tokens before each of ``first`` ... ``stop`` - 1: (1, stop - first)."""
        ids = token_ids[first - 1 : stop - 1].astype(np.int64)
        return torch.from_numpy(ids)[None].to(device)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """A sliding window against memory, on the same weights and tokens."""

    attention_length: int
    """Tokens of the window; positions of memory on the other side, so that it sees no fewer."""
    window_loss: float
    memory_loss: float
    """Of the tokens that the windows predicted, as `window_loss`; nats."""
    window_seconds: float
    memory_seconds: float
    """For a token; medians over turns."""
    speed_up: float
    """Median over turns of the ratio of the two."""


def compare_with_windows(
    model: Any,
    token_ids: np.ndarray,
    *,
    attention_length: int,
    segment_length: int,
    num_windows: int,
    num_tokens: int,
    batch_size: int = 1,
    turns: int = 3,
) -> SlidingWindow:
    """Score the same tokens with a fresh window each, and in segments with memory, in turn.

    Args:
        model: in evaluation mode.
        token_ids: (n,), at least ``attention_length`` + ``num_tokens``.
        attention_length: the window, and the positions of memory.
        segment_length: tokens that the side with memory reads at once.
        num_windows: tokens that windows predict in each turn.
        num_tokens: tokens that the side with memory predicts in each turn; at least as many.
        batch_size: windows side by side.
        turns: how often each side is timed, after one turn that warms up.

    Raises:
        ConfigError: the text is too short.
    """
    first = attention_length + 1
    if len(token_ids) < first + num_tokens or num_tokens < num_windows:
        raise ConfigError(
            f"the text has {len(token_ids)} tokens; a sliding window of {attention_length} that is "
            f"timed on {num_tokens} tokens needs {first + num_tokens}. Make the window shorter."
        )
    reader = MemoryReader(model, segment_length=segment_length, mem_len=attention_length)
    targets = np.arange(first, first + num_windows)
    window_times, memory_times = [], []
    for _ in range(turns + 1):
        start = time.perf_counter()
        from_windows = window_losses(
            model, token_ids, targets, window=attention_length, batch_size=batch_size
        )
        window_times.append((time.perf_counter() - start) / num_windows)
        from_memory, seconds = reader.losses(token_ids, first, num_tokens)
        memory_times.append(seconds / num_tokens)
    pairs = list(zip(window_times, memory_times, strict=True))[1:]
    return SlidingWindow(
        attention_length=attention_length,
        window_loss=float(from_windows.mean()),
        memory_loss=float(from_memory[:num_windows].mean()),
        window_seconds=statistics.median(window for window, _ in pairs),
        memory_seconds=statistics.median(memory for _, memory in pairs),
        speed_up=statistics.median(window / memory for window, memory in pairs),
    )
