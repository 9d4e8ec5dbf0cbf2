"""Classification and regression of a text or a pair, with any Hugging Face classifier or ours.

Symbols: B examples, K dropout samples of each (`nlpapp.models.classifier_heads`), C outputs.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as functional

from nlpapp.errors import ConfigError
from nlpapp.objectives.step import Batch, Counts, StepOutput

TERM = "classification"
"""Name of the loss term in ``counts``."""


@dataclass(frozen=True, kw_only=True)
class ClassificationLossConfig:
    """What to add to the plain loss; all of it off by default."""

    label_smoothing: float = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016, arXiv 1512.00567; 0.1)."""
    class_weights: list[float] | Literal["balanced"] | None = None
    """Weight of each class's examples, in the order of the classes; balanced: inversely to how
    often train has the class. Where a row may have several classes: weight of having the class."""
    r_drop: float = 0.0
    """Weight of R-Drop (Liang et al. 2021, arXiv 2106.14448; 0.5 to 5): each example runs twice
    with different dropout, and the predictions are pulled together. Doubles the cost of a step."""
    adversarial: float = 0.0
    """Size of FGM's perturbation (Miyato et al. 2017, arXiv 1605.07725; 0.5 to 1, for a tiny BERT
    0.1): each example also runs with its word embeddings moved this far uphill. More than doubles
    a step's cost."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"loss.label_smoothing is {self.label_smoothing}; it must be in [0, 1)"
            )
        for key in ("r_drop", "adversarial"):
            if getattr(self, key) < 0:
                raise ConfigError(f"loss.{key} is {getattr(self, key)}; it must be 0 or more")


def forward_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Return the model's logits, (B, C); of a regression model, (B, 1)."""
    return model(**model_inputs(model, batch)).logits


def model_inputs(model: Any, batch: Batch) -> Batch:
    """Return what ``model`` reads of ``batch``, without the labels.

    Only what the model's ``forward`` names is handed over. Token types go to models that have
    embeddings of two: DistilBERT has none, RoBERTa one, and GPT-2 would take them for words.
    """
    inner = _unwrapped(model)
    accepted = set(inspect.signature(inner.forward).parameters) - {"labels"}
    if getattr(getattr(inner, "config", None), "type_vocab_size", 0) < 2:
        accepted.discard("token_type_ids")
    return {name: value for name, value in batch.items() if name in accepted}


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)  # DistributedDataParallel hides the signature


def weights_of_classes(
    wanted: Sequence[float] | str | None, labels: np.ndarray | None, num_labels: int
) -> torch.Tensor | None:
    """Return (C,) float32 weights for ``class_weights`` of the configuration, or None.

    ``balanced`` is N / (C N_c) for N_c of N rows with class c, as in scikit-learn; for labels of
    (N, C), where a row may have several classes, it is (N - N_c) / N_c.

    Raises:
        ConfigError: the labels are scores, there is not one weight for each class, one is negative
            or all are 0, or balanced weights have no labels to go by.
    """
    if wanted is None:
        return None
    if num_labels == 1:
        raise ConfigError("loss.class_weights are given, but the labels are scores; leave them out")
    if wanted == "balanced" and labels is not None:
        several = labels.ndim == 2
        counts = labels.sum(axis=0) if several else np.bincount(labels, minlength=num_labels)
        counts = np.maximum(counts, 1)
        weights = (len(labels) - counts) / counts if several else len(labels) / counts / num_labels
    else:
        weights = np.array([] if isinstance(wanted, str) else wanted, dtype=np.float64)
    if len(weights) != num_labels or weights.min() < 0 or not weights.any():
        raise ConfigError(
            f"loss.class_weights is {wanted}; expected {num_labels} numbers, one for each class, "
            "none negative, or balanced"
        )
    return torch.tensor(weights, dtype=torch.float32)


