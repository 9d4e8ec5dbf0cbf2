"""A trained classifier to a bundle: a folder that predicts without PyTorch or transformers.

<bundle>/model.onnx         float32, any batch size and length
         model.int8.onnx    the same with 8-bit weights (optional)
         tokenizer.json     the tokenizer, with truncation and padding set
         labels.json        {"labels": [names by class index]}; empty for a regression
         metrics.json       sizes, and how far the files are from the PyTorch model
         README.md          what it is and how to call it
         manifest.json      what it was made from, and a sha256 of each file above

A bundle gets its name only after its logits were compared with PyTorch's on batches of many shapes.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from tokenizers import Tokenizer

from nlpapp import __version__, seeding
from nlpapp.deployment.bilstm_graph import OPSET, build_bilstm_graph
from nlpapp.errors import CheckpointError, ConfigError

logger = logging.getLogger("nlpapp")

SUPPORTED = ("albert", "bert", "bilstm", "distilbert", "electra", "roberta", "xlm-roberta")
"""Model types (config.json) whose export is tested."""
TOLERANCE = 1e-4
"""Largest difference of a logit from PyTorch's that an exported float32 model may have."""
LARGEST_BATCH = 16
NUM_BATCHES = 24

Feed = dict[str, np.ndarray]


class _Logits(torch.nn.Module):
    """A classifier with positional inputs and its logits as only output, for the exporter."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export_classifier(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    max_seq_length: int,
    int8: bool = True,
    seed: int = 42,
) -> dict[str, float]:
    """Write a bundle to ``folder``, replacing a bundle that is there.

    Args:
        model: a sequence classifier of a `SUPPORTED` type.
        tokenizer: its fast transformers tokenizer.
        folder: where the bundle goes; it appears when everything is written and checked.
        max_seq_length: tokens that the bundle reads of a text; longer texts are cut.
        int8: also write the model with 8-bit weights.
        seed: of the batches for the comparison.

    Returns:
        Sizes and differences, as in metrics.json.

    Raises:
        ConfigError: an unsupported model, too long a sequence, or a folder of something else.
        CheckpointError: the exported model does not compute what the PyTorch model does.
    """
    folder = Path(folder)
    _check_exportable(model, tokenizer, max_seq_length)
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder} exists and is no bundle; give a new folder for the bundle.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = model.cpu().float().eval()
    names = input_names(model, tokenizer)
    write_onnx(model, names, partial / "model.onnx")
    feeds = list(random_feeds(model, names, max_seq_length=max_seq_length, seed=seed))
    metrics = _compare(model, partial / "model.onnx", feeds, prefix="fp32")
    if not metrics["fp32_max_difference"] <= TOLERANCE:
        raise CheckpointError(
            "the exported model's logits differ from PyTorch's by "
            f"{metrics['fp32_max_difference']:.2g}, over {TOLERANCE:g}: nothing was exported. "
            "Check the model for weights that are not finite or very large."
        )
    metrics["parameters"] = float(sum(weight.numel() for weight in model.parameters()))
    if int8:
        metrics["int8_weight_share"] = quantize(partial / "model.onnx", partial / "model.int8.onnx")
        metrics |= _compare(model, partial / "model.int8.onnx", feeds, prefix="int8")
    _write_rest(partial, model, tokenizer, max_seq_length, metrics)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    return metrics


def _check_exportable(model: Any, tokenizer: Any, max_seq_length: int) -> None:
    config = model.config
    if config.model_type not in SUPPORTED:
        raise ConfigError(
            f"models of type '{config.model_type}' cannot be exported; "
            f"supported are {', '.join(SUPPORTED)}."
        )
    if config.problem_type == "multi_label_classification":
        raise ConfigError(
            "a model with several labels a text cannot be exported; it takes one each."
        )
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise ConfigError("the tokenizer has no tokenizer.json; save it as a fast tokenizer first.")
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and config.model_type in ("roberta", "xlm-roberta"):
        limit -= config.pad_token_id + 1  # their positions start behind the padding piece
    if limit is not None and max_seq_length > limit:
        raise ConfigError(
            f"max_seq_length {max_seq_length} is over the model's {limit} positions; "
            f"set max_seq_length to {limit} or less."
        )
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if max_seq_length < least:
        raise ConfigError(f"max_seq_length is {max_seq_length}; two texts need at least {least}.")


def input_names(model: Any, tokenizer: Any) -> list[str]:
    """Return the inputs of the exported model: those that the tokenizer made in training too."""
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "siamese", False):
        return [*names, "input_ids_b", "attention_mask_b"]
    types = getattr(model.config, "type_vocab_size", 0)
    accepted = types >= 2 and "token_type_ids" in inspect.signature(model.forward).parameters
    if accepted and "token_type_ids" in tokenizer.model_input_names:
        names.append("token_type_ids")
    return names


def write_onnx(model: Any, names: list[str], path: Path) -> None:
    """Write ``model`` in evaluation mode as an ONNX file with free batch size and length."""
    if model.config.model_type == "bilstm":
        onnx.save(build_bilstm_graph(model), path)
        return
    # Eager attention gives the smaller graph; onnxruntime fuses it by itself.
    previous = model.config._attn_implementation
    model.set_attn_implementation("eager")
    (feed,) = random_feeds(model, names, max_seq_length=8, seed=0, shapes=[(2, 8)])
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the tracing; the comparison is the judge
        torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(torch.from_numpy(feed[name]) for name in names),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model.set_attn_implementation(previous)


def quantize(source: Path, target: Path) -> float:
    """Write ``source`` with 8-bit weights; return the share of its weights that became 8-bit.

    Matrices, LSTM weights and embeddings are quantised, per channel where onnxruntime can; biases
    and normalisations stay float32. Weights use 7 of the 8 bits, because sums of products overflow
    on processors without VNNI instructions otherwise.
    """
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    root, handler = logging.getLogger(), logging.NullHandler()
    proto = onnx.load(source)
    whole = sum(_num_items(tensor) for tensor in proto.graph.initializer)
    quant_utils.add_pre_process_metadata(proto)  # else it advises steps that change nothing here
    # It logs through the root logger, and Python would give that a console handler for good.
    root.addHandler(handler)
    try:
        quantize_dynamic(
            proto, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    finally:
        root.removeHandler(handler)
    eight_bit = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    weights = onnx.load(target).graph.initializer
    small = [tensor for tensor in weights if tensor.data_type in eight_bit]
    # Beside each quantised weight stands its zero point, which was no weight before.
    return sum(_num_items(tensor) for tensor in small if "zero_point" not in tensor.name) / whole


def _num_items(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def random_feeds(
    model: Any,
    names: list[str],
    *,
    max_seq_length: int,
    seed: int,
    shapes: list[tuple[int, int]] | None = None,
) -> Iterator[Feed]:
    """Yield batches of random pieces in 1..16 rows of 1..``max_seq_length`` tokens, with padding.

    The smallest and the largest shapes are always among them. Each batch has one full row.
    """
    rng = seeding.generator(seed, "export comparison")
    if shapes is None:
        ends = [(1, 1), (1, max_seq_length), (LARGEST_BATCH, 1), (LARGEST_BATCH, max_seq_length)]
        rows = rng.integers(1, LARGEST_BATCH + 1, NUM_BATCHES - len(ends))
        widths = rng.integers(1, max_seq_length + 1, NUM_BATCHES - len(ends))
        shapes = ends + list(zip(rows.tolist(), widths.tolist(), strict=True))
    pad = model.config.pad_token_id or 0
    for size, width in shapes:
        feed: Feed = {}
        for side in ("", "_b") if "input_ids_b" in names else ("",):
            lengths = rng.integers(1, width + 1, size)
            lengths[rng.integers(size)] = width
            mask = np.arange(width) < lengths[:, None]
            ids = rng.integers(0, model.config.vocab_size, (size, width))
            # A padding piece inside a row would shift RoBERTa's positions; real text has none.
            ids[ids == pad] = (pad + 1) % model.config.vocab_size
            feed[f"input_ids{side}"] = np.where(mask, ids, pad)
            feed[f"attention_mask{side}"] = mask.astype(np.int64)
        if "token_type_ids" in names:
            second = np.arange(width) >= rng.integers(0, width + 1, (size, 1))
            feed["token_type_ids"] = (second & mask).astype(np.int64)
        yield feed


@torch.inference_mode()
def _compare(model: Any, path: Path, feeds: list[Feed], *, prefix: str) -> dict[str, float]:
    """Return how far the logits of an ONNX file are from the model's over ``feeds``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest, agreements = 0.0, []
    for feed in feeds:
        tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
        expected = model(**tensors).logits.numpy()
        found = session.run(["logits"], feed)[0]
        # A difference that is not a number must not pass for a small one.
        largest = float(np.maximum(largest, np.abs(found - expected).max()))
        agreements.append(found.argmax(1) == expected.argmax(1))
    return {
        f"{prefix}_max_difference": largest,
        f"{prefix}_label_agreement": float(np.concatenate(agreements).mean()),
        f"{prefix}_bytes": float(path.stat().st_size),
    }


