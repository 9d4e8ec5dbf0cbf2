"""Classify or encode texts with the bundle that this file lies in.

Needs numpy, onnxruntime and tokenizers only:

    python predict.py "a text" "another one"
    python predict.py --pair "first ||| second"
    python predict.py --file texts.txt --precision int8
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MODELS = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-static": "model.int8-static.onnx",
}


def load(folder, precision="fp32"):
    """Return (manifest, labels, tokenizer, session) of a bundle whose files are unchanged."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    names = ("tokenizer.json", "labels.json", MODELS[precision])
    for name in names:
        if name not in manifest["files"]:
            sys.exit(f"{folder} has no {name}: export the model again with {precision}.")
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if digest != manifest["files"][name]:
            sys.exit(f"{folder / name} is not the file that was exported: copy the bundle again.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["labels"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if precision == "fp16":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(
        str(folder / names[2]), options, providers=["CPUExecutionProvider"]
    )
    return manifest, labels, tokenizer, session


def run(tokenizer, session, texts):
    """Return the model's first output and the attention mask for a batch of texts or pairs."""
    inputs = {entry.name for entry in session.get_inputs()}
    sides = {"": texts}
    if "input_ids_b" in inputs:  # one encoder reads both texts by themselves
        sides = {"": [text[0] for text in texts], "_b": [text[1] for text in texts]}
    feed = {}
    for suffix, side in sides.items():
        rows = tokenizer.encode_batch(side)  # padded to the longest of the batch
        for row in rows:
            row.pad(1, pad_id=tokenizer.padding["pad_id"])  # there are texts without a token
        feed["input_ids" + suffix] = np.array([row.ids for row in rows], np.int64)
        feed["attention_mask" + suffix] = np.array([row.attention_mask for row in rows], np.int64)
        feed["token_type_ids" + suffix] = np.array([row.type_ids for row in rows], np.int64)
    given = {name: feed[name] for name in inputs}
    return session.run(None, given)[-1], feed["attention_mask"]


def answers(manifest, labels, output, mask):
    """Yield one JSON object a text."""
    if manifest.get("kind") == "encoder":  # (B, S, H): the mean over the tokens
        weights = mask[:, :, None].astype(np.float32)
        weights[weights.sum(1)[:, 0] == 0, 0] = 1
        for vector in (output * weights).sum(1) / weights.sum(1):
            yield {"vector": vector.tolist()}
        return
    for row in output.astype(np.float64):
        if not labels:
            yield {"score": float(row[0])}
            continue
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        probabilities = dict(zip(labels, shares.tolist(), strict=True))
        yield {"label": labels[int(row.argmax())], "probabilities": probabilities}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", help="texts; of pairs: first ||| second")
    parser.add_argument("--file", help="a file with one text a line")
    parser.add_argument("--pair", action="store_true", help="texts are pairs: first ||| second")
    parser.add_argument("--precision", choices=list(MODELS), default="fp32")
    options = parser.parse_args()
    read = Path(options.file).read_text(encoding="utf-8").splitlines() if options.file else []
    given = [text for text in [*options.texts, *read] if text.strip()]
    parts = [tuple(text.split(" ||| ", 1)) if options.pair else text for text in given]
    loaded = load(Path(__file__).resolve().parent, options.precision)
    for start in range(0, len(parts), 32):
        found = run(loaded[2], loaded[3], parts[start : start + 32])
        for answer in answers(loaded[0], loaded[1], *found):
            print(json.dumps(answer, ensure_ascii=False))
