"""The BiLSTM classifier of Tang et al. 2019 (arXiv 1903.12136), for one sentence or two.

    one sentence    logits = W2 relu(W1 h + b1) + b2
    two sentences   the same, with h = [h1, h2, h1 * h2, |h1 - h2|] of one shared encoder

Legend: B rows, S positions, E embedding width, H hidden width of one direction, C labels.

No packed sequences: exported to ONNX they are wrong for other batch sizes and lengths than the
ones exported with (pytorch issue 62240). The backward direction is a second LSTM over each row
turned round by its own length, so padding on the right never reaches a state that is read. Padding
must be on the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from nlpapp.errors import ConfigError, nearest

POOLINGS = ("last", "max", "mean")
EMBEDDING_DEVIATION = 0.1
"""Deviation of embeddings before training: larger than BERT's, as no normalisation follows."""


@dataclass(frozen=True, kw_only=True)
class BiLstmSizeConfig:
    """The size of a BiLSTM; the defaults are those of Tang et al. 2019."""

    embedding_size: int = 300
    """Width of the word embeddings."""
    hidden_size: int = 150
    """Width of each of the two directions."""
    classifier_size: int = 200
    """Width of the ReLU layer before the labels."""
    pooling: Literal["last", "max", "mean"] = "last"
    """Sentence vector: the last state of each direction, or the largest or the mean over tokens."""
    dropout: float = 0.1
    """Dropout of the embeddings, the sentence vector and the ReLU layer."""


class BiLstmConfig(PretrainedConfig):
    """Sizes of a `BiLstmForSequenceClassification`; the defaults are Tang et al.'s."""

    model_type = "bilstm"

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        embedding_size: int = 300,
        hidden_size: int = 150,
        classifier_size: int = 200,
        pooling: str = "last",
        dropout: float = 0.1,
        siamese: bool = False,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        """Describe a model.

        Args:
            vocab_size: Pieces of the tokenizer, V.
            embedding_size: Width of the embeddings, E.
            hidden_size: Width of each direction of the LSTM, H.
            classifier_size: Width of the ReLU layer before the labels.
            pooling: "last" (the state after reading the whole row, as in the paper), or "max" or
                "mean" over the positions that hold a token.
            dropout: Rate on the embeddings, the sentence vector and the ReLU layer.
            siamese: Read two sentences with one encoder instead of one sentence.
            pad_token_id: The piece that fills rows up.
            **kwargs: What every Hugging Face configuration takes, such as id2label.

        Raises:
            ConfigError: An unknown pooling, or a size that is not positive.
        """
        if pooling not in POOLINGS:
            known = ", ".join(POOLINGS)
            raise ConfigError(
                f"pooling '{pooling}' is unknown; expected {known}.{nearest(pooling, POOLINGS)}"
            )
        sizes = {
            "vocab_size": vocab_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "classifier_size": classifier_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} is {size}; a BiLSTM needs at least 1.")
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.classifier_size = classifier_size
        self.pooling = pooling
        self.dropout = dropout
        self.siamese = siamese
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)


