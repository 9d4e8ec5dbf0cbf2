"""Learning from a teacher's inside: hidden states and attention maps of chosen layers.

    hidden "mse"      mean over tokens and width of (student - teacher)^2, as in TinyBERT
                      (Jiao et al. 2020, arXiv 1909.10351, equation 8, the student as wide as the
                      teacher, so without a projection)
    hidden "cosine"   mean over tokens of 1 - cos(student, teacher), as in DistilBERT
                      (Sanh et al. 2019, arXiv 1910.01108, section 2)
    attention "kl"    mean over heads and tokens of KL(teacher || student) of the attention
                      distributions, as in MobileBERT (Sun et al. 2020, arXiv 2004.02984)
    attention "mse"   mean over heads and pairs of tokens of (student - teacher)^2 of the same, as
                      in TinyBERT (equation 7), which takes them before the softmax

Legend: B rows, S positions, D hidden width, A heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from nlpapp.objectives.classification import model_inputs
from nlpapp.objectives.step import Batch

SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a model computed on the way to its logits."""

    logits: torch.Tensor
    """(B, C)."""
    hidden: Sequence[torch.Tensor]
    """(B, S, D) of the embeddings and of each layer."""
    attentions: Sequence[torch.Tensor]
    """(B, A, S, S) of each layer; rows sum to 1 over the last axis. Empty unless asked for."""


def read_layers(model: Any, batch: Batch, *, attentions: bool) -> Layers:
    """Run ``model`` on ``batch`` and return what its layers gave.

    Attention maps exist only where the model computes attention by plain products
    (``set_attn_implementation("eager")``).
    """
    shown = {"output_hidden_states": True, "output_attentions": attentions}
    output = model(**model_inputs(model, batch), **shown)
    return Layers(
        logits=output.logits,
        hidden=output.hidden_states,
        attentions=output.attentions if attentions else (),
    )


class LayerLoss:
    """The distance of a student's layers from those of its teacher."""

    def __init__(
        self,
        teacher: Any,
        layer_map: Sequence[int],
        *,
        hidden_weight: float = 0.0,
        hidden_loss: str = "mse",
        attention_weight: float = 0.0,
        attention_loss: str = "kl",
        tokens: Sequence[int] | None = None,
    ) -> None:
        """Compare with ``teacher``, a model that is not trained.

        Args:
            teacher: as wide as the student, with as many heads.
            layer_map: for each layer of the student, the teacher's, from 1. The embeddings are
                compared with the embeddings.
            hidden_weight: of the hidden states' term.
            hidden_loss: mse or cosine.
            attention_weight: of the attention maps' term.
            attention_loss: kl or mse.
            tokens: the teacher's id of each of the student's; absent: they have the same.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.layer_map = list(layer_map)
        self.hidden_weight = hidden_weight
        self.hidden_loss = hidden_loss
        self.attention_weight = attention_weight
        self.attention_loss = attention_loss
        self.tokens = None if tokens is None else torch.tensor(tokens)

    def __call__(self, student: Layers, batch: Batch) -> torch.Tensor:
        """Return (B,) the weighted distances of a batch, each a mean over the layers."""
        mask = batch["attention_mask"].float()  # (B, S)
        self.teacher.to(mask.device)
        with torch.no_grad():
            ids = batch["input_ids"]
            if self.tokens is not None:
                self.tokens = self.tokens.to(ids.device)
                ids = self.tokens[ids]
            read = batch | {"input_ids": ids}
            teacher = read_layers(self.teacher, read, attentions=self.attention_weight > 0)
        total = torch.zeros(len(mask), device=mask.device)
        if self.hidden_weight:
            pairs = zip((0, *range(1, len(self.layer_map) + 1)), (0, *self.layer_map), strict=True)
            found = [
                hidden_losses(student.hidden[own], teacher.hidden[other], mask, self.hidden_loss)
                for own, other in pairs
            ]
            total = total + self.hidden_weight * torch.stack(found).mean(0)
        if self.attention_weight:
            found = [
                attention_losses(
                    student.attentions[own],
                    teacher.attentions[other - 1],
                    mask,
                    self.attention_loss,
                )
                for own, other in enumerate(self.layer_map)
            ]
            total = total + self.attention_weight * torch.stack(found).mean(0)
        return total


def hidden_losses(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, kind: str
) -> torch.Tensor:
    """Return (B,) means over the tokens of the distances of (B, S, D) states; mask is (B, S)."""
    if kind == "mse":
        distances = (student.float() - teacher.float()).square().mean(2)  # (B, S)
    else:
        distances = 1 - functional.cosine_similarity(student.float(), teacher.float(), dim=2)
    return (distances * mask).sum(1) / mask.sum(1).clamp(min=1)


def attention_losses(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, kind: str
) -> torch.Tensor:
    """Return (B,) means over heads and tokens of the distances of (B, A, S, S) maps."""
    student, teacher = student.float(), teacher.float()
    tokens = mask.sum(1).clamp(min=1)  # (B,)
    # Padding keys have no weight on either side and so no part in the sums.
    if kind == "mse":
        terms = (student - teacher).square() / tokens[:, None, None, None]
    else:
        logarithms = [maps.clamp(min=SMALLEST).log() for maps in (teacher, student)]
        terms = teacher * (logarithms[0] - logarithms[1])
    distances = terms.sum(3).mean(1)  # (B, S)
    return (distances * mask).sum(1) / tokens
