"""Transformer-XL: a language model that remembers the segments before the one it reads.

Source: Dai et al. 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context"
(arXiv 1901.02860); `relative_attention` has its attention.

Deviations from the authors' code (kimiyoung/transformer-xl):
- batch first: ids are (B, T), memories (B, M, D);
- queries are computed for the segment only, not for the memory;
- one memory per layer (its input); the last layer's output, which nothing reads, is not kept;
- the tails' entries in the head of the softmax are in the tails' order (there in reverse).

Where the defaults deviate, an option has what theirs does: ``final_norm`` (they have none with
``pre_norm``), ``project_all_clusters`` and ``tie_projections``.

Weights at the start (as theirs; a test measures them):

    parameter                              distribution
    linear layers, u, v, word vectors      normal(0, initializer_range = 0.02)
    tails' entries of the adaptive head    normal(0, initializer_range)
    projections of the tails' vectors      normal(0, projection_initializer_range = 0.01)
    LayerNorm weight                       normal(1, initializer_range)
    projections of the softmax's own       the same
    biases                                 0

Legend: B = batch (lanes), T = segment length, M = memory length, K = M + T (keys), D = hidden
width, N = heads, H = width of a head, L = layers, V = vocabulary.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import ModelOutput

from nlpapp.errors import ConfigError, nearest
from nlpapp.models.adaptive_softmax import (
    AdaptiveSoftmax,
    AdaptiveTables,
    ClusterTable,
    check_cutoffs,
)
from nlpapp.models.dropout import Dropout
from nlpapp.models.feed_forward import feed_forward
from nlpapp.models.relative_attention import AbsoluteAttention, RelativeAttention, visible_keys

Memory = tuple[Tensor, ...]
"""The last M inputs of each layer: a (B, M, D) tensor a layer, without gradient."""

IGNORED_LABEL = -100


class TransformerXLConfig(PretrainedConfig):
    """Sizes and options of a Transformer-XL.

    Args:
        vocab_size: entries of the vocabulary, sorted by frequency if ``cutoffs`` are given.
        hidden_size: D, even; a multiple of ``num_attention_heads`` unless ``head_dim`` is given.
        num_hidden_layers: number of layers.
        num_attention_heads: N.
        intermediate_size: width of the feed-forward layers.
        head_dim: H; None: D / N.
        mem_len: positions of memory while training, and elsewhere unless told otherwise; 0: none.
        clamp_len: distances beyond it count as it; None: no limit.
        same_length: a token sees ``mem_len`` positions, itself included, wherever in its segment
            it stands, and not also those between the memory and itself; no limit with mem_len 0.
        position_embedding_type: "relative", or "absolute": sinusoids of the distance to the
            segment's end are added to the word vectors, and there can be no memory (the baseline
            of the paper's table 6).
        biases_per_layer: each layer has its own u and v, instead of one pair for all.
        cutoffs: sizes of the vocabulary's most frequent parts (adaptive softmax); empty: none.
        div_val: tail i has vectors of width E / div_val^i; 1 to 4.
        embedding_size: E; None: D.
        project_all_clusters: with a div_val over 1, also the most frequent words' vectors have a
            projection where E is D.
        tie_projections: for each cluster, whether the softmax uses the embedding's projection;
            None: all. Only where ``tie_word_embeddings``.
        dropout: rate after embeddings, positions, attention and feed-forward layers.
        attention_dropout: rate on the attention weights.
        pre_norm: LayerNorm before each sublayer instead of after it.
        final_norm: a LayerNorm follows the last layer; None: as ``pre_norm``.
        tie_word_embeddings: the softmax uses the vectors and projections of the embedding.
        initializer_range: standard deviation of the weights at the start.
        projection_initializer_range: the same for the projections of the tails' vectors.

    Raises:
        ConfigError: values that do not fit together; the message names them.
    """

    model_type = "transformer_xl"

    def __init__(
        self,
        *,
        vocab_size: int = 10000,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        intermediate_size: int = 1024,
        head_dim: int | None = None,
        mem_len: int = 64,
        clamp_len: int | None = None,
        same_length: bool = False,
        position_embedding_type: str = "relative",
        biases_per_layer: bool = False,
        cutoffs: list[int] | tuple[int, ...] = (),
        div_val: int = 1,
        embedding_size: int | None = None,
        project_all_clusters: bool = False,
        tie_projections: list[bool] | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        pre_norm: bool = False,
        final_norm: bool | None = None,
        tie_word_embeddings: bool = True,
        initializer_range: float = 0.02,
        projection_initializer_range: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.head_dim = head_dim or hidden_size // max(num_attention_heads, 1)
        self.mem_len = mem_len
        self.clamp_len = clamp_len
        self.same_length = same_length
        self.position_embedding_type = position_embedding_type
        self.biases_per_layer = biases_per_layer
        self.cutoffs = list(cutoffs)
        self.div_val = div_val
        self.embedding_size = embedding_size or hidden_size
        self.project_all_clusters = project_all_clusters
        self.tie_projections = tie_projections
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.pre_norm = pre_norm
        self.final_norm = pre_norm if final_norm is None else final_norm
        self.initializer_range = initializer_range
        self.projection_initializer_range = projection_initializer_range
        self._check(own_head_width=head_dim is not None)
        super().__init__(**kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        if tie_projections is not None and not tie_word_embeddings:
            raise ConfigError(
                "tie_projections: without tie_word_embeddings the softmax has vectors and "
                "projections of its own; leave tie_projections out."
            )

    def _check(self, *, own_head_width: bool) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "head_dim",
            "embedding_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not possible; it must be at least 1."
                )
        divides = own_head_width or self.hidden_size % self.num_attention_heads == 0
        if self.hidden_size % 2 or not divides:
            raise ConfigError(
                f"hidden_size: {self.hidden_size} must be even and a multiple of the number of "
                f"attention heads, {self.num_attention_heads}; or give head_dim."
            )
        check_mem_len(self.mem_len)
        if self.position_embedding_type not in ("relative", "absolute"):
            hint = nearest(self.position_embedding_type, ("relative", "absolute"))
            raise ConfigError(
                f"position_embedding_type: '{self.position_embedding_type}' is neither 'relative' "
                f"nor 'absolute'.{hint}"
            )
        if self.position_embedding_type == "absolute":
            check_no_memory(self.mem_len)
        if self.clamp_len is not None and self.clamp_len < 1:
            raise ConfigError(
                f"clamp_len: {self.clamp_len} would make all distances equal; give at least 1, "
                "or leave it out for no limit."
            )
        if not 1 <= self.div_val <= 4:
            raise ConfigError(f"div_val: {self.div_val} must be 1, 2, 3 or 4.")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is not a rate between 0 and 1.")
        check_cutoffs(self.cutoffs, self.vocab_size)


def check_mem_len(mem_len: int) -> None:
    """Raise ConfigError if ``mem_len`` is negative."""
    if mem_len < 0:
        raise ConfigError(
            f"mem_len: {mem_len} is negative; give 0 for no memory, or how many positions."
        )


def check_no_memory(mem_len: int) -> None:
    """Raise ConfigError unless ``mem_len`` is 0, as absolute positions need it."""
    if mem_len:
        raise ConfigError(
            f"mem_len: {mem_len} positions of memory would have the same absolute positions as "
            "the segment; give 0, or position_embedding_type 'relative'."
        )


@dataclass
class TransformerXLOutput(ModelOutput):
    """What both models return; fields that do not apply are None."""

    loss: Tensor | None = None
    """Scalar: mean loss of the predicted tokens, in nats."""
    loss_sum: Tensor | None = None
    """Scalar: sum of their losses, in nats; labels of -100 are not predicted."""
    logits: Tensor | None = None
    """(B, T, V) log-probabilities; only without labels."""
    last_hidden_state: Tensor | None = None
    """(B, T, D)"""
    memory: Memory | None = None
    """For the next segment: (B, M, D) a layer; empty with mem_len 0."""


def sinusoids(length: int, width: int, clamp_len: int | None, like: Tensor) -> Tensor:
    """Return R of the distances length-1, ..., 1, 0, with the type of ``like``: (length, width).

    Distances beyond ``clamp_len`` get the vector of ``clamp_len``.
    """
    distances = torch.arange(length - 1, -1, -1, device=like.device, dtype=torch.float32)
    if clamp_len is not None:
        distances = distances.clamp(max=clamp_len)
    exponents = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angles = distances[:, None] * torch.pow(10000.0, -exponents)  # (length, width / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)


class TransformerXLLayer(nn.Module):
    """Attention and a feed-forward layer, each with dropout, a residual and LayerNorm."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.pre_norm = config.pre_norm
        absolute = config.position_embedding_type == "absolute"
        self.attention = (AbsoluteAttention if absolute else RelativeAttention)(
            width, config.num_attention_heads, config.head_dim, config.attention_dropout
        )
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        rate = self.dropout.p if self.training else 0.0
        return self.dropout(feed_forward(hidden, self.feed_forward_in, self.feed_forward_out, rate))

    def forward(self, hidden: Tensor, memory: Tensor | None, *attention_inputs: Tensor) -> Tensor:
        """Return the output for ``hidden`` (B, T, D) after ``memory`` (B, M, D): (B, T, D).

        ``attention_inputs`` is what else `RelativeAttention` takes; nothing for absolute positions.
        """
        segment = hidden
        if self.pre_norm:
            segment = self.attention_norm(hidden)
            memory = None if memory is None else self.attention_norm(memory)
        if attention_inputs:
            attended = self.attention(segment, memory, *attention_inputs)
        else:
            attended = self.attention(segment)
        hidden = hidden + self.dropout(attended)
        if self.pre_norm:
            return hidden + self._feed_forward(self.feed_forward_norm(hidden))
        hidden = self.attention_norm(hidden)
        return self.feed_forward_norm(hidden + self._feed_forward(hidden))


