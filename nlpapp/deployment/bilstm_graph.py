"""The ONNX graph of a BiLSTM classifier, written node by node.

ONNX's own LSTM node reads both directions and stops each row at its length, so the graph needs none
of the turning round that the PyTorch module does: it is smaller and faster than a traced one, and
batch size and length stay free. `deployment.export` compares it with the PyTorch module before
anyone uses it.

Legend: B rows, S positions, H hidden width of one direction, C labels.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Of ONNX 1.12 (2022), which onnxruntime reads since 1.12."""


class _Graph:
    """Nodes and weights, collected in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: torch.Tensor | np.ndarray) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name


def build_bilstm_graph(model: Any) -> onnx.ModelProto:
    """Return the graph of a `models.bilstm.BiLstmForSequenceClassification` in float32.

    Inputs are input_ids and attention_mask (B, S) int64, of siamese models also input_ids_b and
    attention_mask_b; the output is logits (B, C).
    """
    graph = _Graph()
    encoder = model.encoder
    directions = [encoder.forward_lstm, encoder.backward_lstm]
    graph.weight("embeddings", encoder.embeddings.weight)
    graph.weight("lstm_input_weights", _stack(directions, "weight_ih_l0"))  # (2, 4H, E)
    graph.weight("lstm_state_weights", _stack(directions, "weight_hh_l0"))  # (2, 4H, H)
    biases = [_stack(directions, name) for name in ("bias_ih_l0", "bias_hh_l0")]
    graph.weight("lstm_biases", torch.cat(biases, dim=1))  # (2, 8H)
    inputs = ["input_ids", "attention_mask"]
    if model.config.siamese:
        inputs += ["input_ids_b", "attention_mask_b"]
        vector = _compare_sides(graph, _encode(graph, model.config, *_join_sides(graph)))
    else:
        vector = _encode(graph, model.config, "input_ids", "attention_mask")
    hidden = graph.node("Relu", _linear(graph, model.hidden, vector, "hidden"), name="relu")
    _linear(graph, model.classifier, hidden, "logits")
    return _to_model(graph, inputs, model.classifier.out_features)


def _join_sides(graph: _Graph) -> tuple[str, str]:
    """Put the second sentences under the first ones, all padded to the longest: (2B, S).

    One LSTM node over both is faster than two, and two nodes cannot share quantised weights.
    """
    graph.weight("nothing", np.array([0, 0, 0]))
    sides = {"": "input_ids", "_b": "input_ids_b"}
    widths = [
        graph.node("Shape", name, name=f"width{side}", start=1, end=2)
        for side, name in sides.items()
    ]
    widest = graph.node("Max", *widths, name="widest")
    padded: dict[str, list[str]] = {"input_ids": [], "attention_mask": []}
    for side, width in zip(sides, widths, strict=True):
        missing = graph.node("Sub", widest, width, name=f"missing{side}")
        # Before the rows and columns, and behind the rows, nothing is added.
        amount = graph.node("Concat", "nothing", missing, name=f"padding{side}", axis=0)
        for name, parts in padded.items():
            parts.append(graph.node("Pad", name + side, amount, name=f"padded_{name}{side}"))
    ids, mask = (
        graph.node("Concat", *parts, name=f"joined_{name}", axis=0)
        for name, parts in padded.items()
    )
    return ids, mask


def _compare_sides(graph: _Graph, vectors: str) -> str:
    """Return (B, 8H) [h1, h2, h1 * h2, |h1 - h2|] of (2B, 2H) vectors."""
    first, second = "first", "second"
    graph.nodes.append(helper.make_node("Split", [vectors], [first, second], name="split", axis=0))
    product = graph.node("Mul", first, second, name="product")
    distance = graph.node("Abs", graph.node("Sub", first, second, name="gap"), name="distance")
    return graph.node("Concat", first, second, product, distance, name="compared", axis=1)


def _to_model(graph: _Graph, inputs: list[str], num_labels: int) -> onnx.ModelProto:
    described = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64, ["batch", "length_b" if name.endswith("_b") else "length"]
        )
        for name in inputs
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_labels])
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "bilstm", described, [logits], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto)
    return proto


def _stack(lstms: list[torch.nn.LSTM], name: str) -> torch.Tensor:
    """Return a weight of both directions, its gates in ONNX's order i, o, f, c."""
    stacked = []
    for lstm in lstms:
        # PyTorch's order is i, f, c, o.
        input_gate, forget_gate, cell, output_gate = getattr(lstm, name).chunk(4, dim=0)
        stacked.append(torch.cat([input_gate, output_gate, forget_gate, cell]))
    return torch.stack(stacked)


def _linear(graph: _Graph, layer: torch.nn.Linear, source: str, name: str) -> str:
    weight = graph.weight(f"{name}_weight", layer.weight.T)
    return graph.node("Gemm", source, weight, graph.weight(f"{name}_bias", layer.bias), name=name)


def _encode(graph: _Graph, config: Any, input_ids: str, attention_mask: str) -> str:
    """Add the nodes from token ids (B, S) to vectors (B, 2H)."""
    graph.weight("axis_1", np.array([1]))
    graph.weight("flat_rows", np.array([0, -1]))
    columns = graph.node("Transpose", input_ids, name="columns", perm=[1, 0])  # (S, B)
    embedded = graph.node("Gather", "embeddings", columns, name="embedded")  # (S, B, E)
    counted = graph.node("ReduceSum", attention_mask, "axis_1", name="counted", keepdims=0)
    lengths = graph.node("Cast", counted, name="lengths", to=TensorProto.INT32)  # (B,)
    parts = ["lstm_input_weights", "lstm_state_weights", "lstm_biases"]
    graph.nodes.append(
        helper.make_node(
            "LSTM",
            [embedded, *parts, lengths],
            # All states (S, 2, B, H), or those after each row's own last token (2, B, H).
            ["", "final"] if config.pooling == "last" else ["states"],
            name="lstm",
            hidden_size=config.hidden_size,
            direction="bidirectional",
        )
    )
    pooled = "final" if config.pooling == "last" else _pool(graph, config.pooling, attention_mask)
    rows = graph.node("Transpose", pooled, name="rows", perm=[1, 0, 2])  # (B, 2, H)
    return graph.node("Reshape", rows, "flat_rows", name="vectors")  # (B, 2H)


def _pool(graph: _Graph, pooling: str, attention_mask: str) -> str:
    """Add the nodes of max or mean pooling: states (S, 2, B, H) -> (2, B, H)."""
    graph.weight("axis_0", np.array([0]))
    graph.weight("mask_axes", np.array([1, 3]))
    turned = graph.node("Transpose", attention_mask, name="turned_mask", perm=[1, 0])
    spread = graph.node("Unsqueeze", turned, "mask_axes", name="spread_mask")  # (S, 1, B, 1)
    if pooling == "max":
        graph.weight("lowest", np.array(np.finfo(np.float32).min))
        inside = graph.node("Cast", spread, name="inside", to=TensorProto.BOOL)
        masked = graph.node("Where", inside, "states", "lowest", name="masked")
        return graph.node("ReduceMax", masked, name="pooled", axes=[0], keepdims=0)
    inside = graph.node("Cast", spread, name="inside", to=TensorProto.FLOAT)
    masked = graph.node("Mul", "states", inside, name="masked")
    total = graph.node("ReduceSum", masked, "axis_0", name="total", keepdims=0)
    number = graph.node("ReduceSum", inside, "axis_0", name="number", keepdims=0)  # (1, B, 1)
    return graph.node("Div", total, number, name="pooled")
