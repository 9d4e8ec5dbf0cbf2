"""The losses of BERT (Devlin et al. 2018, arXiv 1810.04805): masked LM and next sentence.

loss = mean over masked positions of -log p(token) + mean over pairs of -log p(is next).
The metrics have the names of the original run_pretraining.py. In the place of next sentence there
may be sentence order (ALBERT, Lan et al. 2019, arXiv 1909.11942): the same head, other labels.
"""

from typing import Any

import torch
import torch.nn.functional as F

from nlpapp.objectives.step import Batch, Counts, StepOutput

PAIR_TASKS = ("next_sentence", "sentence_order")
"""A batch has the labels of one of them, or of none."""


class BertPretrainingObjective:
    """Masked LM, plus next sentence or sentence order where the batch has labels for it."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the numbers of masked positions and of labelled pairs."""
        counts = {"masked_lm": float(batch["masked_labels"].numel())}
        for task in PAIR_TASKS:
            if f"{task}_labels" in batch:
                counts[task] = float(batch[f"{task}_labels"].numel())
        return counts

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the step's share of the loss.

        ``batch`` is what `data.collate.PretrainingCollator` makes; ``model`` is a
        BertPretrainingModel or anything that takes its arguments and returns what it returns.
        """
        masked_lm_loss, masked_lm_right, pair_logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
            masked_positions=batch["masked_positions"],
            masked_labels=batch["masked_labels"],
        )
        sums = {"masked_lm": (masked_lm_loss, masked_lm_right, batch["masked_labels"].numel())}
        for task in PAIR_TASKS:
            if f"{task}_labels" in batch:
                sums[task] = _sums(pair_logits, batch[f"{task}_labels"])
        # The zero keeps the head of pairs in the graph where nothing trains it: processes that
        # exchange gradients wait for every parameter.
        loss = 0.0 * pair_logits.sum()
        metrics: dict[str, tuple[Any, Any]] = {}
        for name, (loss_sum, correct, count) in sums.items():
            loss = loss + loss_sum / max(counts[name], 1.0)
            metrics[f"{name}_loss"] = (loss_sum.detach(), count)
            metrics[f"{name}_accuracy"] = (correct, count)
        return StepOutput(loss=loss, metrics=metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Add the total loss."""
        total = sum(means.get(f"{task}_loss", 0.0) for task in ("masked_lm", *PAIR_TASKS))
        return {"loss": total, **means}


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the sum of cross entropies, the number of right answers, and the number of labels."""
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss, (logits.argmax(dim=-1) == labels).sum(), labels.numel()
