"""Knowledge distillation: a student learns the teacher's logits, the labels, or a mixture.

    loss of an example = (1 - alpha) * teacher term + alpha * cross entropy with its label
    teacher term "mse"     mean over the labels of (student logit - teacher logit)^2,
                           the objective of Tang et al. 2019 (arXiv 1903.12136, section 3.2)
    teacher term "kl"      T^2 * KL(softmax(teacher / T) || softmax(student / T)),
                           the soft targets of Hinton et al. 2015 (arXiv 1503.02531); T^2 keeps the
                           size of the gradients when T changes. Its gradient is that of the soft
                           cross entropy, and it is 0 where the student has learned everything.

Of scores (C is 1) the teacher term is "mse", and the square of (student - label) stands in for the
cross entropy. An example without a label (-100, of scores NaN: augmented or unlabelled text) has
the teacher's: the class, or the score, that it gives (Tang et al. 2019, section 3.2).

With ``final_alpha`` the share of the labels moves from alpha to it over the training: teacher
annealing (Clark et al. 2019, BAM, arXiv 1907.04829, section 3.2), where it goes from 0 to 1.

What the teacher's layers say (`objectives.layer_distillation`) is added to the teacher term.
Legend: B rows of a batch, C labels, T temperature.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from nlpapp.errors import ConfigError
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.layer_distillation import LayerLoss, read_layers
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
    final_alpha: float | None = None
    """Share of the labels at the end of training, to which alpha moves evenly; absent: it stays."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes, in the cross entropy with the labels."""
    hidden_weight: float = 0.0
    """Weight of the hidden states of the teacher's layers; for a BERT student."""
    hidden_loss: Literal["mse", "cosine"] = "mse"
    """Distance of two hidden states."""
    attention_weight: float = 0.0
    """Weight of the attention maps of the teacher's layers; for a BERT student."""
    attention_loss: Literal["kl", "mse"] = "kl"
    """Distance of two attention maps."""

    @property
    def uses_layers(self) -> bool:
        """Whether the student learns from the teacher's layers."""
        return self.hidden_weight > 0 or self.attention_weight > 0

    @property
    def teacher_alone(self) -> bool:
        """Whether the labels have no part in the loss, from the first step to the last."""
        return self.alpha == 0 and not self.final_alpha

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"temperature is {self.temperature}; it divides logits: use 1 or more."
            )
        for name in ("alpha", "final_alpha"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(
                    f"{name} is {share}; it is the share of the labels in the loss, from 0 (the "
                    "teacher alone) to 1 (the labels alone)."
                )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; use 0 up to under 1.")
        for name in ("hidden_weight", "attention_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.alpha == 1 and (self.uses_layers or self.final_alpha is not None):
            raise ConfigError(
                "alpha is 1, the labels alone, so the teacher is not asked: leave final_alpha, "
                "hidden_weight and attention_weight out, or lower alpha."
            )
        for name, default in (("hidden", "mse"), ("attention", "kl")):
            if getattr(self, f"{name}_loss") != default and not getattr(self, f"{name}_weight"):
                raise ConfigError(
                    f"{name}_loss is {getattr(self, f'{name}_loss')}, but {name}_weight is 0: give "
                    f"{name}_weight, or leave {name}_loss out."
                )
        if self.alpha == 1 and self.temperature != 1:
            raise ConfigError(
                f"temperature is {self.temperature}, but alpha is 1, the labels alone, which are "
                "not softened: leave temperature out, or lower alpha."
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
    """Losses of a batch that holds "teacher_logits" (B, C) unless alpha is 1, and "labels" (B,).

    With ``final_alpha`` it also holds "progress", the share of the training behind it. Evaluated
    without it, alpha is as at the start.
    """

    def __init__(
        self,
        *,
        teacher_loss: str,
        temperature: float,
        alpha: float,
        final_alpha: float | None = None,
        label_smoothing: float = 0.0,
        layers: LayerLoss | None = None,
    ) -> None:
        """Take the options of `DistillationConfig`; ``layers`` compares the models' insides."""
        self.teacher_loss = teacher_loss
        self.temperature = temperature
        self.alpha = alpha
        self.final_alpha = final_alpha
        self.label_smoothing = label_smoothing
        self.layers = layers

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples with a loss: with alpha 1 those that have a label."""
        if self.alpha == 1:
            return {TERM: float(is_labelled(batch["labels"]).sum())}
        return {TERM: float(len(batch["labels"]))}

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the loss of ``batch``, its accuracy, and how often student and teacher agree."""
        logits, inside = self._forward(model, batch)
        labels = batch["labels"]
        labelled = is_labelled(labels)
        are_classes = logits.shape[1] > 1
        metrics: dict[str, tuple[Any, Any]] = {}
        if self.alpha == 1:
            known = labels.where(labelled, 0)
            losses = label_losses(logits, known, self.label_smoothing) * labelled
        else:
            teacher = batch["teacher_logits"].float()
            said = teacher.argmax(1) if are_classes else teacher[:, 0]
            hard = label_losses(logits, labels.where(labelled, said), self.label_smoothing)
            soft = inside + teacher_losses(
                logits, teacher, teacher_loss=self.teacher_loss, temperature=self.temperature
            )
            alpha = self._alpha(batch)
            losses = alpha * hard + (1 - alpha) * soft
            if are_classes:
                metrics["agreement"] = ((logits.argmax(1) == said).sum(), len(labels))
        total = losses.sum()
        metrics["loss"] = (total.detach(), self.counts(batch)[TERM])
        if are_classes:
            right = (logits.argmax(1) == labels) & labelled
            metrics["accuracy"] = (right.sum(), labelled.sum())
        return StepOutput(loss=total / max(counts[TERM], 1.0), metrics=metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return ``means`` as they are."""
        return means

    def _forward(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Return (B, C) logits and the (B,) distances of the layers, 0 where none is asked for."""
        if self.layers is None:
            return forward_logits(model, batch).float(), 0.0
        found = read_layers(model, batch, attentions=self.layers.attention_weight > 0)
        return found.logits.float(), self.layers(found, batch)

    def _alpha(self, batch: Batch) -> float | torch.Tensor:
        if self.final_alpha is None or "progress" not in batch:
            return self.alpha
        return self.alpha + (self.final_alpha - self.alpha) * batch["progress"]


def is_labelled(labels: torch.Tensor) -> torch.Tensor:
    """Return (B,) whether each of the classes, or scores, is known."""
    return ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL


def label_losses(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the (B,) cross entropies of (B, C) logits, or of one logit the squared errors."""
    if logits.shape[1] == 1:
        return (logits[:, 0] - labels).square()
    return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
