"""Continue a prompt with the language model in the bundle that this file lies in.

Needs numpy and onnxruntime, and tokenizers if the bundle has a tokenizer.json:

    python predict.py "the cat" --max_new_tokens 50 --temperature 0.8
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

MODELS = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


def load(folder, precision="fp32"):
    """Return (manifest, vocabulary, session) of a bundle whose files are unchanged."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    words = "vocabulary.json" if "vocabulary.json" in manifest["files"] else "tokenizer.json"
    for name in (words, MODELS[precision]):
        if name not in manifest["files"]:
            sys.exit(f"{folder} has no {name}: export the model again with {precision}.")
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if digest != manifest["files"][name]:
            sys.exit(f"{folder / name} is not the file that was exported: copy the bundle again.")
    if words == "tokenizer.json":
        from tokenizers import Tokenizer

        vocabulary = Tokenizer.from_file(str(folder / words))
    else:
        vocabulary = json.loads((folder / words).read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if precision == "fp16":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(
        str(folder / MODELS[precision]), options, providers=["CPUExecutionProvider"]
    )
    return manifest, vocabulary, session


def to_ids(vocabulary, manifest, text):
    """Return the ids of a prompt: <eos> stands for the start of each line."""
    lines = [line_ids(vocabulary, manifest["unknown_id"], line) for line in text.split("\n")]
    return [index for line in lines for index in (manifest["end_id"], *line)]


def line_ids(vocabulary, unknown_id, line):
    """Return the ids of a line."""
    if not isinstance(vocabulary, dict):
        return vocabulary.encode(line, add_special_tokens=False).ids
    if vocabulary["kind"] == "bytes":
        return list(line.encode())
    ids = {symbol: index for index, symbol in enumerate(vocabulary["symbols"])}
    symbols = line.split() if vocabulary["kind"] == "words" else list(line)
    found = [ids.get(symbol, unknown_id) for symbol in symbols]
    if None in found:
        sys.exit(f"'{symbols[found.index(None)]}' is not in the vocabulary.")
    return found


def to_text(vocabulary, ids, end_id):
    """Return the text of ids, a new line for each <eos>."""
    lines: list[list[int]] = [[]]
    for index in ids:
        if index == end_id:
            lines.append([])
        else:
            lines[-1].append(index)
    return "\n".join(line_text(vocabulary, line) for line in lines)


def line_text(vocabulary, ids):
    """Return the text of a line."""
    if not isinstance(vocabulary, dict):
        return vocabulary.decode(ids)
    if vocabulary["kind"] == "bytes":
        return bytes(ids).decode(errors="replace")
    symbols = [vocabulary["symbols"][index] for index in ids]
    return ("" if vocabulary["kind"] == "characters" else " ").join(symbols)


def generate(manifest, session, ids, count, temperature, rng):
    """Yield ``count`` ids after ``ids``; the memory holds what was read before.

    A model without memory writes each from the last 512.
    """
    remembers = bool(manifest["mem_len"])
    layers, width = manifest["num_layers"], manifest["hidden_size"]
    memory = [np.zeros((1, 0, width), np.float32) for _ in range(layers)]
    for _ in range(count):
        ids = ids if remembers else ids[-512:]
        for start in range(0, len(ids), 512):
            feed = {f"memory_{layer}": states for layer, states in enumerate(memory)}
            feed["input_ids"] = np.array([ids[start : start + 512]], np.int64)
            logits, *memory = session.run(None, feed)
        scores = logits[0, -1].astype(np.float64)
        if manifest["unknown_id"] is not None:
            scores[manifest["unknown_id"]] = -np.inf
        shares = np.exp((scores - scores.max()) / max(temperature, 1e-6))
        new = int(rng.choice(len(shares), p=shares / shares.sum()))
        yield new
        ids = [new] if remembers else [*ids, new]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--max_new_tokens", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--precision", choices=list(MODELS), default="fp32")
    o = parser.parse_args()
    facts, words, model = load(Path(__file__).resolve().parent, o.precision)
    start, rng = to_ids(words, facts, o.prompt), np.random.default_rng(o.seed)
    new = list(generate(facts, model, start, o.max_new_tokens, o.temperature, rng))
    print(to_text(words, [*start[1:], *new], facts["end_id"]))
