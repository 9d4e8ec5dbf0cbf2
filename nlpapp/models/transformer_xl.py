"""Transformer-XL: a language model that remembers the segments before the one it reads.

Source: Dai et al. 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context"
(arXiv 1901.02860). The score of query i for key j, of one attention head (section 3.3 of the
paper):

    A_ij = ((q_i + u) . k_j  +  (q_i + v) . W_kR R_(i-j)) / sqrt(H)        for j <= i

with q = W_q h, k = W_k h, and R the sinusoids of Vaswani et al. 2017 of the distance i - j >= 0.

Deviations from the authors' code (kimiyoung/transformer-xl):
- batch first: ids are (B, T), memories (B, M, D);
- queries are computed for the segment only, not for the memory;
- one memory per layer (its input); the last layer's output, which nothing reads, is not kept;
- with ``pre_norm`` a LayerNorm follows the last layer (there it has none);
- the head's vectors of the adaptive softmax have no projection of their own.

Weights at the start (as theirs; a test measures them):

    parameter                              distribution
    linear layers, u, v, word vectors      normal(0, initializer_range = 0.02)
    tails' entries of the adaptive head    normal(0, initializer_range)
    projections of the tails' vectors      normal(0, projection_initializer_range = 0.01)
    LayerNorm weight                       normal(1, initializer_range)
    biases                                 0

Legend: B = batch (lanes), T = segment length, M = memory length, K = M + T (keys), D = hidden
width, N = heads, H = width of a head, V = vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
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

from nlpapp.errors import ConfigError
from nlpapp.models.adaptive_softmax import (
    AdaptiveSoftmax,
    AdaptiveTables,
    ClusterTable,
    check_cutoffs,
)

Memory = tuple[Tensor, ...]
"""The last M inputs of each layer: a (B, M, D) tensor a layer, without gradient."""

IGNORED_LABEL = -100


class TransformerXLConfig(PretrainedConfig):
    """Sizes and options of a Transformer-XL.

    Args:
        vocab_size: entries of the vocabulary, sorted by frequency if ``cutoffs`` are given.
        hidden_size: D; a multiple of ``num_attention_heads``.
        num_hidden_layers: number of layers.
        num_attention_heads: N.
        intermediate_size: width of the feed-forward layers.
        mem_len: positions of memory while training, and elsewhere unless told otherwise; 0: none.
        clamp_len: distances beyond it count as it; None: no limit.
        cutoffs: sizes of the vocabulary's most frequent parts (adaptive softmax); empty: none.
        div_val: tail i has vectors of width D / div_val^i; 1 to 4.
        dropout: rate after embeddings, positions, attention and feed-forward layers.
        attention_dropout: rate on the attention weights.
        pre_norm: LayerNorm before each sublayer instead of after it.
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
        mem_len: int = 64,
        clamp_len: int | None = None,
        cutoffs: list[int] | tuple[int, ...] = (),
        div_val: int = 1,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        pre_norm: bool = False,
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
        self.mem_len = mem_len
        self.clamp_len = clamp_len
        self.cutoffs = list(cutoffs)
        self.div_val = div_val
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.pre_norm = pre_norm
        self.initializer_range = initializer_range
        self.projection_initializer_range = projection_initializer_range
        self._check()
        super().__init__(**kwargs)
        self.tie_word_embeddings = tie_word_embeddings

    def _check(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not possible; it must be at least 1."
                )
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ConfigError(
                f"hidden_size: {self.hidden_size} must be even and a multiple of the number of "
                f"attention heads, {self.num_attention_heads}."
            )
        check_mem_len(self.mem_len)
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


def relative_shift(scores: Tensor) -> Tensor:
    """Turn columns of distances K-1 ... 0 into columns of keys 0 ... K-1; (..., T, K) both.

    The last query's columns are in place, each query before it has them one further left (appendix
    B of the paper). What is shifted in on the right belongs to the future, and is to be masked by
    the caller.
    """
    *batch, rows, columns = scores.shape
    padded = functional.pad(scores, (1, 0))  # (..., T, K + 1)
    return padded.view(*batch, columns + 1, rows)[..., 1:, :].reshape(*batch, rows, columns)


