"""Knowledge distillation: a student learns the teacher's logits, the labels, or a mixture.

    loss of an example = (1 - alpha) * teacher term + alpha * cross entropy with its label
    teacher term "mse"     mean over the labels of (student logit - teacher logit)^2,
                           the objective of Tang et al. 2019 (arXiv 1903.12136, section 3.2)
    teacher term "kl"      T^2 * KL(softmax(teacher / T) || softmax(student / T)),
                           the soft targets of Hinton et al. 2015 (arXiv 1503.02531); T^2 keeps the
                           size of the gradients when T changes. Its gradient is that of the soft
                           cross entropy, and it is 0 where the student has learned everything.

An example without a label (-100: augmented or unlabelled text) has the teacher term alone, at full
weight. Legend: B rows of a batch, C labels, T temperature.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from nlpapp.errors import ConfigError
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.step import Batch, Counts, StepOutput

NO_LABEL = -100
"""The label of an example that has none."""
TERM = "distillation"
"""Name of the loss term in ``counts``."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What the student learns from."""

    teacher_loss: Literal["mse", "kl"] = "mse"
    """Distance to the teacher: mse of the logits, or kl of the softened probabilities."""
    temperature: float = 1.0
    """Divides the logits of both sides in kl; above 1 the small probabilities count for more."""
    alpha: float = 0.0
    """Share of the labels: 0 learns the teacher's logits alone, 1 the labels alone."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature is {self.temperature}; it divides logits: use 1 or more."
            )
        if not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"alpha is {self.alpha}; it is the share of the labels in the loss, from 0 (the "
                "teacher alone) to 1 (the labels alone)."
            )
        if self.teacher_loss == "mse" and self.temperature != 1:
            raise ConfigError(
                f"temperature is {self.temperature}, but teacher_loss mse has none; "
                "use teacher_loss kl."
            )


def teacher_losses(
    student: torch.Tensor, teacher: torch.Tensor, *, teacher_loss: str, temperature: float
) -> torch.Tensor:
    """Return the (B,) distances of (B, C) student logits from (B, C) teacher logits."""
    if teacher_loss == "mse":
        return (student - teacher).square().mean(1)
    target = functional.log_softmax(teacher / temperature, dim=1)
    found = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * (target.exp() * (target - found)).sum(1)


class DistillationObjective:
    """Losses of a batch that holds "teacher_logits" (B, C) unless alpha is 1, and "labels" (B,)."""

    def __init__(self, *, teacher_loss: str, temperature: float, alpha: float) -> None:
        self.teacher_loss = teacher_loss
        self.temperature = temperature
        self.alpha = alpha

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples with a loss: with alpha 1 those that have a label."""
        if self.alpha == 1:
            return {TERM: float((batch["labels"] != NO_LABEL).sum())}
        return {TERM: float(len(batch["labels"]))}

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the loss of ``batch``, its accuracy, and how often student and teacher agree."""
        logits = forward_logits(model, batch).float()  # (B, C)
        labels = batch["labels"]
        labelled = labels != NO_LABEL
        chosen = logits.argmax(1)
        hard = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")
        losses = self.alpha * hard
        metrics: dict[str, tuple[Any, Any]] = {}
        if self.alpha < 1:
            teacher = batch["teacher_logits"].float()
            soft = teacher_losses(
                logits, teacher, teacher_loss=self.teacher_loss, temperature=self.temperature
            )
            losses = torch.where(labelled, losses + (1 - self.alpha) * soft, soft)
            metrics["agreement"] = ((chosen == teacher.argmax(1)).sum(), len(labels))
        total = losses.sum()
        metrics["loss"] = (total.detach(), self.counts(batch)[TERM])
        metrics["accuracy"] = ((chosen == labels).sum(), labelled.sum())
        return StepOutput(loss=total / max(counts[TERM], 1.0), metrics=metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return ``means`` as they are."""
        return means