def word_tables(config: TransformerXLConfig) -> AdaptiveTables:
    """Return vectors of the vocabulary, for the embedding or the softmax."""
    return AdaptiveTables(
        config.vocab_size,
        config.hidden_size,
        config.cutoffs,
        config.div_val,
        embedding_width=config.embedding_size,
        project_all=config.project_all_clusters,
    )


class TransformerXLPreTrainedModel(PreTrainedModel):
    """The weights' distributions, and saving and loading."""

    config_class = TransformerXLConfig
    base_model_prefix = "transformer"

    def get_input_embeddings(self) -> nn.Module:
        """Return what turns ids into vectors."""
        return cast(nn.Module, self.base_model.embedding)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.normal_(module.weight, mean=1.0, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, ClusterTable):
            init.normal_(module.weight, std=std)
            if module.projection is not None:
                init.normal_(module.projection, std=self.config.projection_initializer_range)
        elif isinstance(module, AdaptiveSoftmax):
            init.normal_(module.tail_weight, std=std)
            init.zeros_(module.tail_bias)
            init.zeros_(module.bias)
            for projection in module.projections.values():
                init.normal_(projection, std=self.config.projection_initializer_range)
        elif isinstance(module, TransformerXLModel):
            for bias in (module.content_bias, module.position_bias):
                if bias is not None:
                    init.normal_(bias, std=std)


