"""A Transformer-XL step as a graph: ids and memory in, next-token log-probabilities and memory out.

The same function as `models.transformer_xl` in evaluation mode, with the weights of the model that
is given, and written so that a traced graph stays right at every batch size, segment length and
length of memory: no branch depends on a shape, no word is selected by a search.
`deployment.export` compares it with the model before anyone uses it.

Legend: B rows, T segment length, M memory length, K = M + T keys, D hidden width, N heads, H width
of a head, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from nlpapp.deployment.parity import Feed
from nlpapp.deployment.tracing import Axes


class TransformerXLStep(nn.Module):
    """One segment of a `models.transformer_xl.TransformerXLLMHeadModel`."""

    def __init__(self, model: Any, mem_len: int) -> None:
        super().__init__()
        self.model, self.mem_len = model, mem_len

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return (B, T, V) log-probabilities and the memory for the next segment, by layer.

        Args:
            *inputs: ids (B, T), and the memory (B, M, D) of each layer; M may be 0.
        """
        input_ids, *memory = inputs
        body = self.model.transformer
        config = self.model.config
        hidden = self._embed(body.embedding, input_ids) * config.hidden_size**0.5
        positions = self._sinusoids(memory[0], hidden)  # (K, D)
        remembered = []
        for index, (layer, old) in enumerate(zip(body.layers, memory, strict=True)):
            context = torch.cat([old, hidden], dim=1)  # (B, K, D)
            kept = context[:, -self.mem_len :] if self.mem_len else context[:, :0]
            remembered.append(kept)
            hidden = self._layer(index, layer, hidden, context, positions)
        hidden = body.final_norm(hidden)
        return (self._log_probabilities(hidden), *remembered)

    def _embed(self, tables: Any, ids: Tensor) -> Tensor:
        """Return (B, T, D); each word has its vector from the one cluster that it is in."""
        if len(tables.bounds) == 1:
            return tables.vectors(0, ids)
        total: Tensor | None = None
        for index, (start, end) in enumerate(tables.bounds):
            inside = ((ids >= start) & (ids < end))[:, :, None]  # (B, T, 1)
            vectors = tables.vectors(index, (ids - start).clamp(0, end - start - 1))
            part = torch.where(inside, vectors, torch.zeros_like(vectors))
            total = part if total is None else total + part
        assert total is not None
        return total

    def _sinusoids(self, memory: Tensor, hidden: Tensor) -> Tensor:
        config = self.model.config
        keys = memory.shape[1] + hidden.shape[1]
        distances = (keys - 1 - torch.arange(keys)).to(torch.float32)
        if config.clamp_len is not None:
            distances = distances.clamp(max=config.clamp_len)
        exponents = torch.arange(0, config.hidden_size, 2, dtype=torch.float32) / config.hidden_size
        angles = distances[:, None] * torch.pow(10000.0, -exponents)  # (K, D / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def _layer(
        self, index: int, layer: Any, hidden: Tensor, context: Tensor, positions: Tensor
    ) -> Tensor:
        segment = hidden
        if layer.pre_norm:
            context = layer.attention_norm(context)
            segment = context[:, -hidden.shape[1] :]
        biases = self.model.transformer.biases(index)
        hidden = hidden + self._attend(layer.attention, segment, context, positions, biases)
        if layer.pre_norm:
            return hidden + self._feed_forward(layer, layer.feed_forward_norm(hidden))
        hidden = layer.attention_norm(hidden)
        return layer.feed_forward_norm(hidden + self._feed_forward(layer, hidden))

    @staticmethod
    def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
        return layer.feed_forward_out(functional.relu(layer.feed_forward_in(hidden)))

    def _attend(
        self,
        attention: Any,
        segment: Tensor,
        context: Tensor,
        positions: Tensor,
        biases: tuple[Tensor, ...],
    ) -> Tensor:
        u, v = biases
        heads, width = attention.num_heads, attention.head_width

        def split(vectors: Tensor) -> Tensor:  # (..., S, D) -> (..., N, S, H)
            return vectors.unflatten(-1, (heads, width)).transpose(-3, -2)

        query = split(attention.query(segment))  # (B, N, T, H)
        key, value = (split(part) for part in attention.key_value(context).chunk(2, dim=-1))
        distance = split(attention.position(positions))  # (N, K, H)
        content = (query + u) @ key.transpose(-1, -2)  # (B, N, T, K)
        position = (query + v) @ distance.transpose(-1, -2)
        queries, keys = segment.shape[1], context.shape[1]
        rows, columns = torch.arange(queries)[:, None], torch.arange(keys)[None]  # (T, 1), (1, K)
        # Column of the distance that key j has from query i; beyond the last one lies the future.
        source = (columns + (queries - 1 - rows)).clamp(max=keys - 1)  # (T, K)
        shifted = position.gather(-1, source.expand_as(position))
        distance_of = rows + (keys - queries) - columns
        hidden = distance_of < 0
        if self.model.config.same_length and self.mem_len:
            hidden = hidden | (distance_of >= self.mem_len)
        scores = (content + shifted) * width**-0.5
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return attention.output((weights @ value).transpose(1, 2).flatten(2))

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        """Return (B, T, V); the words' vectors are not copied where they are the embedding's."""
        softmax = self.model.softmax
        tables = self.model.output_tables
        tables = self.model.transformer.embedding if tables is None else tables
        flat = hidden.flatten(0, 1)  # (B * T, D)
        parts = []
        inputs = []
        for index, (start, end) in enumerate(softmax.bounds):
            projection = softmax.projection(index, tables)
            inner = flat if projection is None else functional.linear(flat, projection.t())
            inputs.append(inner)
            scores = functional.linear(inner, tables.weight(index), softmax.bias[start:end])
            parts.append(scores)
        if len(parts) == 1:
            return parts[0].log_softmax(-1).unflatten(0, hidden.shape[:2])
        tails = functional.linear(inputs[0], softmax.tail_weight, softmax.tail_bias)
        head = torch.cat([parts[0], tails], dim=-1).log_softmax(-1)
        size = softmax.bounds[0][1]
        found = [head[:, :size]]
        for place, scores in enumerate(parts[1:], start=size):
            found.append(head[:, place : place + 1] + scores.log_softmax(-1))
        return torch.cat(found, dim=-1).unflatten(0, hidden.shape[:2])


