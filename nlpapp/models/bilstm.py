"""The BiLSTM classifier of Tang et al. 2019 (arXiv 1903.12136), for one sentence or two.

The layers above the encoder are in `models.sentence_classifier`. Legend: B rows, S positions, E
embedding width, H hidden width of one direction.

No packed sequences: exported to ONNX they are wrong for other batch sizes and lengths than the
ones exported with (pytorch issue 62240). The backward direction is a second LSTM over each row
turned round by its own length, so padding on the right never reaches a state that is read. Padding
must be on the right.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from nlpapp.errors import ConfigError, nearest
from nlpapp.models.classifiers import label_options
from nlpapp.models.sentence_classifier import (
    SentenceClassifier,
    SentenceClassifierConfig,
    check_positive,
)

POOLINGS = ("last", "max", "mean")


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


class BiLstmConfig(SentenceClassifierConfig):
    """Sizes of a `BiLstmForSequenceClassification`; the defaults are Tang et al.'s."""

    model_type = "bilstm"

    def __init__(self, *, hidden_size: int = 150, pooling: str = "last", **kwargs: Any) -> None:
        """Describe a model.

        Args:
            hidden_size: Width of each direction of the LSTM, H.
            pooling: "last" (the state after reading the whole row, as in the paper), or "max" or
                "mean" over the positions that hold a token.
            **kwargs: See `SentenceClassifierConfig`.

        Raises:
            ConfigError: An unknown pooling, or a size that is not positive.
        """
        if pooling not in POOLINGS:
            known = ", ".join(POOLINGS)
            raise ConfigError(
                f"pooling '{pooling}' is unknown; expected {known}.{nearest(pooling, POOLINGS)}"
            )
        check_positive("hidden_size", hidden_size)
        self.hidden_size = hidden_size
        self.pooling = pooling
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


class BiLstmForSequenceClassification(SentenceClassifier):
    """A BiLSTM encoder under a two-layer classifier; with one label it is a regression."""

    config_class = BiLstmConfig

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config, BiLstmEncoder(config), 2 * config.hidden_size)


def build_bilstm(
    size: BiLstmSizeConfig,
    *,
    vocab_size: int,
    pad_token_id: int,
    label_names: Sequence[str],
    siamese: bool = False,
) -> BiLstmForSequenceClassification:
    """Return a BiLSTM to train; what is random comes from torch's generator.

    Args:
        size: widths, pooling and dropout.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.
        label_names: the classes in order; none: one score.
        siamese: read pairs of sentences.

    Raises:
        ConfigError: a size that is not positive.
    """
    config = BiLstmConfig(
        **asdict(size),
        vocab_size=vocab_size,
        siamese=siamese,
        pad_token_id=pad_token_id,
        **label_options(label_names),
    )
    return BiLstmForSequenceClassification(config)


AutoConfig.register(BiLstmConfig.model_type, BiLstmConfig)
AutoModelForSequenceClassification.register(BiLstmConfig, BiLstmForSequenceClassification)
