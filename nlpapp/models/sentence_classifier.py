"""The layers that students share above their encoder, for one sentence or two.

    one sentence    logits = W2 relu(W1 h + b1) + b2
    two sentences   the same, with h = [h1, h2, h1 * h2, |h1 - h2|] of one shared encoder

Tang et al. 2019 (arXiv 1903.12136, section 3.1). Legend: B rows, S positions, W width of an
encoder's vector, C labels.
"""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import SequenceClassifierOutput

from nlpapp.errors import ConfigError

EMBEDDING_DEVIATION = 0.1
"""Deviation of embeddings before training: larger than BERT's, as no normalisation follows."""


class SentenceClassifierConfig(PretrainedConfig):
    """What every student's configuration holds beside the sizes of its encoder."""

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        embedding_size: int = 300,
        classifier_size: int = 200,
        dropout: float = 0.1,
        siamese: bool = False,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        """Describe the ends of a model.

        Args:
            vocab_size: entries of the tokenizer, V.
            embedding_size: width of the embeddings, E.
            classifier_size: width of the ReLU layer before the labels.
            dropout: rate on the embeddings, the sentence vector and the ReLU layer.
            siamese: read two sentences with one encoder instead of one sentence.
            pad_token_id: the entry that fills rows up.
            **kwargs: what every Hugging Face configuration takes, such as id2label.

        Raises:
            ConfigError: a size that is not positive.
        """
        sizes = {
            "vocab_size": vocab_size,
            "embedding_size": embedding_size,
            "classifier_size": classifier_size,
        }
        for name, size in sizes.items():
            check_positive(name, size)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.classifier_size = classifier_size
        self.dropout = dropout
        self.siamese = siamese
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)


def check_positive(name: str, size: int) -> None:
    """Raise ConfigError unless ``size``, called ``name``, is at least 1."""
    if size < 1:
        raise ConfigError(f"{name} is {size}; a student needs at least 1.")


class SentenceClassifier(PreTrainedModel):
    """An encoder under a two-layer classifier; with one label it is a regression."""

    config_class = SentenceClassifierConfig
    base_model_prefix = "encoder"

    def __init__(self, config: Any, encoder: nn.Module, width: int) -> None:
        """Put the classifier on ``encoder``.

        Args:
            config: a `SentenceClassifierConfig`.
            encoder: (ids, mask), both (B, S), -> (B, ``width``); has ``embeddings``.
            width: W.
        """
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.encoder = encoder
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(width * (4 if config.siamese else 1), config.classifier_size)
        self.classifier = nn.Linear(config.classifier_size, self.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set Glorot weights, orthogonal recurrences, open forget gates, small embeddings."""
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight_ih"):
                    initialization.xavier_uniform_(parameter)
                elif name.startswith("weight_hh"):
                    initialization.orthogonal_(parameter)
                else:
                    # Gates are stacked input, forget, cell, output; two biases are added up.
                    bias = torch.zeros_like(parameter)
                    bias[module.hidden_size : 2 * module.hidden_size] = 0.5
                    initialization.copy_(parameter, bias)
        elif isinstance(module, nn.Linear | nn.Conv1d):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Embedding):
            weight = torch.empty_like(module.weight).normal_(std=EMBEDDING_DEVIATION)
            weight[module.padding_idx] = 0
            initialization.copy_(module.weight, weight)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.encoder.embeddings  # type: ignore[return-value]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.encoder.embeddings = value

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        input_ids_b: torch.Tensor | None = None,
        attention_mask_b: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Score rows of token ids.

        Args:
            input_ids: (B, S) ids of the sentence, or of a siamese model's first sentence.
            attention_mask: (B, S), 1 at tokens and 0 at padding; by default 0 at padding ids.
            input_ids_b: (B, S') ids of the second sentence; siamese models need it.
            attention_mask_b: (B, S'), as ``attention_mask``.
            token_type_ids: accepted so that a BERT tokenizer's batch fits; it is not used.
            labels: (B,) classes, or scores with one label; gives a loss averaged over the rows.

        Returns:
            Logits (B, C), and the loss if there are labels.

        Raises:
            ConfigError: a siamese model without a second sentence, or a single one with it.
        """
        if (input_ids_b is not None) != self.config.siamese:
            need = (
                "two sentences (input_ids_b)"
                if self.config.siamese
                else "one sentence, without input_ids_b"
            )
            name = self.config.model_type
            raise ConfigError(f"This {name} (siamese: {self.config.siamese}) reads {need}.")
        vector = self._encode(input_ids, attention_mask)
        if input_ids_b is not None:
            other = self._encode(input_ids_b, attention_mask_b)
            vector = torch.cat(
                [vector, other, vector * other, (vector - other).abs()], dim=1
            )  # (B, 4W)
        hidden = self.dropout(torch.relu(self.hidden(self.dropout(vector))))
        logits = self.classifier(hidden)  # (B, C)
        loss = None
        if labels is not None and self.num_labels == 1:
            loss = nn.functional.mse_loss(logits.squeeze(1), labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        return self.encoder(input_ids, attention_mask)
