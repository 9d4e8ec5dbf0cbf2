"""Bundles to serve, and plain requests to a server over a socket."""

import hashlib
import http.client
import json
import urllib.parse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN = 4


def write_encoder_bundle(folder, tokenizer):
    """Write an encoder whose layer 0 is a table of vectors and layer 1 twice that; return those."""
    folder.mkdir(parents=True)
    table = np.random.default_rng(0).normal(size=(len(tokenizer), HIDDEN)).astype(np.float32)
    constants = {"table": table, "two": np.float32(2), "one": np.float32(1)}
    axes = ["rows", "positions"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info(f"layer_{layer}", TensorProto.FLOAT, [*axes, HIDDEN])
        for layer in (0, 1)
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["layer_0"]),
        helper.make_node("Mul", ["layer_0", "two"], ["layer_1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        inputs,
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "tokenizer.json")
    }
    manifest = {"kind": "encoder", "num_layers": 1, "layers": [0, 1], "hidden_size": HIDDEN}
    manifest |= {"files": files, "max_seq_length": 16, "max_length": 16}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return table


def ask(url, path, body=None, *, method=None, headers=None):
    """Return (status, headers, JSON or text) of one request with a connection of its own."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    method = method or ("GET" if body is None else "POST")
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    found = {name.lower(): value for name, value in answer.getheaders()}
    if found.get("content-type", "").startswith("application/json"):
        return answer.status, found, json.loads(content)
    return answer.status, found, content.decode()
