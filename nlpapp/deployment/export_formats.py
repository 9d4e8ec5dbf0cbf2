"""Writing a model in several formats, and comparing all of them with PyTorch.

fp32            ONNX, always written: within 1e-4 of PyTorch
fp16            ONNX with 16-bit floats
int8            ONNX with 8-bit weights
int8-static     the same, with ranges of activations from calibration data
torch-export    a torch.export program: within 1e-4
safetensors     a Hugging Face folder: within 1e-5
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.deployment.bundle import HUB_FOLDER, PROGRAM_FILE
from nlpapp.deployment.bundle_files import MODEL_FILES
from nlpapp.deployment.parity import Compute, Difference, Feed, compare
from nlpapp.deployment.quantization import quantize, quantize_with_data, to_float16
from nlpapp.deployment.runtime import load_onnx
from nlpapp.deployment.tracing import (
    Traceable,
    eager_attention,
    program_compute,
    write_onnx,
    write_program,
)
from nlpapp.deployment.transformer_xl_graph import model_compute
from nlpapp.errors import CheckpointError, ConfigError, nearest

logger = logging.getLogger("nlpapp")

FORMATS = ("fp16", "int8", "int8-static", "torch-export", "safetensors")
"""What can be written beside the ONNX file in float32."""
TOLERANCE = {"fp32": 1e-4, "torch-export": 1e-4, "safetensors": 1e-5, "fp16": 2e-2}
"""Largest difference from PyTorch's output that a format may have.

That of fp16, and those of hidden states, are for outputs of 1 and less; with larger outputs they
grow. The formats that are not here lose precision by design: a data set says whether too much.
"""
LATENCY_RUNS = 20
LATENCY_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to write, and what its formats are compared with."""

    kind: str
    model: Any
    source: Traceable
    reference: Compute
    """The PyTorch model."""
    rebuild: Callable[[Any], torch.nn.Module]
    """Another model of the same class -> its module, as in ``source``."""
    feeds: Callable[[], Iterator[Feed]]
    """Batches for the comparison, the same in every call."""
    calibration: list[Feed] = field(default_factory=list)
    save_beside: Callable[[Path], Any]
    """Writes the tokenizer's files into a folder."""