def reverse_rows(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Turn each row's first ``lengths`` positions round and leave its padding where it is.

    Args:
        rows: (B, S, E) vectors.
        lengths: (B, 1) number of tokens of each row.
    """
    positions = torch.arange(rows.shape[1], device=rows.device)[None]  # (1, S)
    source = torch.where(positions < lengths, lengths - 1 - positions, positions)  # (B, S)
    return rows.gather(1, source[:, :, None].expand(-1, -1, rows.shape[2]))


def pool_states(states: torch.Tensor, lengths: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one (B, H) vector for each row of (B, S, H) ``states``, from its first ``lengths``."""
    if pooling == "last":
        last = (lengths - 1)[:, :, None].expand(-1, -1, states.shape[2])  # (B, 1, H)
        return states.gather(1, last).squeeze(1)
    inside = (
        torch.arange(states.shape[1], device=states.device)[None, :, None] < lengths[:, :, None]
    )
    if pooling == "max":
        return states.masked_fill(~inside, torch.finfo(states.dtype).min).amax(1)
    return (states * inside).sum(1) / lengths


class BiLstmEncoder(nn.Module):
    """Token ids to one vector of width 2H a row."""

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.dropout = nn.Dropout(config.dropout)
        self.forward_lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (B, 2H) vectors of (B, S) ids; an empty row is read as one padding piece."""
        lengths = attention_mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
        embedded = self.dropout(self.embeddings(input_ids))  # (B, S, E)
        forward_states, _ = self.forward_lstm(embedded)  # (B, S, H)
        backward_states, _ = self.backward_lstm(reverse_rows(embedded, lengths))  # (B, S, H)
        # No pooling depends on the order of positions, so the backward states stay turned round.
        pooled = [
            pool_states(states, lengths, self.pooling)
            for states in (forward_states, backward_states)
        ]
        return torch.cat(pooled, dim=1)


class BiLstmPreTrainedModel(PreTrainedModel):
    """Initialisation and saving, shared by BiLSTM models."""

    config_class = BiLstmConfig
    base_model_prefix = "encoder"

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
        elif isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            weight = torch.empty_like(module.weight).normal_(std=EMBEDDING_DEVIATION)
            weight[module.padding_idx] = 0
            initialization.copy_(module.weight, weight)


class BiLstmForSequenceClassification(BiLstmPreTrainedModel):
    """A BiLSTM encoder under a two-layer classifier; with one label it is a regression."""

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.encoder = BiLstmEncoder(config)
        width = 2 * config.hidden_size * (4 if config.siamese else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(width, config.classifier_size)
        self.classifier = nn.Linear(config.classifier_size, self.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.encoder.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.encoder.embeddings = value  # type: ignore[assignment]

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
            input_ids: (B, S) pieces of the sentence, or of a siamese model's first sentence.
            attention_mask: (B, S), 1 at tokens and 0 at padding; by default 0 at padding pieces.
            input_ids_b: (B, S') pieces of the second sentence; siamese models need it.
            attention_mask_b: (B, S'), as ``attention_mask``.
            token_type_ids: Accepted so that a BERT tokenizer's batch fits; an LSTM does not use it.
            labels: (B,) classes, or scores with one label; gives a loss averaged over the rows.

        Returns:
            Logits (B, C), and the loss if there are labels.

        Raises:
            ConfigError: A siamese model without a second sentence, or a single one with it.
        """
        if (input_ids_b is not None) != self.config.siamese:
            need = (
                "two sentences (input_ids_b)"
                if self.config.siamese
                else "one sentence, without input_ids_b"
            )
            raise ConfigError(f"This BiLSTM (siamese: {self.config.siamese}) reads {need}.")
        vector = self._encode(input_ids, attention_mask)
        if input_ids_b is not None:
            other = self._encode(input_ids_b, attention_mask_b)
            vector = torch.cat(
                [vector, other, vector * other, (vector - other).abs()], dim=1
            )  # (B, 8H)
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


def project_embeddings(teacher: torch.Tensor, width: int) -> torch.Tensor:
    """Return a teacher's (V, D) word embeddings as (V, ``width``) ones to start a student from.

    They are centred, turned to their principal components (PCA, largest first), cut to ``width``,
    and scaled to the deviation that random embeddings start with. A student wider than its
    teacher gets random columns beside them, from torch's generator.
    """
    centred = (teacher - teacher.mean(0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)  # columns, by ascending variance
    kept = centred @ directions.flip(1)[:, :width]  # (V, min(D, width))
    kept = EMBEDDING_DEVIATION * kept / kept.std().clamp(min=1e-12)
    extra = EMBEDDING_DEVIATION * torch.randn(len(kept), width - kept.shape[1], dtype=torch.double)
    return torch.cat([kept, extra], dim=1).to(teacher.dtype)


def build_bilstm(
    size: BiLstmSizeConfig,
    *,
    vocab_size: int,
    pad_token_id: int,
    label_names: Sequence[str],
    siamese: bool = False,
    start: Any = None,
) -> BiLstmForSequenceClassification:
    """Return a BiLSTM to train; what is random comes from torch's generator.

    Args:
        size: widths, pooling and dropout.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.
        label_names: the classes in order.
        siamese: read pairs of sentences.
        start: the word embeddings (an nn.Embedding) of a teacher with the same tokenizer.

    Raises:
        ConfigError: a size that is not positive, or embeddings of another vocabulary.
    """
    config = BiLstmConfig(
        vocab_size=vocab_size,
        embedding_size=size.embedding_size,
        hidden_size=size.hidden_size,
        classifier_size=size.classifier_size,
        pooling=size.pooling,
        dropout=size.dropout,
        siamese=siamese,
        pad_token_id=pad_token_id,
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
    )
    model = BiLstmForSequenceClassification(config)
    if start is not None:
        words = start.weight.detach()  # (V, D)
        if len(words) < vocab_size:
            raise ConfigError(
                f"the teacher has {len(words)} embeddings and the tokenizer {vocab_size} "
                "entries; use the teacher's tokenizer, or --embeddings random."
            )
        projected = project_embeddings(words[:vocab_size], size.embedding_size)
        projected[pad_token_id] = 0
        model.encoder.embeddings.weight.data.copy_(projected)
    return model


AutoConfig.register(BiLstmConfig.model_type, BiLstmConfig)
AutoModelForSequenceClassification.register(BiLstmConfig, BiLstmForSequenceClassification)