class TransformerXLModel(TransformerXLPreTrainedModel):
    """Ids and memory to hidden vectors and the next memory."""

    _keys_to_ignore_on_load_unexpected = ["^softmax", "^output_tables"]  # of the language model

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        self.embedding = word_tables(config)
        layers = [config.num_hidden_layers] if config.biases_per_layer else []
        shape = [*layers, config.num_attention_heads, 1, config.head_dim]
        relative = config.position_embedding_type == "relative"
        self.content_bias = nn.Parameter(torch.empty(shape)) if relative else None  # u
        self.position_bias = nn.Parameter(torch.empty(shape)) if relative else None  # v
        self.layers = nn.ModuleList(
            TransformerXLLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size) if config.final_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.post_init()

    def forward(
        self, input_ids: Tensor, memory: Memory | None = None, mem_len: int | None = None
    ) -> TransformerXLOutput:
        """Read one segment.

        Args:
            input_ids: (B, T), the text that follows what ``memory`` was made from.
            memory: what the previous segment's call returned; None or empty at a text's start.
            mem_len: positions to remember after this segment; None: the config's.

        Returns:
            ``last_hidden_state`` (B, T, D) and ``memory``.
        """
        config = self.config
        mem_len = config.mem_len if mem_len is None else mem_len
        # The authors' scale: vectors of standard deviation 0.02 would vanish beside the residuals.
        hidden = self.embedding(input_ids) * config.hidden_size**0.5
        num_queries = input_ids.shape[1]
        num_keys = num_queries + (memory[0].shape[1] if memory else 0)
        positions = sinusoids(num_keys, config.hidden_size, config.clamp_len, like=hidden)
        if self.content_bias is None:
            check_no_memory(mem_len)
            hidden = hidden + positions
        hidden = self.dropout(hidden)
        positions = self.dropout(positions)
        window = mem_len if config.same_length and mem_len else None
        mask = visible_keys(num_queries, num_keys, window, like=hidden)
        remembered = []
        for index, layer in enumerate(self.layers):
            old = memory[index] if memory else None
            if mem_len:
                remembered.append(next_memory(old, hidden, mem_len))
            biases = self.biases(index)
            hidden = layer(hidden, old, *((positions, *biases, mask) if biases else ()))
        return TransformerXLOutput(
            last_hidden_state=self.dropout(self.final_norm(hidden)), memory=tuple(remembered)
        )

    def biases(self, layer: int) -> tuple[Tensor, ...]:
        """Return u and v of ``layer``, (N, 1, H) each; nothing with absolute positions."""
        if self.content_bias is None or self.position_bias is None:
            return ()
        biases = (self.content_bias, self.position_bias)
        return tuple(bias[layer] for bias in biases) if self.config.biases_per_layer else biases


