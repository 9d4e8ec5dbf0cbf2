"""BERT for pretraining: transformers' BERT, with the vocabulary projected only where it is needed.

The weights live in transformers' own BertForPreTraining, so the folders it saves load in
AutoModelForMaskedLM, BertForPreTraining and AutoModelForSequenceClassification, and theirs load
here.

Legend: B rows, S tokens a row, K masked positions in the batch, D hidden size, V vocabulary size.
"""

from typing import Any

import torch
from torch import nn
from transformers import BertForPreTraining, PreTrainedModel


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