def check_formats(formats: Sequence[str], *, int8: bool, calibration: Sequence[Any]) -> list[str]:
    """Return the formats to write, in the order of `FORMATS`.

    Raises:
        ConfigError: an unknown format, or int8-static without calibration texts.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"formats: '{name}' is unknown; expected {', '.join(FORMATS)}."
                f"{nearest(name, FORMATS)}"
            )
    if "int8-static" in formats and not len(calibration):
        raise ConfigError(
            "int8-static needs texts that show the ranges of activations: give --calibration_file."
        )
    asked = {*formats, *(["int8"] if int8 else [])}
    return [name for name in FORMATS if name in asked]


def text_feeds(
    tokenizer: Any, names: Sequence[str], texts: Sequence[Any], max_seq_length: int
) -> list[Feed]:
    """Return batches of texts, or of pairs, as the tokenizer of the training makes them."""
    options: dict[str, Any] = {"truncation": True, "max_length": max_seq_length, "padding": True}
    options |= {"return_tensors": "np"}
    feeds: list[Feed] = []
    for start in range(0, len(texts), 8):
        part = texts[start : start + 8]
        pairs = not isinstance(part[0], str)
        first = [text[0] for text in part] if pairs else list(part)
        second = [text[1] for text in part] if pairs else None
        if "input_ids_b" in names:
            if second is None:
                raise ConfigError("the model compares two texts: give pairs of texts as data.")
            other = tokenizer(second, **options)
            batch = dict(tokenizer(first, **options))
            batch |= {f"{name}_b": other[name] for name in ("input_ids", "attention_mask")}
        else:
            batch = dict(tokenizer(first, second, return_token_type_ids=True, **options))
        feeds.append({name: np.asarray(batch[name], dtype=np.int64) for name in names})
    return feeds


def write_formats(job: Job, folder: Path, formats: Sequence[str]) -> dict[str, float]:
    """Write the models into ``folder``, compare them, and return sizes, latencies and differences.

    Raises:
        CheckpointError: a format differs from PyTorch by more than its `TOLERANCE`, or cannot be
            written for this model.
    """
    _check_weights(job.model)
    shares = _write(job, folder, formats)
    names = ["fp32", *formats]
    computes = {name: _compute(job, folder, name) for name in names}
    found = compare(job.reference, computes, job.feeds())
    for name in names:
        check_difference(name, found[name], relative=job.kind == "encoder")
    metrics: dict[str, float] = {
        "parameters": float(sum(weight.numel() for weight in job.model.parameters())),
        "parity_batches": float(found["fp32"].batches),
        "largest_output": found["fp32"].scale,
    }
    for name in names:
        metrics[f"{name}_max_difference"] = found[name].largest
        metrics[f"{name}_label_agreement"] = found[name].agreement
        metrics[f"{name}_bytes"] = float(_bytes(folder, name))
        if name in shares:
            metrics[f"{name}_weight_share"] = shares[name]
        if name in MODEL_FILES:
            metrics[f"{name}_latency_ms"] = _latency(job, folder / MODEL_FILES[name], name)
    return metrics


def _check_weights(model: Any) -> None:
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CheckpointError(
                f"the weight {name} of the model is not finite: nothing was exported. "
                "Use an earlier checkpoint."
            )


def check_difference(name: str, found: Difference, *, relative: bool) -> None:
    """Raise CheckpointError if a format is further from PyTorch than it may be.

    ``relative``: outputs over 1 may differ by more, in proportion.
    """
    # A format without a limit of its own may lose precision, but must give numbers.
    limit = TOLERANCE.get(name, float("inf"))
    if relative or name == "fp16":
        limit *= max(1.0, found.scale)
    if not found.largest <= limit or not np.isfinite(found.largest):
        raise CheckpointError(
            f"the exported model's outputs ({name}) differ from PyTorch's by "
            f"{found.largest:.2g}, over {limit:.2g}: nothing was exported. "
            "Check the model for weights that are not finite or very large."
        )


def _write(job: Job, folder: Path, formats: Sequence[str]) -> dict[str, float]:
    """Write each format; return the share of weights in 8 bits where there is one."""
    exact = folder / MODEL_FILES["fp32"]
    with eager_attention(job.model):
        write_onnx(job.source, exact)
        if "torch-export" in formats:
            try:
                write_program(job.source, folder / PROGRAM_FILE)
            except Exception as error:  # each step of torch.export has errors of its own types
                reason = str(error).strip().splitlines()[0][:200]
                raise CheckpointError(
                    f"torch.export cannot write this model with free batch size and length: "
                    f"{reason}. Leave torch-export out; the ONNX files do not need it."
                ) from error
    shares = {}
    if "fp16" in formats:
        to_float16(exact, folder / MODEL_FILES["fp16"])
    if "int8" in formats:
        shares["int8"] = quantize(exact, folder / MODEL_FILES["int8"])
    if "int8-static" in formats:
        target = folder / MODEL_FILES["int8-static"]
        shares["int8-static"] = quantize_with_data(exact, target, job.calibration)
    if "safetensors" in formats:
        job.model.save_pretrained(folder / HUB_FOLDER)
        job.save_beside(folder / HUB_FOLDER)
    return shares


def _compute(job: Job, folder: Path, name: str) -> Compute:
    if name in MODEL_FILES:
        session = load_onnx(
            folder / MODEL_FILES[name], precision=name, threads=torch.get_num_threads()
        )
        return lambda feed: session.run(None, feed)
    if name == "torch-export":
        return program_compute(job.source, folder / PROGRAM_FILE)
    again = type(job.model).from_pretrained(folder / HUB_FOLDER, dtype=torch.float32).eval()
    if job.kind == "language-model":
        return model_compute(again, int(job.source.module.mem_len))  # type: ignore[arg-type]
    module = job.rebuild(again)

    @torch.inference_mode()
    def compute(feed: Feed) -> list[np.ndarray]:
        return [output.numpy() for output in module(*job.source.tensors(feed))]

    return compute


def _bytes(folder: Path, name: str) -> int:
    if name == "safetensors":
        return sum(path.stat().st_size for path in (folder / HUB_FOLDER).glob("*.safetensors"))
    return (folder / (PROGRAM_FILE if name == "torch-export" else MODEL_FILES[name])).stat().st_size


def _latency(job: Job, path: Path, name: str) -> float:
    """Return the median milliseconds of one row of 16 tokens (1 after a memory) on one thread."""
    session = load_onnx(path, precision=name, threads=1)
    feed: Feed = {}
    for key, value in job.source.example.items():
        row = value[:1]
        if key.startswith("memory_"):
            feed[key] = np.zeros((1, LATENCY_TOKENS, row.shape[2]), np.float32)
        elif job.kind == "language-model":
            feed[key] = row[:, :1]
        else:
            fill = np.ones if key.startswith("attention_mask") else np.zeros
            feed[key] = fill((1, LATENCY_TOKENS), np.int64)
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[LATENCY_RUNS // 4 :]))
