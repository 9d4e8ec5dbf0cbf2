"""The losses of BERT (Devlin et al. 2018, arXiv 1810.04805): masked LM and next sentence.

loss = mean over masked positions of -log p(token) + mean over pairs of -log p(is next).
The metrics have the names of the original run_pretraining.py.
"""

from typing import Any

import torch
import torch.nn.functional as F

from nlpapp.objectives.step import Batch, Counts, StepOutput


class BertPretrainingObjective:
    """Masked LM, plus next sentence where the batch has its labels."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the numbers of masked positions and of labelled pairs."""
        counts = {"masked_lm": float(batch["masked_labels"].numel())}
        if "next_sentence_labels" in batch:
            counts["next_sentence"] = float(batch["next_sentence_labels"].numel())
        return counts

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the step's share of the loss.

        ``batch`` is what `data.collate.PretrainingCollator` makes; ``model`` is a
        BertPretrainingModel or anything that takes its arguments and returns its logits.
        """
        masked_lm_logits, next_sentence_logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
            masked_positions=batch["masked_positions"],
        )
        sums = {"masked_lm": _sums(masked_lm_logits, batch["masked_labels"])}
        if "next_sentence_labels" in batch:
            sums["next_sentence"] = _sums(next_sentence_logits, batch["next_sentence_labels"])
        # The zero keeps the next-sentence head in the graph where nothing trains it: processes that
        # exchange gradients wait for every parameter.
        loss = 0.0 * next_sentence_logits.sum()
        metrics: dict[str, tuple[Any, Any]] = {}
        for name, (loss_sum, correct, count) in sums.items():
            loss = loss + loss_sum / max(counts[name], 1.0)
            metrics[f"{name}_loss"] = (loss_sum.detach(), count)
            metrics[f"{name}_accuracy"] = (correct, count)
        return StepOutput(loss=loss, metrics=metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Add the total loss."""
        total = means.get("masked_lm_loss", 0.0) + means.get("next_sentence_loss", 0.0)
        return {"loss": total, **means}


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the sum of cross entropies, the number of right answers, and the number of labels."""
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss, (logits.argmax(dim=-1) == labels).sum(), labels.numel()
