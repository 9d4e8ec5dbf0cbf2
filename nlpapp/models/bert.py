"""BERT for pretraining: transformers' BERT, computed only where something is read.

The vocabulary is projected at masked positions, and the last layer ends at these and at the first
tokens; with ``unpad`` nothing is computed for padding instead.

The weights live in transformers' own BertForPreTraining, so the folders it saves load in
AutoModelForMaskedLM, BertForPreTraining and AutoModelForSequenceClassification, and theirs load
here.

Legend: B rows, S tokens a row, K masked positions in the batch, D hidden size, V vocabulary size.
"""

import torch
from torch import nn
from transformers import BertForPreTraining

from nlpapp.models.fast_linear import use_fast_linear
from nlpapp.models.last_layer import read_some, tokens_to_read
from nlpapp.models.unpadded import ATTENTION, encode_unpadded, pack
from nlpapp.models.vocabulary_loss import vocabulary_loss


class BertPretrainingModel(nn.Module):
    """A BertForPreTraining that predicts at given positions instead of everywhere.

    ``bert`` is transformers' own model: save and load that one.
    """

    def __init__(self, bert: BertForPreTraining, *, unpad: bool = False) -> None:
        """Wrap ``bert``; with ``unpad``, only real tokens are computed (`models.unpadded`)."""
        super().__init__()
        self.bert = use_fast_linear(bert)
        self.unpad = unpad
        if unpad:
            bert.set_attn_implementation(ATTENTION)
        else:
            read_some(bert.bert.encoder.layer[-1])

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the losses of both tasks are made of.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, S), 1 at tokens and 0 at padding, which is on the right.
            token_type_ids: (B, S), 0 in the first segment and 1 in the second.
            masked_positions: (K,) flat positions ``row * S + column`` to predict, row after row.
            masked_labels: (K,) the tokens that were there.

        Returns:
            The sum of the masked tokens' cross entropies, the number of masked tokens that have the
            highest score at their position, and next_sentence_logits (B, 2), where class 0 means
            that the second segment follows the first.
        """
        if self.unpad:
            rows = pack(attention_mask)
            hidden, pooled = encode_unpadded(self.bert.bert, input_ids, token_type_ids, rows)
            masked_positions = rows.places[masked_positions]
        else:
            read = tokens_to_read(masked_positions, tuple(input_ids.shape))
            outputs = self.bert.bert(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                read_columns=read.columns,
            )
            hidden = outputs.last_hidden_state.flatten(0, 1)  # (B, Q, D) -> (B * Q, D)
            masked_positions = read.places
            pooled = outputs.pooler_output
        head = self.bert.cls.predictions
        masked = head.transform(hidden.index_select(0, masked_positions))
        loss, right = vocabulary_loss(masked, head.decoder.weight, head.decoder.bias, masked_labels)
        return loss, right, self.bert.cls.seq_relationship(pooled)
