"""Sizes of BERTs that start from random weights."""

from dataclasses import dataclass

from transformers import BertConfig

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
