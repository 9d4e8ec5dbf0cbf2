"""The convolutional classifier of Kim 2014 (arXiv 1408.5882), for one sentence or two.

Filters of several widths slide over the word embeddings; of each filter the largest value stays.
The layers above are those of all students (`models.sentence_classifier`), where Kim has one linear
layer: students then differ in their encoder alone.

A window begins at each token, and what reaches beyond the last token is zeros. So a row shorter
than a filter has windows too, and padding on the right changes nothing. It must be on the right.

Legend: B rows, S positions, E embedding width, F filters of one width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from nlpapp.errors import ConfigError
from nlpapp.models.classifiers import label_options
from nlpapp.models.sentence_classifier import (
    SentenceClassifier,
    SentenceClassifierConfig,
    check_positive,
)


@dataclass(frozen=True, kw_only=True)
class TextCnnSizeConfig:
    """The size of a TextCNN; the defaults are those of Kim 2014."""

    embedding_size: int = 300
    """Width of the word embeddings."""
    filters: int = 100
    """Filters of each width."""
    filter_widths: list[int] = field(default_factory=lambda: [3, 4, 5])
    """Tokens that a filter sees at once."""
    classifier_size: int = 200
    """Width of the ReLU layer before the labels."""
    dropout: float = 0.5
    """Dropout of the embeddings, the sentence vector and the ReLU layer."""


class TextCnnConfig(SentenceClassifierConfig):
    """Sizes of a `TextCnnForSequenceClassification`; the defaults are Kim's."""

    model_type = "text_cnn"

    def __init__(
        self,
        *,
        filters: int = 100,
        filter_widths: Sequence[int] = (3, 4, 5),
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Describe a model.

        Args:
            filters: filters of each width, F.
            filter_widths: tokens that a filter sees at once.
            dropout: rate on the embeddings, the sentence vector and the ReLU layer.
            **kwargs: see `SentenceClassifierConfig`.

        Raises:
            ConfigError: a size that is not positive, or no filter.
        """
        check_positive("filters", filters)
        if not filter_widths:
            raise ConfigError("filter_widths is empty; Kim's are [3, 4, 5].")
        for width in filter_widths:
            check_positive("a filter width", width)
        self.filters = filters
        self.filter_widths = list(filter_widths)
        super().__init__(dropout=dropout, **kwargs)


class TextCnnEncoder(nn.Module):
    """Token ids to one vector a row, of F values for each filter width."""

    def __init__(self, config: TextCnnConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.dropout = nn.Dropout(config.dropout)
        self.widths = config.filter_widths
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.filters, width)
            for width in config.filter_widths
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (B, F x widths) vectors of (B, S) ids; an empty row is read as one of zeros."""
        embedded = self.dropout(self.embeddings(input_ids)) * attention_mask[:, :, None]
        columns = embedded.transpose(1, 2)  # (B, E, S)
        lengths = attention_mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
        outside = torch.arange(input_ids.shape[1], device=input_ids.device)[None] >= lengths
        found = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            values = convolution(nn.functional.pad(columns, (0, width - 1)))  # (B, F, S)
            lowest = torch.finfo(values.dtype).min
            found.append(values.masked_fill(outside[:, None], lowest).amax(2))
        return torch.relu(torch.cat(found, dim=1))


class TextCnnForSequenceClassification(SentenceClassifier):
    """A TextCNN encoder under a two-layer classifier; with one label it is a regression."""

    config_class = TextCnnConfig

    def __init__(self, config: TextCnnConfig) -> None:
        super().__init__(config, TextCnnEncoder(config), config.filters * len(config.filter_widths))


def build_text_cnn(
    size: TextCnnSizeConfig,
    *,
    vocab_size: int,
    pad_token_id: int,
    label_names: Sequence[str],
    siamese: bool = False,
) -> TextCnnForSequenceClassification:
    """Return a TextCNN to train; the arguments are those of `models.bilstm.build_bilstm`."""
    config = TextCnnConfig(
        **asdict(size),
        vocab_size=vocab_size,
        siamese=siamese,
        pad_token_id=pad_token_id,
        **label_options(label_names),
    )
    return TextCnnForSequenceClassification(config)


AutoConfig.register(TextCnnConfig.model_type, TextCnnConfig)
AutoModelForSequenceClassification.register(TextCnnConfig, TextCnnForSequenceClassification)