def next_memory(memory: Tensor | None, hidden: Tensor, mem_len: int) -> Tensor:
    """Return the last ``mem_len`` vectors of ``memory`` and ``hidden``, (B, M, D) and (B, T, D).

    A copy without gradient, so that neither the graph nor longer tensors stay alive with it.
    """
    hidden = hidden.detach()
    if memory is not None and hidden.shape[1] < mem_len:
        hidden = torch.cat([memory.detach(), hidden], dim=1)
    return hidden[:, -mem_len:].clone()


class TransformerXLLMHeadModel(TransformerXLPreTrainedModel):
    """Transformer-XL with an adaptive softmax that predicts the next token."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        self.transformer = TransformerXLModel(config)
        self.output_tables = None if config.tie_word_embeddings else word_tables(config)
        self.softmax = AdaptiveSoftmax(self.transformer.embedding, config.tie_projections)
        self.post_init()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: when tied, the softmax is handed the embedding's tables in each call."""

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """Return None: FSDP would gather the embedding by itself, and the softmax may share it."""

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        memory: Memory | None = None,
        mem_len: int | None = None,
        logits_to_keep: int = 0,
    ) -> TransformerXLOutput:
        """Read one segment; predict each next token.

        Args:
            input_ids: (B, T).
            labels: (B, T), the token after each of ``input_ids``; -100: not predicted.
            memory: what the previous segment's call returned; None or empty at a text's start.
            mem_len: positions to remember after this segment; None: the config's.
            logits_to_keep: without labels, compute only the last so many log-probabilities; 0: all.

        Returns:
            ``memory``, and with labels ``loss`` and ``loss_sum``, without them ``logits``.
        """
        output = self.transformer(input_ids, memory=memory, mem_len=mem_len)
        tables = self.transformer.embedding if self.output_tables is None else self.output_tables
        hidden = output.last_hidden_state
        if labels is None:
            kept = hidden[:, -logits_to_keep:]  # -0 keeps all
            logits = self.softmax.log_probabilities(kept.flatten(0, 1), tables)
            return TransformerXLOutput(
                logits=logits.unflatten(0, kept.shape[:2]),
                last_hidden_state=hidden,
                memory=output.memory,
            )
        predicted = labels != IGNORED_LABEL
        loss_sum = self.softmax.loss_sum(hidden[predicted], labels[predicted], tables)
        return TransformerXLOutput(
            loss=loss_sum / predicted.sum(),
            loss_sum=loss_sum,
            last_hidden_state=hidden,
            memory=output.memory,
        )


AutoConfig.register(TransformerXLConfig.model_type, TransformerXLConfig, exist_ok=True)
AutoModel.register(TransformerXLConfig, TransformerXLModel, exist_ok=True)
AutoModelForCausalLM.register(TransformerXLConfig, TransformerXLLMHeadModel, exist_ok=True)