class RelativeAttention(nn.Module):
    """Multi-head attention from a segment to memory and segment, with relative positions."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_width = width // self.num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.position = nn.Linear(width, width, bias=False)  # W_kR
        self.output = nn.Linear(width, width, bias=False)
        self.attention_dropout = nn.Dropout(config.attention_dropout)

    def _heads(self, vectors: Tensor) -> Tensor:
        heads = vectors.unflatten(-1, (self.num_heads, self.head_width))  # (..., S, N, H)
        return heads.transpose(-3, -2)  # (..., N, S, H)

    def forward(
        self, segment: Tensor, context: Tensor, positions: Tensor, u: Tensor, v: Tensor
    ) -> Tensor:
        """Attend from ``segment`` (B, T, D) to ``context`` (B, K, D), whose last T vectors it is.

        ``positions`` (K, D) are the `sinusoids`, ``u`` and ``v`` (N, 1, H) the biases; (B, T, D).
        """
        query = self._heads(self.query(segment))  # (B, N, T, H)
        key, value = (self._heads(part) for part in self.key_value(context).chunk(2, dim=-1))
        distance = self._heads(self.position(positions))  # (N, K, H)
        content_scores = (query + u) @ key.transpose(-1, -2)  # (B, N, T, K)
        position_scores = relative_shift((query + v) @ distance.transpose(-1, -2))
        scores = (content_scores + position_scores) * self.head_width**-0.5
        future = future_mask(segment.shape[1], context.shape[1], segment.device)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        attended = self.attention_dropout(weights) @ value  # (B, N, T, H)
        return self.output(attended.transpose(1, 2).flatten(2))


def future_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Return (T, K) bool: True where a key is later than its query; queries are the last T keys."""
    everything = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return everything.triu(1 + num_keys - num_queries)


class TransformerXLLayer(nn.Module):
    """Attention and a feed-forward layer, each with dropout, a residual and LayerNorm."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.pre_norm = config.pre_norm
        self.attention = RelativeAttention(config)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(functional.relu(self.feed_forward_in(hidden)))
        return self.dropout(self.feed_forward_out(inner))

    def forward(
        self, hidden: Tensor, memory: Tensor | None, positions: Tensor, u: Tensor, v: Tensor
    ) -> Tensor:
        """Return the output for ``hidden`` (B, T, D) after ``memory`` (B, M, D): (B, T, D)."""
        context = hidden if memory is None else torch.cat([memory, hidden], dim=1)  # (B, K, D)
        segment = hidden
        if self.pre_norm:
            context = self.attention_norm(context)
            segment = context[:, -hidden.shape[1] :]
        hidden = hidden + self.dropout(self.attention(segment, context, positions, u, v))
        if self.pre_norm:
            return hidden + self._feed_forward(self.feed_forward_norm(hidden))
        hidden = self.attention_norm(hidden)
        return self.feed_forward_norm(hidden + self._feed_forward(hidden))


class TransformerXLPreTrainedModel(PreTrainedModel):
    """The weights' distributions, and saving and loading."""

    config_class = TransformerXLConfig
    base_model_prefix = "transformer"

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
        elif isinstance(module, TransformerXLModel):
            init.normal_(module.content_bias, std=std)
            init.normal_(module.position_bias, std=std)


class TransformerXLModel(TransformerXLPreTrainedModel):
    """Ids and memory to hidden vectors and the next memory."""

    _keys_to_ignore_on_load_unexpected = ["^softmax", "^output_tables"]  # of the language model

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        heads, width = config.num_attention_heads, config.hidden_size
        self.embedding = AdaptiveTables(config.vocab_size, width, config.cutoffs, config.div_val)
        self.content_bias = nn.Parameter(torch.empty(heads, 1, width // heads))  # u, for all layers
        self.position_bias = nn.Parameter(torch.empty(heads, 1, width // heads))  # v
        self.layers = nn.ModuleList(
            TransformerXLLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width) if config.pre_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
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
        mem_len = self.config.mem_len if mem_len is None else mem_len
        # The authors' scale: vectors of standard deviation 0.02 would vanish beside the residuals.
        hidden = self.dropout(self.embedding(input_ids) * self.config.hidden_size**0.5)
        num_keys = input_ids.shape[1] + (memory[0].shape[1] if memory else 0)
        positions = sinusoids(num_keys, self.config.hidden_size, self.config.clamp_len, like=hidden)
        positions = self.dropout(positions)
        remembered = []
        for index, layer in enumerate(self.layers):
            old = memory[index] if memory else None
            if mem_len:
                remembered.append(next_memory(old, hidden, mem_len))
            hidden = layer(hidden, old, positions, self.content_bias, self.position_bias)
        return TransformerXLOutput(
            last_hidden_state=self.dropout(self.final_norm(hidden)), memory=tuple(remembered)
        )


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
        self.softmax = AdaptiveSoftmax(config.vocab_size, config.hidden_size, config.cutoffs)
        self.output_tables = (
            None
            if config.tie_word_embeddings
            else AdaptiveTables(
                config.vocab_size, config.hidden_size, config.cutoffs, config.div_val
            )
        )
        self.post_init()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: when tied, the softmax is handed the embedding's tables in each call."""

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
        losses = self.softmax.losses(hidden[predicted], labels[predicted], tables)
        return TransformerXLOutput(
            loss=losses.mean(),
            loss_sum=losses.sum(),
            last_hidden_state=hidden,
            memory=output.memory,
        )


AutoConfig.register(TransformerXLConfig.model_type, TransformerXLConfig, exist_ok=True)
AutoModel.register(TransformerXLConfig, TransformerXLModel, exist_ok=True)
AutoModelForCausalLM.register(TransformerXLConfig, TransformerXLLMHeadModel, exist_ok=True)