def memory_names(num_layers: int) -> tuple[list[str], list[str]]:
    """Return the names of the memory as inputs and as outputs, by layer."""
    layers = range(num_layers)
    return [f"memory_{index}" for index in layers], [f"next_memory_{index}" for index in layers]


def step_axes(num_layers: int) -> Axes:
    """Return the free dimensions of a step's inputs and outputs."""
    before, after = memory_names(num_layers)
    segment = {0: "batch", 1: "length"}
    axes: Axes = {"input_ids": dict(segment), "logits": dict(segment)}
    axes |= {name: {0: "batch", 1: "memory"} for name in before}
    return axes | {name: {0: "batch", 1: "next_memory"} for name in after}


def model_compute(model: Any, mem_len: int) -> Any:
    """Return the computation of the model itself, for the comparison."""
    layers = int(model.config.num_hidden_layers)

    @torch.inference_mode()
    def compute(feed: Feed) -> list[Any]:
        memory = tuple(torch.from_numpy(feed[f"memory_{index}"]) for index in range(layers))
        given = memory if memory[0].shape[1] else None
        ids = torch.from_numpy(feed["input_ids"])
        output = model(ids, memory=given, mem_len=mem_len)
        empty = torch.zeros(len(ids), 0, model.config.hidden_size)
        kept = output.memory or (empty,) * layers
        return [output.logits.numpy(), *(states.numpy() for states in kept)]

    return compute