def _write_rest(
    partial: Path, model: Any, tokenizer: Any, max_seq_length: int, metrics: dict[str, float]
) -> None:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy: settings follow
    backend.enable_truncation(max_seq_length, direction=tokenizer.truncation_side)
    backend.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    backend.save(str(partial / "tokenizer.json"))
    labels = _labels(model.config)
    _write_json(partial / "labels.json", {"labels": labels})
    _write_json(partial / "metrics.json", metrics)
    text = readme(model.config, labels=labels, max_seq_length=max_seq_length, metrics=metrics)
    (partial / "README.md").write_text(text, encoding="utf-8")
    manifest = {
        "format": 1,
        "model_type": model.config.model_type,
        "tokenizer_fingerprint": getattr(model.config, "tokenizer_fingerprint", None),
        "versions": {
            "nlpapp": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(partial.iterdir())
        },
    }
    _write_json(partial / "manifest.json", manifest)


def _labels(config: Any) -> list[str]:
    """Return the label names by class index; none for a regression."""
    if config.num_labels == 1:
        return []
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def _write_json(path: Path, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def readme(
    config: Any, *, labels: list[str], max_seq_length: int, metrics: dict[str, float]
) -> str:
    """Return the text of a bundle's README.md."""
    result = "[{'label': ..., 'probabilities': {...}}, ...]" if labels else "[{'score': ...}, ...]"
    pair = ', pairs=["its second text"]' if getattr(config, "siamese", False) else ""
    rows = [f"| model.onnx | float32 | {metrics['fp32_bytes']:,.0f} | "]
    rows[0] += f"{metrics['fp32_max_difference']:.1e} | {metrics['fp32_label_agreement']:.4f} |"
    if "int8_bytes" in metrics:
        rows.append(
            f"| model.int8.onnx | {metrics['int8_weight_share']:.1%} of the weights in int8 | "
            f"{metrics['int8_bytes']:,.0f} | {metrics['int8_max_difference']:.1e} | "
            f"{metrics['int8_label_agreement']:.4f} |"
        )
    return README.format(
        kind=config.model_type,
        parameters=metrics["parameters"] / 1e6,
        labels=", ".join(labels) or "none: the model gives a score",
        max_seq_length=max_seq_length,
        rows="\n".join(rows),
        pair=pair,
        result=result,
    )


README = """---
library_name: onnx
pipeline_tag: text-classification
---
# Text classifier ({kind}, {parameters:.2f} M parameters) in ONNX

Needs numpy, onnxruntime and tokenizers; neither PyTorch nor transformers.

- labels: {labels}
- reads at most {max_seq_length} tokens of a text; the rest is cut
- `manifest.json` holds a sha256 of every file; the predictor checks those that it reads

```python
from nlpapp.deployment.runtime import Predictor

predictor = Predictor("path/of/this/folder")
predictor.predict(["a text"]{pair})  # {result}
```

`Predictor(folder, precision="int8")` takes the smaller file. On a machine without PyTorch:
`pip install --no-deps nlpapp` and `pip install numpy onnxruntime tokenizers`.

| file | weights | bytes | largest logit difference from PyTorch | same label |
|---|---|---|---|---|
{rows}

Differences are over random batches of 1 to 16 rows and 1 to {max_seq_length} random tokens.
"""
