"""A teacher's logits for a whole set, computed once and kept on disk.

<path>.npy holds (examples, classes) float32, <path>.json the key of what it was computed from. A
cache with another key, of another teacher or other data, is never used: it is computed again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from nlpapp.data.sampling import Batch, ExampleSteps
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.processes import process_state

logger = logging.getLogger("nlpapp")

CHUNK_BATCHES = 32
"""Batches between two movements of the progress bar."""


def logits_key(model: torch.nn.Module, arrays: Iterable[np.ndarray]) -> str:
    """Return a sha256 of the teacher's weights and of the ``arrays`` that it reads."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def cached_logits(
    path: Path,
    *,
    model: Any,
    forward: Callable[[Any, Batch], torch.Tensor],
    collate: Callable[[np.ndarray, int], Batch],
    token_ids: Iterable[np.ndarray],
    lengths: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Return ``forward(model, batch)`` for each example, from the cache if it holds the same.

    Args:
        path: the cache, without ending.
        model: the teacher.
        forward: gives (b, C) logits of a batch.
        collate: (example indices, epoch) -> batch.
        token_ids: everything that the teacher reads; with its weights, what the cache is known by.
        lengths: tokens of each example; those of equal length share a batch.
        batch_size: examples of one batch.

    Returns:
        (examples, C) float32, mapped from the disk. All processes compute and get the same.
    """
    state = process_state()
    rows_file, key_file = path.with_suffix(".npy"), path.with_suffix(".json")
    key = logits_key(model, token_ids)
    if _read_key(key_file) == key and rows_file.is_file():
        logger.info("teacher's logits: read from %s", rows_file)
    else:
        if key_file.is_file():
            logger.info("teacher's logits: those in %s are of another teacher or data", rows_file)
        found = _compute(model, forward, collate, lengths=lengths, batch_size=batch_size)
        if state.is_main_process:
            _write(rows_file, key_file, found, key)
        state.wait_for_everyone()
    return np.load(rows_file, mmap_mode="r")


def _compute(
    model: Any,
    forward: Callable[[Any, Batch], torch.Tensor],
    collate: Callable[[np.ndarray, int], Batch],
    *,
    lengths: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    # The longest first: the rate shown only gets better, and too large a batch fails at once.
    order = np.argsort(-lengths, kind="stable")
    state = process_state()
    rows: np.ndarray | None = None
    size = CHUNK_BATCHES * batch_size * state.num_processes
    bar = tqdm(
        total=len(order),
        desc="teacher's logits",
        unit="example",
        disable=not state.is_main_process,
        dynamic_ncols=True,
    )
    with bar:
        for start in range(0, len(order), size):
            part = order[start : start + size]
            steps = _steps(part, collate, batch_size)
            found = predict_rows(model, forward, steps)
            if rows is None:
                rows = np.empty((len(order), *found.shape[1:]), dtype=np.float32)
            rows[part] = found
            bar.update(len(part))
    assert rows is not None, "a data set has at least one example"
    return rows


def _steps(
    rows: np.ndarray, collate: Callable[[np.ndarray, int], Batch], batch_size: int
) -> ExampleSteps:
    def collate_rows(indices: np.ndarray, epoch: int) -> Batch:
        return collate(rows[indices], epoch)

    return ExampleSteps(len(rows), collate_rows, batch_size=batch_size, shuffle=False)


def _read_key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(rows_file: Path, key_file: Path, rows: np.ndarray, key: str) -> None:
    """Write both files; the key last, so that it never stands beside rows of another key."""
    key_file.unlink(missing_ok=True)
    partial = rows_file.with_name(rows_file.name + ".partial")
    with open(partial, "wb") as file:
        np.save(file, rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, rows_file)
    key_file.write_text(json.dumps({"key": key, "rows": len(rows)}), encoding="utf-8")
