"""Smaller and faster versions of an ONNX model: 16-bit floats, and 8-bit integers.

    float16         half the size, for GPUs
    dynamic int8    weights in 8 bits; the range of activations is measured in each run
    static int8     that range is fixed beforehand, from calibration data

Weights use 7 of the 8 bits, because sums of products overflow on processors without VNNI
instructions otherwise.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quant_utils,
    quantize_dynamic,
    quantize_static,
)

from nlpapp.deployment.parity import Feed
from nlpapp.errors import ConfigError

FLOAT16_LARGEST = 65504.0
ARITHMETIC = ("Abs", "Add", "Cast", "Ceil", "Div", "Floor", "Log", "Mul", "Neg", "Round", "Sub")


def quantize(source: Path, target: Path) -> float:
    """Write ``source`` with 8-bit weights; return the share of its weights that became 8-bit.

    Matrices, LSTM weights and embeddings are quantised, per channel where onnxruntime can; biases
    and normalisations stay float32.
    """
    proto = onnx.load(source)
    _give_each_node_its_own(proto)
    whole = _num_weights(proto)
    _dynamic(proto, target, None)
    return _share(target, whole)


def quantize_with_data(source: Path, target: Path, feeds: Sequence[Feed]) -> float:
    """Write ``source`` in int8 with fixed ranges of activations; return the share of 8-bit weights.

    Products and convolutions with a weight get the ranges that ``feeds`` show. Embeddings and
    LSTMs, for which onnxruntime has no fixed ranges, are quantised as `quantize` does.

    Raises:
        ConfigError: there are no calibration batches.
    """
    if not feeds:
        raise ConfigError("int8 with fixed ranges needs calibration texts; none were given.")
    proto = onnx.load(source)
    _give_each_node_its_own(proto)
    whole = _num_weights(proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    # A product of two activations (attention) loses much precision and gains no size.
    excluded = [
        node.name
        for node in proto.graph.node
        if node.op_type in ("MatMul", "Gemm") and not weights & set(node.input)
    ]
    quant_utils.add_pre_process_metadata(proto)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, _no_console_handler():
        between = os.path.join(folder, "ranges.onnx")
        quantize_static(
            proto,
            between,
            _Reader(feeds),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        ranged = onnx.load(between)
        for node in ranged.graph.node:  # else both quantisers would use the same names
            node.name = f"ranged_{node.name}"
        _dynamic(ranged, target, ["Gather", "LSTM"])
    return _share(target, whole)


def to_float16(source: Path, target: Path) -> None:
    """Write ``source`` with 16-bit floats inside; its inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = onnx.load(source)
    with _no_console_handler():
        proto = convert_float_to_float16(
            proto,
            keep_io_types=True,
            max_finite_val=FLOAT16_LARGEST,
            node_block_list=_nodes_before_integers(proto),
        )
    onnx.save(proto, target)


def _nodes_before_integers(proto: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that compute what is cut to an integer.

    Such as the bucket of a distance between positions, from its logarithm: with 16 bits it would
    fall short of the integer that it is.
    """
    makers = {output: node for node in proto.graph.node for output in node.output}
    found: dict[str, onnx.NodeProto] = {}
    rest = [
        makers[node.input[0]]
        for node in proto.graph.node
        if node.op_type == "Cast"
        and node.attribute[0].i in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        and node.input[0] in makers
    ]
    while rest:
        node = rest.pop()
        if node.op_type in ARITHMETIC and node.name not in found:
            found[node.name] = node
            rest += [makers[name] for name in node.input if name in makers]
    return list(found)


class _Reader(CalibrationDataReader):
    """Hands the calibration batches over one by one."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.rest = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.rest, None)


def _give_each_node_its_own(proto: onnx.ModelProto) -> None:
    """Copy weights that an embedding and a product share.

    Quantised, the two have different forms (turned, and with ranges by row or by column), and
    onnxruntime would give one of them the other's.
    """
    known = {tensor.name: tensor for tensor in proto.graph.initializer}
    looked_up = {node.input[0] for node in proto.graph.node if node.op_type == "Gather"}
    for node in proto.graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        for place, name in enumerate(node.input):
            if name in looked_up and name in known:
                copy = proto.graph.initializer.add()
                copy.CopyFrom(known[name])
                copy.name = f"{name}_of_{node.name}"
                node.input[place] = copy.name


def _dynamic(proto: onnx.ModelProto, target: Path, operators: list[str] | None) -> None:
    quant_utils.add_pre_process_metadata(proto)  # else it advises steps that change nothing here
    with _no_console_handler():
        quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=operators,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


@contextmanager
def _no_console_handler() -> Iterator[None]:
    """Let onnxruntime log through the root logger without giving it a console handler for good."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
        root.removeHandler(handler)


def _share(path: Path, whole: int) -> float:
    eight_bit = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    weights = onnx.load(path).graph.initializer
    small = [tensor for tensor in weights if tensor.data_type in eight_bit]
    # Beside each quantised weight stands its zero point, which was no weight before.
    return sum(_num_items(tensor) for tensor in small if "zero_point" not in tensor.name) / whole


def _num_weights(proto: onnx.ModelProto) -> int:
    return sum(_num_items(tensor) for tensor in proto.graph.initializer)


def _num_items(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
