"""Language models as commands use them: the size of a new one, and loading one from a folder."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForCausalLM

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.pretrained import load_pretrained, model_fingerprint, read_config
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel


@dataclass(frozen=True, kw_only=True)
class TransformerXLSizeConfig:
    """The size of a Transformer-XL that starts from random weights."""

    num_layers: int = 4
    """Layers."""
    hidden_size: int = 256
    """Width of the hidden states; even, and a multiple of num_heads."""
    num_heads: int = 4
    """Attention heads."""
    inner_size: int = 1024
    """Width of the feed-forward layers."""
    mem_len: int = 64
    """Positions of memory of each layer, in tokens; 0: none."""
    clamp_len: int | None = None
    """Distances beyond it count as it, in tokens; absent: no limit."""
    same_length: bool = False
    """A token sees mem_len positions, itself included, wherever in its segment it stands."""
    absolute_positions: bool = False
    """The paper's baseline: absolute positions instead of relative ones; needs mem_len 0."""
    cutoffs: list[int] = field(default_factory=list)
    """Adaptive softmax: sizes of the vocabulary's most frequent parts, such as [2000, 10000];
    empty: ordinary softmax."""
    div_val: int = 1
    """Adaptive softmax: vectors of the i-th rarer part are div_val^i times narrower; 1 to 4."""
    dropout: float = 0.1
    """Dropout of embeddings, positions and sublayers."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights."""
    pre_norm: bool = False
    """LayerNorm before each sublayer instead of after it."""
    tie_embeddings: bool = True
    """The softmax uses the word vectors of the embedding."""
    initializer_range: float = 0.02
    """Standard deviation of the weights at the start: 0.02 as the authors have it; short runs of
    small models learn faster from about 1 / sqrt(hidden_size)."""


def transformer_xl_config(size: TransformerXLSizeConfig, *, vocab_size: int) -> TransformerXLConfig:
    """Return the model configuration for ``size``; ConfigError if values do not fit together."""
    return TransformerXLConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.inner_size,
        mem_len=size.mem_len,
        clamp_len=size.clamp_len,
        same_length=size.same_length,
        position_embedding_type="absolute" if size.absolute_positions else "relative",
        cutoffs=size.cutoffs,
        div_val=size.div_val,
        dropout=size.dropout,
        attention_dropout=size.attention_dropout,
        pre_norm=size.pre_norm,
        tie_word_embeddings=size.tie_embeddings,
        initializer_range=size.initializer_range,
        projection_initializer_range=size.initializer_range / 2,  # the authors' ratio
    )


def open_language_model(
    folder: str | Path | None, *, size: TransformerXLSizeConfig, vocab_size: int, fingerprint: str
) -> TransformerXLLMHeadModel:
    """Load a language model, or make one of ``size`` with random weights where no folder is given.

    Args:
        folder: a model folder that train-lm wrote, or None.
        size: of the random model.
        vocab_size: V, entries of the vocabulary that is to be used with the model.
        fingerprint: of that vocabulary.

    Raises:
        CheckpointError: the folder is damaged, or holds another kind of model.
        ConfigError: the model was trained with another vocabulary.
    """
    if folder is None:
        model = TransformerXLLMHeadModel(transformer_xl_config(size, vocab_size=vocab_size))
        for parameter in model.parameters():
            # Without cutoffs the tails' entries are empty: DDP would wait for their gradients.
            parameter.requires_grad_(parameter.numel() > 0)
        return model.eval()
    config = read_config(folder)
    kinds = [name for name in config.architectures or [] if "SequenceClassification" in name]
    if config.model_type != TransformerXLConfig.model_type or kinds:
        found = ", ".join(kinds) or config.model_type
        raise CheckpointError(
            f"{folder} holds a {found}, not a language model; train one with nlpapp train-lm."
        )
    model = load_pretrained(AutoModelForCausalLM, folder, complete=True)
    expected = model_fingerprint(model)
    if model.config.vocab_size != vocab_size or expected not in (None, fingerprint):
        raise ConfigError(
            f"{folder} was trained with another vocabulary ({model.config.vocab_size} entries, "
            f"fingerprint {str(expected)[:12]}) than the one given ({vocab_size} entries, "
            f"{fingerprint[:12]}): the same ids would mean different words. Use the model's own."
        )
    return model.eval()