class ClassificationObjective:
    """Cross entropy, or mean squared error for one label (BERT, Devlin et al. 2019, 4.1).

    Where a row may have several classes, labels are (B, C), and the loss is the mean over the
    classes of the binary cross entropy, as in transformers.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        loss: ClassificationLossConfig | None = None,
        train_labels: np.ndarray | None = None,
    ) -> None:
        """Minimise the loss of ``num_labels`` outputs.

        Args:
            num_labels: C.
            loss: what is added to the plain loss.
            train_labels: those of the training set, which balanced weights need.

        Raises:
            ConfigError: class weights or label smoothing do not fit the labels.
        """
        self.num_labels = num_labels
        self.loss = loss or ClassificationLossConfig()
        if num_labels == 1 and self.loss.label_smoothing:
            raise ConfigError(
                f"loss.label_smoothing is {self.loss.label_smoothing}, but the labels are scores; "
                "leave it out"
            )
        self.class_weights = weights_of_classes(self.loss.class_weights, train_labels, num_labels)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples of ``batch``, or the sum of their weights."""
        return {TERM: float(self._row_weights(batch["labels"]).sum())}

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return the loss and, for classes, the accuracy of ``batch``."""
        labels = batch["labels"]
        if self.loss.r_drop:
            batch = {name: torch.cat([value, value]) for name, value in batch.items()}

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            logits = forward_logits(model, batch).float()  # (B, C) or (B, K, C), or of 2 B rows
            return self._sum(logits, labels), logits.detach()

        if self.loss.adversarial:
            embeddings = _unwrapped(model).get_input_embeddings()
            (clean, logits), attacked = _attack(run, embeddings, self.loss.adversarial)
            total = clean + attacked
        else:
            clean, logits = run()
            total = clean
        weight = float(self._row_weights(labels).sum())
        metrics: dict[str, tuple[torch.Tensor | float, torch.Tensor | float]]
        metrics = {"loss": (clean.detach(), weight)}
        if self.num_labels > 1 and labels.ndim == 1:
            first = logits[: len(labels)]
            votes = first.mean(dim=1) if first.ndim == 3 else first
            correct = (votes.argmax(dim=-1) == labels).sum()
            metrics["accuracy"] = (correct, float(len(labels)))
        return StepOutput(loss=total / counts[TERM], metrics=metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return ``means`` as they are."""
        return means

    def _row_weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Return (B,) the weight of each row."""
        if self.class_weights is None or labels.ndim == 2:
            return torch.ones(len(labels), device=labels.device)
        return self.class_weights.to(labels.device)[labels]

    def _sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum over the rows of their losses, with those that hold runs together."""
        weights = self._row_weights(labels)
        if not self.loss.r_drop:
            return (weights * self._row_losses(logits, labels)).sum()
        first, second = logits.chunk(2)
        rows = (self._row_losses(first, labels) + self._row_losses(second, labels)) / 2
        rows = rows + self.loss.r_drop * self._row_distances(first, second, labels)
        return (weights * rows).sum()

    def _row_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (B,) losses of (B, C), or of (B, K, C) the mean over K (Inoue 2019)."""
        if logits.ndim == 3:
            samples = [self._row_losses(sample, labels) for sample in logits.unbind(dim=1)]
            return torch.stack(samples).mean(dim=0)
        smoothing = self.loss.label_smoothing
        if self.num_labels == 1:
            return (logits.squeeze(-1) - labels.float()).square()
        if labels.ndim == 2:
            weights = None if self.class_weights is None else self.class_weights.to(logits.device)
            return functional.binary_cross_entropy_with_logits(
                logits,
                labels * (1 - smoothing) + smoothing / 2,
                pos_weight=weights,
                reduction="none",
            ).mean(dim=-1)
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def _row_distances(
        self, first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return (B,) how far two predictions of a row are apart.

        For classes the mean of KL(p|q) and KL(q|p), which is sum_c (p_c - q_c)(log p_c - log q_c)
        / 2; with a sigmoid for each class the logits take the place of the logarithms. For scores
        the squared difference.
        """
        if self.num_labels == 1:
            rows = (first - second).square().sum(dim=-1)
        elif labels.ndim == 2:
            rows = ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(dim=-1) / 2
        else:
            log_p, log_q = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
            rows = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1) / 2
        return rows.mean(dim=1) if rows.ndim == 2 else rows


def _attack(
    run: Callable[[], tuple[torch.Tensor, torch.Tensor]], embeddings: Any, size: float
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what ``run`` gives, and its loss with the outputs of ``embeddings`` moved uphill.

    Each example moves by ``size`` along its gradient, r = size g / |g| (Miyato et al., eq. 5).
    """
    seen: list[torch.Tensor] = []
    handle = embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        clean = run()
    finally:
        handle.remove()
    slopes = torch.autograd.grad(clean[0], seen, retain_graph=True)
    smallest = torch.finfo(torch.float32).tiny
    shifts = iter(
        [
            size * slope / slope.flatten(1).norm(dim=1).clamp(min=smallest)[:, None, None]
            for slope in slopes
        ]
    )
    handle = embeddings.register_forward_hook(lambda module, inputs, output: output + next(shifts))
    try:
        return clean, run()[0]
    finally:
        handle.remove()
