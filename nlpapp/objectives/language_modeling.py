"""Language modelling: predict each token from those before it, with a memory of past segments."""

import math
from typing import Any

import torch

from nlpapp.objectives.step import Batch, Counts, StepOutput

TERM = "tokens"
"""Name of the loss term in ``counts``: predicted tokens."""
POSITION = "loss_at_"
"""``loss_at_3`` is the mean loss of the fourth tokens of all segments."""

IGNORED_LABEL = -100


class LanguageModelingObjective:
    """Cross entropy of the next token; the carry is the memory, a tuple of (B, M, D) tensors.

    For models called as ``model(input_ids=, labels=, memory=, mem_len=)`` that return ``loss_sum``
    and ``memory``.
    """

    def __init__(self, *, mem_len: int | None = None) -> None:
        """``mem_len`` is how many positions to remember; None: what the model's config says."""
        self.mem_len = mem_len

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of predicted tokens of ``batch``."""
        return {TERM: float((batch["labels"] != IGNORED_LABEL).sum())}

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return loss (nats), its sum and count, and the memory for the next segment."""
        output = model(
            input_ids=batch["input_ids"], labels=batch["labels"], memory=carry, mem_len=self.mem_len
        )
        predicted = self.counts(batch)[TERM]
        return StepOutput(
            loss=output.loss_sum / counts[TERM],
            metrics={"loss": (output.loss_sum.detach(), predicted)},
            carry=output.memory,
        )

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Add ``perplexity`` = exp(loss) and ``bits_per_token`` = loss / ln 2 to ``loss``."""
        loss = means["loss"]
        return means | {"perplexity": perplexity(loss), "bits_per_token": loss / math.log(2)}


class PositionObjective:
    """The same for evaluation only, with the loss at each position in the segment as well.

    For models that return ``logits`` (log-probabilities) where no labels are given: it takes the
    time and the memory of (B, T, V) numbers a step.
    """

    def __init__(self, *, mem_len: int | None = None) -> None:
        """``mem_len`` is how many positions to remember; None: what the model's config says."""
        self.plain = LanguageModelingObjective(mem_len=mem_len)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of predicted tokens of ``batch``."""
        return self.plain.counts(batch)

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return ``loss`` and, for each position t from 0, ``loss_at_t``."""
        labels = batch["labels"]
        output = model(input_ids=batch["input_ids"], memory=carry, mem_len=self.plain.mem_len)
        predicted = labels != IGNORED_LABEL
        chosen = output.logits.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)  # (B, T)
        losses = -chosen.masked_fill(~predicted, 0.0)
        columns = zip(losses.sum(0).tolist(), predicted.sum(0).tolist(), strict=True)
        metrics = {f"{POSITION}{position}": column for position, column in enumerate(columns)}
        total = losses.sum()
        return StepOutput(
            loss=total / counts[TERM],
            metrics={"loss": (total, predicted.sum()), **metrics},
            carry=output.memory,
        )

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Add ``perplexity`` and ``bits_per_token``, as `LanguageModelingObjective`."""
        return self.plain.summary(means)


def position_losses(means: dict[str, float]) -> torch.Tensor:
    """Return the losses (T,) by position, in nats, from the figures of a `PositionObjective`."""
    found = {int(name.removeprefix(POSITION)): name for name in means if name.startswith(POSITION)}
    return torch.tensor([means[found[position]] for position in sorted(found)])


def perplexity(loss: float) -> float:
    """Return exp(``loss``), and infinity where that is beyond what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf
