"""Checkpoints that are whole or absent: written beside, synced, renamed, with checksums.

checkpoints/step-<n>/ holds
    model.safetensors    the weights
    optimizer.pt         the optimizer's state (tensors only, read with weights_only=True)
    rank-<r>.pt          for each process: the states of its random generators and its carry
    state.json           step, epoch, position in the epoch, best evaluation, fingerprints of
                         tokenizer and training data
    checksums.json       sha256 of each file above, written last
"""

import errno
import json
import logging
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from nlpapp.disk import file_sha256
from nlpapp.errors import CheckpointError

logger = logging.getLogger("nlpapp")


def partial_folder(checkpoints: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` is put together before it gets its name."""
    return checkpoints / f".step-{step}.partial"


def write_rank(checkpoints: Path, step: int, rank: int, carry: Any) -> None:
    """Write what only process ``rank`` knows: its random generators and its carry.

    Of several CUDA devices, the current one is the process's own.
    """
    folder = partial_folder(checkpoints, step)
    folder.mkdir(parents=True, exist_ok=True)
    # The generators of Python and numpy have JSON states, torch's are byte tensors.
    version, internal, gauss = random.getstate()
    state = {
        "python": json.dumps([version, list(internal), gauss]),
        "numpy": json.dumps(_numpy_state()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "carry": carry,
    }
    torch.save(state, _rank_file(folder, rank))


def _numpy_state() -> list[Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return [name, np.asarray(keys).tolist(), position, has_gauss, gauss]


def read_rank(folder: Path, rank: int) -> list[Any]:
    """Restore the random generators of process ``rank`` and return its carries.

    A process that the saved run did not have keeps its fresh generators, and has no carries.
    """
    if not _rank_file(folder, rank).is_file():
        logger.warning(
            "the checkpoint %s has no generators of process %d: they start fresh", folder, rank
        )
        return []
    state = _read_rank_file(folder, rank)
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = json.loads(state["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        own = state["cuda"]
        if isinstance(own, list):  # Earlier versions kept the states of all devices they saw.
            own = dict(enumerate(own)).get(torch.cuda.current_device())
        if own is not None:
            torch.cuda.set_rng_state(own)
    return list(state["carry"])


def read_carries(folder: Path, world_size: int) -> list[Any]:
    """Return the carries of all micro-batches, process by process, of a run of ``world_size``."""
    states = (_read_rank_file(folder, rank) for rank in range(world_size))
    return [carry for state in states for carry in state["carry"]]


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"


def _read_rank_file(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(_rank_file(folder, rank), weights_only=True, map_location="cpu")


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a nested list, tuple or dict to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def write_main(
    checkpoints: Path,
    step: int,
    weights: dict[str, torch.Tensor],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> Path:
    """Write weights, optimizer and state beside the ranks' files, and give the checkpoint its name.

    Call it on the main process after every process wrote its part. Returns the checkpoint's folder.
    """
    partial = partial_folder(checkpoints, step)
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(whole, partial / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer, partial / "optimizer.pt")
    (partial / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    checksums = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
    (partial / "checksums.json").write_text(json.dumps(checksums, indent=2), encoding="utf-8")
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    final = checkpoints / f"step-{step}"
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _sync(checkpoints)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_write_failure(error: Exception, checkpoints: Path, step: int) -> CheckpointError:
    """Remove the half-written checkpoint and return the error to raise in place of ``error``."""
    shutil.rmtree(partial_folder(checkpoints, step), ignore_errors=True)
    last = newest_sound(checkpoints)
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    reason = "the disk is full" if full else str(error)
    keep = f"The last sound checkpoint is {last}" if last else "There is no earlier checkpoint"
    return CheckpointError(
        f"could not write the checkpoint of step {step} to {checkpoints}: {reason}. {keep}; "
        "free some space and start the same command again to go on from there."
    )


def steps_on_disk(checkpoints: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, oldest first, sound or not."""
    if not checkpoints.is_dir():
        return []
    matches = (re.fullmatch(r"step-(\d+)", path.name) for path in checkpoints.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def verify(folder: Path) -> None:
    """Check every file of a checkpoint against its sha256.

    Raises:
        CheckpointError: a file is missing, truncated or changed; the message names it.
    """
    try:
        checksums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no readable checksums.json: {error}") from error
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing from its checkpoint")
        if file_sha256(path) != expected:
            raise CheckpointError(f"{path} is damaged: its sha256 is not the one it was saved with")


def newest_sound(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that passes `verify`; warn of the damaged ones."""
    for step in reversed(steps_on_disk(checkpoints)):
        folder = checkpoints / f"step-{step}"
        try:
            verify(folder)
        except CheckpointError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
        else:
            return folder
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """Return state.json of a checkpoint."""
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint by name, on the CPU."""
    return load_file(folder / "model.safetensors")


def prune(checkpoints: Path, *, step: int, keep: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints up to ``step`` and the best one.

    Later ones are of a run that this one has replaced (``training.resume``), or damaged.
    """
    steps = steps_on_disk(checkpoints)
    kept = {*[earlier for earlier in steps if earlier <= step][-keep:], best_step}
    for other in steps:
        if other not in kept:
            shutil.rmtree(checkpoints / f"step-{other}")


def remove_partial(checkpoints: Path) -> None:
    """Remove checkpoints that were not finished."""
    for leftover in checkpoints.glob(".step-*.partial"):
        shutil.rmtree(leftover)
