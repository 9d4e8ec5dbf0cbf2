"""Language modelling: predict each token from those before it, with a memory of past segments."""

import math
from typing import Any

from nlpapp.objectives.step import Batch, Counts, StepOutput

TERM = "tokens"
"""Name of the loss term in ``counts``: predicted tokens."""

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
        # exp overflows beyond 709 nats; a perplexity of infinity says the same.
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return means | {"perplexity": perplexity, "bits_per_token": loss / math.log(2)}
