"""Classification and regression of a text or a pair, with any Hugging Face classifier or ours."""

import inspect
from typing import Any

import torch
import torch.nn.functional as functional

from nlpapp.objectives.step import Batch, Counts, StepOutput

TERM = "classification"
"""Name of the loss term in ``counts``."""


def forward_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Return the model's logits, (B, C); of a regression model, (B, 1).

    Only what the model's ``forward`` names is handed over. Token types go to models that have
    embeddings of two: DistilBERT has none, RoBERTa one, and GPT-2 would take them for words.
    """
    inner = getattr(model, "module", model)  # DistributedDataParallel hides the signature
    accepted = set(inspect.signature(inner.forward).parameters) - {"labels"}
    if getattr(getattr(inner, "config", None), "type_vocab_size", 0) < 2:
        accepted.discard("token_type_ids")
    return model(**{name: value for name, value in batch.items() if name in accepted}).logits


class ClassificationObjective:
    """Cross entropy, or mean squared error for one label (BERT, Devlin et al. 2019, 4.1)."""

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples of ``batch``."""
        return {TERM: float(len(batch["labels"]))}

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the loss and, for classes, the accuracy of ``batch``."""
        logits = forward_logits(model, batch).float()  # (B, C)
        labels = batch["labels"]
        size = float(len(labels))
        if self.num_labels == 1:
            total = functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
            return StepOutput(loss=total / counts[TERM], metrics={"loss": (total.detach(), size)})
        total = functional.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(dim=-1) == labels).sum()
        return StepOutput(
            loss=total / counts[TERM],
            metrics={"loss": (total.detach(), size), "accuracy": (correct.detach(), size)},
        )

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return ``means`` as they are."""
        return means
