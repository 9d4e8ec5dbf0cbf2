"""PyTorch models as graphs: ONNX files and torch.export programs with free batch size and length.

Legend: B rows, S positions, C classes, D hidden width, L layers.
"""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlpapp.deployment.bilstm_graph import OPSET
from nlpapp.deployment.parity import Feed

Axes = dict[str, dict[int, str]]


class LogitsModule(nn.Module):
    """A classifier with positional inputs and its logits (B, C) as only output."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return (logits,)."""
        return (self.model(**dict(zip(self.names, inputs, strict=True))).logits,)


class LayersModule(nn.Module):
    """An encoder with positional inputs and the hidden states (B, S, D) of ``layers`` as outputs.

    Layer 0 is the embeddings, layer L the last.
    """

    def __init__(self, model: Any, names: Sequence[str], layers: Sequence[int]) -> None:
        super().__init__()
        self.model, self.names, self.layers = model, list(names), list(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the hidden states of each layer."""
        named = dict(zip(self.names, inputs, strict=True))
        last = int(self.model.config.num_hidden_layers)
        if self.layers == [last]:
            return (self.model(**named).last_hidden_state,)
        output = self.model(**named, output_hidden_states=True)
        # The last of hidden_states lacks the final normalisation in some architectures.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        return tuple(states[layer] for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Traceable:
    """A module with all that an exporter has to know about it."""

    module: nn.Module
    """Positional tensors -> a tuple of tensors."""
    inputs: list[str]
    outputs: list[str]
    axes: Axes
    """Name of an input or output -> {dimension: name} of the free dimensions."""
    example: Feed
    """A batch to trace with."""
    proto: Callable[[], Any] | None = None
    """Gives the ONNX graph where it is written by hand instead of traced."""

    def tensors(self, feed: Feed) -> tuple[Tensor, ...]:
        """Return the inputs of a batch as tensors, in order."""
        return tuple(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self.inputs)

    @torch.inference_mode()
    def compute(self, feed: Feed) -> list[np.ndarray]:
        """Return what the PyTorch model gives for a batch."""
        return [output.numpy() for output in self.module(*self.tensors(feed))]


def input_names(model: Any, tokenizer: Any) -> list[str]:
    """Return the inputs of the exported model: those that the tokenizer made in training too."""
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "siamese", False):
        return [*names, "input_ids_b", "attention_mask_b"]
    types = getattr(model.config, "type_vocab_size", 0) or 0
    accepted = types >= 2 and "token_type_ids" in inspect.signature(model.forward).parameters
    if accepted and "token_type_ids" in tokenizer.model_input_names:
        names.append("token_type_ids")
    return names


def text_axes(inputs: Sequence[str], outputs: Sequence[str]) -> Axes:
    """Return the free dimensions of a model of texts; outputs named logits have no length."""
    axes: Axes = {}
    for name in inputs:
        axes[name] = {0: "batch", 1: "length_b" if name.endswith("_b") else "length"}
    for name in outputs:
        axes[name] = {0: "batch"} if name == "logits" else {0: "batch", 1: "length"}
    return axes


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Have ``model`` compute attention by plain products, which exporters understand best.

    The graph is smaller, and onnxruntime fuses it by itself.
    """
    previous = getattr(model.config, "_attn_implementation", None)
    if previous is None or not hasattr(model, "set_attn_implementation"):
        yield
        return
    with suppress(ValueError):  # of an architecture that has one way only
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if model.config._attn_implementation != previous:
            model.set_attn_implementation(previous)


def write_onnx(source: Traceable, path: Path) -> None:
    """Write ``source`` in evaluation mode as an ONNX file."""
    import onnx

    if source.proto is not None:
        onnx.save(source.proto(), path)
        return
    with _quiet():
        torch.onnx.export(
            source.module.eval(),
            source.tensors(source.example),
            str(path),
            input_names=source.inputs,
            output_names=source.outputs,
            dynamic_axes=source.axes,
            opset_version=OPSET,
            dynamo=False,
        )


def write_program(source: Traceable, path: Path) -> None:
    """Write ``source`` as a torch.export program (.pt2), for Python and C++ with PyTorch alone.

    A length or batch size that PyTorch cannot keep free raises an error of its own.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(source.axes[name], dynamic) for name in source.inputs)
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            source.module.eval(), source.tensors(source.example), dynamic_shapes=(shapes,)
        )
        torch.export.save(program, path)


def program_compute(source: Traceable, path: Path) -> Callable[[Feed], list[np.ndarray]]:
    """Return the computation of a program that `write_program` has just written."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def compute(feed: Feed) -> list[np.ndarray]:
        return [output.numpy() for output in module(*source.tensors(feed))]

    return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings on tracing back: the comparison is the judge."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
