"""Sizes of BERTs that start from random weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import BertConfig

from nlpapp.errors import ConfigError, nearest
from nlpapp.models.pretrained import FINGERPRINT

SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
"""name -> (layers, hidden size, heads): Turc et al. 2019 (arXiv 1908.08962), Devlin et al. 2018."""
SHAPE = ("num_layers", "hidden_size", "num_heads")
DEFAULT_SIZE = "mini"
OPTIONS = ("max_position_embeddings", "dropout", "initializer_range")
NOT_A_SIZE = {"architectures", "dtype", "torch_dtype", "transformers_version", FINGERPRINT}
"""What a config.json says of the weights it was saved with, not of the model."""


@dataclass(frozen=True, kw_only=True)
class BertSizeConfig:
    """The size of a BERT that starts from random weights: a name, numbers, or a config.json."""

    name: str | None = None
    """tiny (2 layers, 128 wide), mini (4, 256), small (4, 512), medium (8, 512), base or large."""
    config: str | None = None
    """A BERT's config.json, or its folder: the model is built as it says."""
    num_layers: int | None = None
    """Transformer layers; mini's 4 where no name is given."""
    hidden_size: int | None = None
    """Width of the hidden states, mini's 256 where no name is given; the feed-forward layers are
    four times as wide."""
    num_heads: int | None = None
    """Attention heads, mini's 4 where no name is given; they divide the hidden size."""
    max_position_embeddings: int | None = None
    """The longest sequence the model can read, in tokens; 512 where it is not given."""
    dropout: float | None = None
    """Dropout of hidden states and attention; 0.1 where it is not given."""
    initializer_range: float | None = None
    """Standard deviation of random weights, 0.02 where it is not given; narrow models learn faster
    near 1/sqrt(hidden_size)."""
    similarity_start: bool = False
    """Start with keys equal to queries and halved positions, so that tokens attend to similar ones
    from the first step: next-sentence prediction is then learned from far less text."""
    neighbour_start: bool = False
    """Start with sinusoidal positions and a first layer whose heads look at the tokens beside their
    own: masked tokens are then learned from far less text."""

    def __post_init__(self) -> None:
        if self.config is not None:
            self._refuse_beside("config", {"name", *SHAPE, *OPTIONS})
            return
        if self.name is not None:
            if self.name not in SIZES:
                raise ConfigError(
                    f"size.name is '{self.name}'; expected {', '.join(SIZES)}."
                    + nearest(self.name, SIZES)
                )
            self._refuse_beside("name", set(SHAPE))
        for key in (*SHAPE, "max_position_embeddings"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"size.{key} is {value}; it must be at least 1")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"size.dropout is {self.dropout}; it must be in [0, 1)")
        _, hidden_size, num_heads = self.shape()
        if hidden_size % num_heads:
            raise ConfigError(
                f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}"
            )

    def _refuse_beside(self, key: str, others: set[str]) -> None:
        given = sorted(other for other in others if getattr(self, other) is not None)
        if given:
            raise ConfigError(
                f"size.{key} is '{getattr(self, key)}', which decides size.{', size.'.join(given)} "
                f"as well; give size.{key} alone, or leave it out and give numbers"
            )

    def shape(self) -> tuple[int, int, int]:
        """Return (layers, hidden size, heads)."""
        named = SIZES[self.name or DEFAULT_SIZE]
        given = (self.num_layers, self.hidden_size, self.num_heads)
        layers, hidden, heads = (
            default if number is None else number
            for number, default in zip(given, named, strict=True)
        )
        return layers, hidden, heads


def bert_config(size: BertSizeConfig, *, vocab_size: int, pad_token_id: int = 0) -> BertConfig:
    """Return transformers' configuration for ``size``.

    Args:
        size: what was asked for.
        vocab_size: entries of the tokenizer; a config.json may have more rows, but not fewer.
        pad_token_id: of the tokenizer.

    Raises:
        ConfigError: ``size.config`` cannot be read, is of another architecture, or has a
            vocabulary that is too small.
    """
    if size.config is not None:
        config = _read_bert_config(Path(size.config), vocab_size)
        config.pad_token_id = pad_token_id
    else:
        layers, hidden_size, heads = size.shape()
        options: dict[str, Any] = {
            "max_position_embeddings": size.max_position_embeddings,
            "hidden_dropout_prob": size.dropout,
            "attention_probs_dropout_prob": size.dropout,
            "initializer_range": size.initializer_range,
        }
        config = BertConfig(
            vocab_size=vocab_size,
            pad_token_id=pad_token_id,
            num_hidden_layers=layers,
            hidden_size=hidden_size,
            num_attention_heads=heads,
            intermediate_size=4 * hidden_size,
            # Those that are left out have the original BERT's values in transformers too.
            **{name: value for name, value in options.items() if value is not None},
        )
    config.similarity_start = size.similarity_start
    config.neighbour_start = size.neighbour_start
    return config


def _read_bert_config(path: Path, vocab_size: int) -> BertConfig:
    file = path / "config.json" if path.is_dir() else path
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"size.config: cannot read {file}: {error}; give the config.json of a BERT, "
            "or the folder that it is in"
        ) from error
    kind = settings.get("model_type", "bert")  # The original BERT's files do not say it.
    if kind != "bert":
        raise ConfigError(f"size.config: {file} describes a '{kind}'; expected a BERT")
    config = BertConfig(**{key: value for key, value in settings.items() if key not in NOT_A_SIZE})
    if config.vocab_size < vocab_size:
        raise ConfigError(
            f"size.config: {file} has a vocabulary of {config.vocab_size}, but the tokenizer has "
            f"{vocab_size} entries; raise vocab_size in the file, or use another tokenizer"
        )
    return config
