"""What attention did: weights, queries and keys of every layer and head for one text.

For BERT and its kin the score of query i for key j is

    A_ij = q_i . k_j / sqrt(H)

and for the Transformer-XL, with u, v and R as in `transformer_xl`,

    A_ij = ((q_i + u) . k_j  +  (q_i + v) . W_kR R_(i-j)) / sqrt(H)        for j <= i

The weights are the softmax of A over j.

Legend: L = layers, N = heads, T = queries (tokens of the text), M = memory positions, K = M + T
(keys), H = width of a head.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModel,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.features import load_encoder
from nlpapp.models.initial_attention import apply_initial_attention
from nlpapp.models.relative_attention import RelativeAttention, relative_shift
from nlpapp.models.transformer_xl import Memory, TransformerXLLMHeadModel

logger = logging.getLogger("nlpapp")

SEGMENT = 512
"""Tokens of earlier text that are read at once: bounds the memory that attention needs."""

RECORDED = "nlpapp_recorded"
"""Our name among transformers' attention functions."""


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """Attention of one text, float32; queries and keys are None if the model gives only weights."""

    weights: np.ndarray
    """(L, N, T, K); each row sums to 1."""
    scales: np.ndarray | None = None
    """(L,): what products are multiplied by, 1/sqrt(H)."""
    queries: np.ndarray | None = None
    """(L, N, T, H); of a Transformer-XL q + u."""
    keys: np.ndarray | None = None
    """(L, N, K, H)"""
    position_queries: np.ndarray | None = None
    """(L, N, T, H): q + v; of a Transformer-XL only."""
    position_keys: np.ndarray | None = None
    """(L, N, K, H): the projected sinusoids of the distances 0 ... K-1; Transformer-XL only."""


@dataclass(frozen=True)
class _Call:
    """One attention layer's call, for the one text of the batch."""

    weights: Tensor
    scale: float
    query: Tensor
    key: Tensor
    position_query: Tensor | None = None
    position_key: Tensor | None = None


_calls: ContextVar[list[_Call]] = ContextVar("attention calls")


def _recorded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend as transformers' eager functions do, and keep what was computed."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scale
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    _calls.get().append(_Call(weights[0], scale, query[0], key[0]))
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(RECORDED, _recorded_attention)
AttentionMaskInterface.register(RECORDED, eager_mask)


def open_encoder(
    folder: str | Path | None, *, size: BertSizeConfig, vocab_size: int
) -> PreTrainedModel:
    """Return the encoder in ``folder``, or without one a random BERT, to try a command out.

    Args:
        folder: a model folder.
        size: of the random BERT; its weights come from torch's generator.
        vocab_size: entries of its tokenizer.

    Raises:
        CheckpointError: the folder is damaged, or holds no transformer encoder.
    """
    if folder is not None:
        return load_encoder(folder)
    logger.warning("no model is given: a BERT with random weights attends")
    config = bert_config(size, vocab_size=vocab_size)
    return apply_initial_attention(AutoModel.from_config(config)).eval()


