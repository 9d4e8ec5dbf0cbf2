"""BERT for pretraining: transformers' BERT, with the vocabulary projected only where it is needed.

The weights live in transformers' own BertForPreTraining, so the folders it saves load in
AutoModelForMaskedLM, BertForPreTraining and AutoModelForSequenceClassification, and theirs load
here.

Legend: B rows, S tokens a row, K masked positions in the batch, D hidden size, V vocabulary size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForPreTraining, PreTrainedModel

from nlpapp.errors import ConfigError

SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
"""name -> (layers, hidden size, heads): Turc et al. 2019 (arXiv 1908.08962), Devlin et al. 2018."""


@dataclass(frozen=True, kw_only=True)
class BertSizeConfig:
    """The size of a BERT that starts from random weights."""

    num_layers: int = 4
    """Transformer layers."""
    hidden_size: int = 256
    """Width of the hidden states; the feed-forward layers are four times as wide."""
    num_heads: int = 4
    """Attention heads; they divide the hidden size."""
    max_position_embeddings: int = 512
    """The longest sequence the model can read, in tokens."""
    dropout: float = 0.1
    """Dropout of hidden states and attention."""
    initializer_range: float = 0.02
    """Standard deviation of random weights; narrow models learn faster near 1/sqrt(hidden_size)."""
    similarity_start: bool = False
    """Start with keys equal to queries and halved positions, so that tokens attend to similar ones
    from the first step: next-sentence prediction is then learned from far less text."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )


def bert_config(size: BertSizeConfig, *, vocab_size: int, pad_token_id: int = 0) -> BertConfig:
    """Return transformers' configuration for ``size``."""
    config = BertConfig(
        vocab_size=vocab_size,
        pad_token_id=pad_token_id,
        num_hidden_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_attention_heads=size.num_heads,
        intermediate_size=4 * size.hidden_size,
        max_position_embeddings=size.max_position_embeddings,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        initializer_range=size.initializer_range,
    )
    config.similarity_start = size.similarity_start
    return config


@torch.no_grad()
def apply_similarity_start(model: PreTrainedModel) -> PreTrainedModel:
    """Let random attention look for similar tokens, if the model's configuration asks for it.

    With a key projection equal to the query projection, the score of tokens i and j is
    x_i' W'W x_j, which random W makes large where x_i and x_j are alike. Whether a token of one
    segment returns in the other is what next-sentence prediction needs first, and what small
    models find last (docs/log.md). Positions and segments are halved, so that the word decides.

    Args:
        model: any of transformers' BERTs with random weights; changed in place and returned.
    """
    if getattr(model.config, "similarity_start", False):
        bert: Any = model.base_model
        for layer in bert.encoder.layer:
            layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)
        bert.embeddings.position_embeddings.weight.mul_(0.5)
        bert.embeddings.token_type_embeddings.weight.mul_(0.5)
    return model


class BertPretrainingModel(nn.Module):
    """A BertForPreTraining that predicts at given positions instead of everywhere.

    ``bert`` is transformers' own model: save and load that one.
    """

    def __init__(self, bert: BertForPreTraining) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        masked_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both tasks.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, S), 1 at tokens and 0 at padding.
            token_type_ids: (B, S), 0 in the first segment and 1 in the second.
            masked_positions: (K,) flat positions ``row * S + column`` to predict.

        Returns:
            masked_lm_logits (K, V) and next_sentence_logits (B, 2), where class 0 means that the
            second segment follows the first.
        """
        outputs = self.bert.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        hidden = outputs.last_hidden_state.flatten(0, 1)  # (B, S, D) -> (B * S, D)
        heads = self.bert.cls
        masked_lm_logits = heads.predictions(hidden.index_select(0, masked_positions))
        return masked_lm_logits, heads.seq_relationship(outputs.pooler_output)
