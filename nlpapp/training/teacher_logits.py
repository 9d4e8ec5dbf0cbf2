"""A teacher's logits for a whole set, computed once and kept on disk.

<path>.npy holds (examples, classes) float32, <path>.json what it was computed from: the hashes of
the teacher's weights and of the data. While they are computed, <path>.rows holds those that are
done, from the longest example to the shortest, and <path>.rows.json the same hashes and how many
there are, so that a run that is killed goes on. Logits of another teacher or of other data are
named and never used: they are computed again. <path>.lock keeps runs that want the same ones apart:
one computes them, the others wait and read them.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from nlpapp.data.sampling import Batch, ExampleSteps
from nlpapp.disk import only_one, read_json, write_json, written_whole
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.processes import process_state

logger = logging.getLogger("nlpapp")

CHUNK_BATCHES = 32
"""Batches between two movements of the progress bar, and between two records on the disk."""


def weights_hash(model: torch.nn.Module) -> str:
    """Return a sha256 of the weights of ``model``."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        # As bytes: numpy has no bfloat16.
        raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def data_hash(arrays: Iterable[np.ndarray]) -> str:
    """Return a sha256 of ``arrays``, which a teacher reads."""
    digest = hashlib.sha256()
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
    shared: bool = False,
) -> np.ndarray:
    """Return ``forward(model, batch)`` for each example, from the cache if it holds the same.

    Args:
        path: the cache, without ending; if it is ``shared``, a folder of caches.
        model: the teacher.
        forward: gives (b, C) logits of a batch.
        collate: (example indices, epoch) -> batch.
        token_ids: everything that the teacher reads; with its weights, what the cache is known by.
        lengths: tokens of each example; those of equal length share a batch.
        batch_size: examples of one batch.
        shared: whether the name of the cache is made of what it is known by, so that logits of
            other teachers and of other data lie beside it.

    Returns:
        (examples, C) float32, mapped from the disk. All processes compute and get the same.
    """
    state = process_state()
    teacher, data = weights_hash(model), data_hash(token_ids)
    record = {"teacher": teacher, "data": data, "rows": len(lengths)}
    if shared:
        path = path / f"{teacher[:16]}-{data[:16]}"
        path.parent.mkdir(parents=True, exist_ok=True)
    rows_file, record_file = path.with_suffix(".npy"), path.with_suffix(".json")
    with _alone(path.with_suffix(".lock"), rows_file):
        if _matches(record_file, record, rows_file):
            logger.info("teacher's logits: read from %s", rows_file)
        else:
            _compute(
                rows_file,
                record,
                lambda part: predict_rows(model, forward, _steps(part, collate, batch_size)),
                lengths=lengths,
                chunk=CHUNK_BATCHES * batch_size * state.num_processes,
            )
        # No process has still to look when the lock goes.
        state.wait_for_everyone()
    return np.load(rows_file, mmap_mode="r")


@contextlib.contextmanager
def _alone(lock: Path, rows_file: Path) -> Iterator[None]:
    """Hold ``lock`` on the main process, and wait on the others until it does."""
    state = process_state()
    with contextlib.ExitStack() as held:
        if state.is_main_process:
            held.enter_context(only_one(lock, f"asks the teacher for {rows_file}"))
        state.wait_for_everyone()
        yield


def _matches(record_file: Path, record: dict[str, Any], rows_file: Path) -> bool:
    """Say whether ``rows_file`` is there and of ``record``, and log what else it is of."""
    found = read_json(record_file)
    if found is None or not rows_file.is_file():
        return False
    other = [name for name in ("teacher", "data") if found.get(name) != record[name]]
    if other:
        logger.warning(
            "teacher's logits: those in %s are of another %s, and not used",
            rows_file,
            " and of other ".join(other),
        )
    return not other


def _compute(
    rows_file: Path,
    record: dict[str, Any],
    logits_of: Callable[[np.ndarray], np.ndarray],
    *,
    lengths: np.ndarray,
    chunk: int,
) -> None:
    """Write the logits of all examples, or those that are missing, to ``rows_file``."""
    # The longest first: the rate shown only gets better, and too large a batch fails at once.
    order = np.argsort(-lengths, kind="stable")
    state = process_state()
    partial, progress_file = rows_file.with_suffix(".rows"), rows_file.with_suffix(".rows.json")
    progress = record | {"done": 0, "classes": 0}
    if _matches(progress_file, record, partial):
        progress = read_json(progress_file) or progress
        logger.info("teacher's logits: %d of %d were there", progress["done"], len(order))
    # All have read how far it is before the main process writes.
    state.wait_for_everyone()
    if state.is_main_process and not progress["done"]:
        progress_file.unlink(missing_ok=True)
    bar = tqdm(
        total=len(order),
        initial=progress["done"],
        desc="teacher's logits",
        unit="example",
        disable=not state.is_main_process,
        dynamic_ncols=True,
    )
    with bar:
        for start in range(progress["done"], len(order), chunk):
            found = logits_of(order[start : start + chunk])
            progress |= {"done": start + len(found), "classes": found.shape[1]}
            if state.is_main_process:
                _append(partial, found, start)
                write_json(progress_file, progress)
            bar.update(len(found))
    if state.is_main_process:
        rows = np.empty((len(order), progress["classes"]), dtype=np.float32)
        rows[order] = np.fromfile(partial, dtype=np.float32).reshape(rows.shape)
        # The record goes first and comes last: it never stands beside rows of another.
        rows_file.with_suffix(".json").unlink(missing_ok=True)
        with written_whole(rows_file) as file:
            np.save(file, rows)
        write_json(rows_file.with_suffix(".json"), record)
        progress_file.unlink()
        partial.unlink()


def _append(path: Path, rows: np.ndarray, start: int) -> None:
    """Write ``rows`` (b, C) as rows ``start`` and on, in place of what a killed run left there."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    with open(path, "r+b" if start else "wb") as file:
        file.truncate(start * rows.itemsize * rows.shape[1])
        file.seek(0, os.SEEK_END)
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _steps(
    rows: np.ndarray, collate: Callable[[np.ndarray, int], Batch], batch_size: int
) -> ExampleSteps:
    def collate_rows(indices: np.ndarray, epoch: int) -> Batch:
        return collate(rows[indices], epoch)

    return ExampleSteps(len(rows), collate_rows, batch_size=batch_size, shuffle=False)
