import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nlpapp.deployment.quantization import quantize, quantize_with_data, to_float16
from nlpapp.errors import ConfigError

V, D = 40, 16


@pytest.fixture
def shared(tmp_path):
    """Word vectors that an embedding and the product of the output share."""
    rng = np.random.default_rng(0)
    words = rng.normal(size=(V, D)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["vectors"], name="embed"),
        helper.make_node("Gemm", ["vectors", "words"], ["logits"], name="output", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", V])],
        [numpy_helper.from_array(words, "words")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx", words


def run(path, ids):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def test_shared_weights_stay_right_in_every_precision(shared, tmp_path):
    source, words = shared
    ids = np.arange(V)
    expected = words @ words.T
    assert quantize(source, tmp_path / "8.onnx") > 0.95
    assert quantize_with_data(source, tmp_path / "s.onnx", [{"ids": ids}]) > 0.95
    to_float16(source, tmp_path / "h.onnx")
    for name, most in (("8", 0.05), ("s", 0.05), ("h", 0.002)):
        found = run(tmp_path / f"{name}.onnx", ids)
        assert found.dtype == np.float32
        gap = np.abs(found - expected).max() / np.abs(expected).max()
        assert 0 < gap < most, name
    assert not list(tmp_path.glob("tmp*"))


def test_fixed_ranges_are_those_of_the_data(shared, tmp_path):
    source, words = shared
    # With the smallest vector alone, larger ones are cut off.
    smallest = np.abs(words).max(1).argmin()
    quantize_with_data(source, tmp_path / "cut.onnx", [{"ids": np.array([smallest])}])
    quantize_with_data(source, tmp_path / "all.onnx", [{"ids": np.arange(V)}])
    expected = words @ words.T
    cut, whole = (
        np.abs(run(tmp_path / name, np.arange(V)) - expected).max()
        for name in ("cut.onnx", "all.onnx")
    )
    assert cut > 3 * whole
    with pytest.raises(ConfigError, match="needs calibration texts"):
        quantize_with_data(source, tmp_path / "none.onnx", [])


def test_half_precision_is_half_the_size(shared, tmp_path):
    to_float16(shared[0], tmp_path / "h.onnx")
    (words,) = onnx.load(tmp_path / "h.onnx").graph.initializer
    assert words.data_type == TensorProto.FLOAT16