@torch.inference_mode()
def encoder_attention(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> AttentionMaps:
    """Return the attention of an encoder in evaluation mode for one text without padding.

    Queries and keys are there for the architectures that use transformers' attention interface
    (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and others). Where scores have more terms than
    theirs, as in DeBERTa and MPNet, only the weights are.

    Args:
        model: without a head; it is left as it was.
        inputs: what a tokenizer gives, each (1, T); what the model does not read is left out.

    Raises:
        CheckpointError: the model tells nothing about its attention.
    """
    config: Any = model.config
    accepted = set(inspect.signature(model.forward).parameters)
    if getattr(config, "type_vocab_size", 0) < 2:
        accepted.discard("token_type_ids")  # a RoBERTa has one type, a DistilBERT none
    read = {name: values for name, values in inputs.items() if name in accepted}
    before = config._attn_implementation
    model.set_attn_implementation(RECORDED)
    token = _calls.set([])
    try:
        output = model(**read, output_attentions=True)
        calls = _calls.get()
    finally:
        _calls.reset(token)
        model.set_attn_implementation(before)
    if calls and all(call.key.shape == call.query.shape for call in calls):
        return _maps(calls)
    found = getattr(output, "attentions", None) or ()
    # Long-document models give weights for a window of keys instead of all.
    length = inputs["input_ids"].shape[1]
    shape = (1, int(getattr(config, "num_attention_heads", 0)), length, length)
    if not found or any(weights.shape != shape for weights in found):
        raise CheckpointError(
            f"a '{config.model_type}' does not tell where its attention goes; expected BERT, "
            "RoBERTa, DistilBERT, ELECTRA, ALBERT, DeBERTa, MPNet, another transformer encoder, "
            "or a Transformer-XL."
        )
    return AttentionMaps(weights=torch.cat(found).float().cpu().numpy())


@torch.inference_mode()
def transformer_xl_attention(
    model: TransformerXLLMHeadModel,
    ids: Sequence[int],
    *,
    context: Sequence[int] = (),
    mem_len: int | None = None,
) -> AttentionMaps:
    """Return the attention of a Transformer-XL in evaluation mode for one segment of text.

    Args:
        model: a language model.
        ids: the T tokens of the segment.
        context: the tokens before it, which fill the memory.
        mem_len: positions of memory; None: the model's own.

    Returns:
        Maps whose first M keys are the last M tokens of ``context``.
    """
    transformer = model.transformer
    device = next(model.parameters()).device
    memory: Memory | None = None
    for start in range(0, len(context), SEGMENT):
        segment = torch.tensor([list(context[start : start + SEGMENT])], device=device)
        memory = transformer(segment, memory=memory, mem_len=mem_len).memory
    calls: list[_Call] = []
    handles = [
        module.register_forward_pre_hook(
            lambda attention, inputs: calls.append(_relative_call(attention, *inputs))
        )
        for module in transformer.modules()
        if isinstance(module, RelativeAttention)
    ]
    try:
        transformer(torch.tensor([list(ids)], device=device), memory=memory, mem_len=mem_len)
    finally:
        for handle in handles:
            handle.remove()
    return _maps(calls)


def _relative_call(
    attention: RelativeAttention,
    segment: Tensor,
    memory: Tensor | None,
    positions: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor,
) -> _Call:
    """Compute again what ``attention`` computes inside: it returns only its output."""
    projected = attention.projections(segment, memory, positions)
    query, key = projected[0][:, 0], projected[1][0, :, 0]  # (N, T, H), (N, K, H)
    distance = projected[2]  # (N, K, H), of distances K-1 ... 0
    content = (query + u) @ key.transpose(-1, -2)  # (N, T, K)
    position = relative_shift((query + v) @ distance.transpose(-1, -2))
    scale = attention.head_width**-0.5
    weights = ((content + position) * scale + mask).softmax(-1)
    return _Call(weights, scale, query + u, key, query + v, distance.flip(1))


def _maps(calls: Sequence[_Call]) -> AttentionMaps:
    def stacked(name: str) -> np.ndarray | None:
        parts = [getattr(call, name) for call in calls]
        if any(part is None for part in parts):
            return None
        return torch.stack(parts).float().cpu().numpy()

    weights = stacked("weights")
    assert weights is not None
    return AttentionMaps(
        weights=weights,
        scales=np.array([call.scale for call in calls], np.float32),
        queries=stacked("query"),
        keys=stacked("key"),
        position_queries=stacked("position_query"),
        position_keys=stacked("position_key"),
    )


def chosen_layers(layers: Sequence[int] | None, num_layers: int) -> list[int]:
    """Return which layers to show, ascending and counted from 0; None: all.

    Negative numbers count from the last layer, -1.

    Raises:
        ConfigError: none is given, or one that the model does not have.
    """
    if layers is None:
        return list(range(num_layers))
    absent = [layer for layer in layers if not -num_layers <= layer < num_layers]
    if absent or not layers:
        raise ConfigError(
            f"layers: {list(layers)} is not possible; the model has the layers 0 to "
            f"{num_layers - 1} (or {-num_layers} to -1, counted from the last)."
        )
    return sorted({layer % num_layers for layer in layers})
