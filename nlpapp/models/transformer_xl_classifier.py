"""A pretrained Transformer-XL as the backbone of a classifier: its state after the last token.

The language model has read the whole text by then, and so has this state, from which a linear layer
scores the classes (as GPT does; Radford et al. 2018, section 3.2). A text is read in one segment,
without a memory. Rows are padded on the right: no token sees those after it, and positions are
relative, so padding changes nothing.

Legend: B rows, S positions, D hidden width, C labels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from nlpapp.errors import ConfigError
from nlpapp.models.transformer_xl import (
    TransformerXLConfig,
    TransformerXLModel,
    TransformerXLPreTrainedModel,
)


class TransformerXLForSequenceClassification(TransformerXLPreTrainedModel):
    """A Transformer-XL with a linear layer on the state after the last token of each row."""

    _keys_to_ignore_on_load_unexpected = ["^softmax", "^output_tables"]  # of the language model

    def __init__(self, config: TransformerXLConfig) -> None:
        """Build the model of ``config``, whose ``num_labels`` is C.

        Raises:
            ConfigError: positions are absolute, and padding would move them.
        """
        super().__init__(config)
        if config.position_embedding_type != "relative":
            raise ConfigError(
                "a Transformer-XL with absolute positions counts them from the end of the padded "
                "row; a classifier needs one with position_embedding_type 'relative'."
            )
        self.num_labels = int(config.num_labels or 2)
        self.transformer = TransformerXLModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.score = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return what turns ids into vectors."""
        return self.transformer.embedding

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Score rows of token ids.

        Args:
            input_ids: (B, S), padded on the right.
            attention_mask: (B, S), 1 at tokens and 0 at padding; None: there is no padding.
            labels: (B,) classes, (B, C) of 0 and 1 where a row may have several, or scores with one
                label; gives a loss averaged over the rows.

        Returns:
            Logits (B, C), and the loss if there are labels.
        """
        hidden = self.transformer(input_ids, mem_len=0).last_hidden_state  # (B, S, D)
        if attention_mask is None:
            state = hidden[:, -1]
        else:
            last = attention_mask.sum(dim=1).clamp(min=1) - 1  # (B,)
            state = hidden[torch.arange(len(hidden), device=hidden.device), last]
        logits = self.score(self.dropout(state))
        loss: Any = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoModelForSequenceClassification.register(
    TransformerXLConfig, TransformerXLForSequenceClassification, exist_ok=True
)
