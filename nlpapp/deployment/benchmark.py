"""How large and how fast classifiers are on this machine: PyTorch folders and exported bundles.

What is timed is what a user waits for: a list of texts in, a list of labels and probabilities out,
tokenizer included. All models take turns on the same texts, so that another load on the machine
slows all of them alike; medians leave out what is left of it.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from nlpapp.deployment.runtime import MODEL_FILES, Predictor
from nlpapp.errors import CheckpointError, DataError

Predict = Callable[[Sequence[str], Sequence[str] | None], list[dict[str, Any]]]
"""(texts, second texts or None) -> predictions, as `runtime.Predictor.predict` gives."""

WARM_UP = 5
LOADS = 3
"""How often each model is loaded; the median is reported."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that predicts."""

    name: str
    kind: str
    """pytorch, fp32 or int8."""
    load: Callable[[], Predict]
    parameters: int
    bytes: int
    """Size of the weights on disk."""


def find_subjects(
    folder: str | Path,
    *,
    name: str,
    load_torch: Callable[[Path], tuple[Any, Any]],
    threads: int,
    max_seq_length: int,
) -> list[Subject]:
    """Return what can be timed in ``folder``: a PyTorch model, or the models of a bundle.

    Args:
        folder: a model folder, or a bundle of `nlpapp export`.
        name: what to call it, as in `distinct_names`.
        load_torch: folder -> (classifier, tokenizer).
        threads: of a bundle's session.
        max_seq_length: tokens that a PyTorch model reads; a bundle has its own limit.

    Raises:
        CheckpointError: the folder is neither.
    """
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return [
            _bundle_subject(folder, precision, name=name, threads=threads)
            for precision, file in MODEL_FILES.items()
            if (folder / file).is_file()
        ]
    weights = list(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise CheckpointError(
            f"{folder} is neither a model folder (config.json, model.safetensors) nor a bundle of "
            "nlpapp export (manifest.json, model.onnx)."
        )
    model, _ = load_torch(folder)
    return [
        Subject(
            name=name,
            kind="pytorch",
            load=lambda: torch_predictor(*load_torch(folder), max_seq_length=max_seq_length),
            parameters=sum(weight.numel() for weight in model.parameters()),
            bytes=sum(path.stat().st_size for path in weights),
        )
    ]


def _bundle_subject(folder: Path, precision: Any, *, name: str, threads: int) -> Subject:
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        parameters = int(figures["parameters"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / 'metrics.json'} cannot be read: {error}.") from error
    return Subject(
        name=name,
        kind=precision,
        load=lambda: Predictor(folder, precision=precision, threads=threads).predict,
        parameters=parameters,
        bytes=(folder / MODEL_FILES[precision]).stat().st_size,
    )


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: of runs/sst2/model sst2, or the whole path where two agree."""
    parts = [[part for part in path.parts if part not in ("model", "bundle")] for path in folders]
    short = [kept[-1] if kept else str(path) for kept, path in zip(parts, folders, strict=True)]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, folders, strict=True)
    ]


def torch_predictor(model: Any, tokenizer: Any, *, max_seq_length: int) -> Predict:
    """Return a function that predicts with a PyTorch classifier, as `runtime.Predictor` does."""
    model.eval()
    labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    siamese = getattr(model.config, "siamese", False)
    options: dict[str, Any] = {"truncation": True, "max_length": max_seq_length}
    options |= {"padding": True, "return_tensors": "pt"}

    @torch.inference_mode()
    def predict(texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        joined = list(pairs) if pairs is not None and not siamese else None
        batch = dict(tokenizer(list(texts), joined, **options))
        if pairs is not None and siamese:
            other = tokenizer(list(pairs), **options)
            batch |= {f"{name}_b": other[name] for name in ("input_ids", "attention_mask")}
        logits = model(**batch).logits  # (texts, labels)
        if len(labels) == 1:
            return [{"score": value} for value in logits[:, 0].tolist()]
        return [
            {"label": labels[best], "probabilities": dict(zip(labels, row, strict=True))}
            for best, row in zip(logits.argmax(1).tolist(), logits.softmax(1).tolist(), strict=True)
        ]

    return predict


def time_predictors(
    subjects: Sequence[Subject],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    batch_sizes: Sequence[int] = (8, 32),
    rounds: int = 200,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Time ``subjects`` in rotation and return a row of figures for each.

    Args:
        subjects: from `find_subjects`.
        texts: texts of usual length; all models get the same ones, again and again if they are few.
        pairs: second texts.
        batch_sizes: batches whose throughput is measured.
        rounds: predictions of one text each, for the latency; a tenth of them for each batch size.
        threads: processor threads of PyTorch and of the tokenizers (one, or all of them).

    Returns:
        Rows with model, kind, parameters, bytes, load_ms, p50_ms, p95_ms and p99_ms of one text,
        and texts_per_second_<n> for each batch size.

    Raises:
        DataError: there are no texts.
    """
    if not texts:
        raise DataError("there are no texts to time the models with.")
    with _limited_to(threads):
        loads, predictors = _load_in_turn(subjects)
        latency = _time_in_turn(predictors, texts, pairs, size=1, rounds=rounds)
        batches = {
            size: _time_in_turn(predictors, texts, pairs, size=size, rounds=max(3, rounds // 10))
            for size in batch_sizes
        }
    rows = []
    for index, subject in enumerate(subjects):
        quantiles = np.quantile(latency[index], [0.5, 0.95, 0.99]) * 1000
        row: dict[str, Any] = {"model": subject.name, "kind": subject.kind}
        row |= {"parameters": subject.parameters, "bytes": subject.bytes}
        row["load_ms"] = float(np.median(loads[index]) * 1000)
        row |= {f"p{n}_ms": float(q) for n, q in zip((50, 95, 99), quantiles, strict=True)}
        for size, times in batches.items():
            row[f"texts_per_second_{size}"] = float(size / np.median(times[index]))
        rows.append(row)
    return rows


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return ``rows`` as lines of aligned columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_shown(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _load_in_turn(subjects: Sequence[Subject]) -> tuple[list[list[float]], list[Predict]]:
    loads: list[list[float]] = [[] for _ in subjects]
    predictors: list[Predict] = []
    for turn in range(LOADS):
        for subject, times in zip(subjects, loads, strict=True):
            gc.collect()
            start = time.perf_counter()
            predictor = subject.load()
            times.append(time.perf_counter() - start)
            if turn == LOADS - 1:
                predictors.append(predictor)
    return loads, predictors


def _time_in_turn(
    predictors: Sequence[Predict],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    size: int,
    rounds: int,
) -> np.ndarray:
    """Return (models, rounds) seconds; in each round every model gets the same ``size`` texts."""
    seconds = np.empty((len(predictors), rounds))
    for turn in tqdm(range(-WARM_UP, rounds), desc=f"batches of {size}", unit="round"):
        chosen = [(max(turn, 0) * size + offset) % len(texts) for offset in range(size)]
        batch = [texts[index] for index in chosen]
        others = None if pairs is None else [pairs[index] for index in chosen]
        # The first model finds the texts cold: each gets that place equally often.
        for place in range(len(predictors)):
            index = (place + turn) % len(predictors)
            start = time.perf_counter()
            predictors[index](batch, others)
            if turn >= 0:
                seconds[index, turn] = time.perf_counter() - start
    return seconds


@contextmanager
def _limited_to(threads: int) -> Iterator[None]:
    """Give PyTorch ``threads`` threads, and the tokenizers one if that is one; then undo it."""
    before, variable = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = variable
