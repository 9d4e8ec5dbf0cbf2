"""manifest.json of a pretraining data folder: what went in, what came out, and each shard's sha256.

It is written last, so a folder with a manifest is complete.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.disk import damage, read_json, write_json
from nlpapp.errors import DataError

FORMAT = 3
MANIFEST = "manifest.json"
UNFINISHED = "unfinished"
"""Folder of what is needed to go on after an interruption; gone when the data is complete."""


def shard_name(index: int, count: int) -> str:
    """Return the file name of shard ``index`` of ``count``."""
    return f"shard-{index:05d}-of-{count:05d}.parquet"


def write_manifest(
    folder: Path, identity: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Add up the shards' records, write manifest.json, and return it.

    Args:
        folder: the data folder; the shards are there already.
        identity: ``options``, ``tokenizer_fingerprint``, ``sources``, and ``counts`` of the input.
        shards: for each its ``file``, ``sha256``, ``bytes``, ``counts`` (name -> number) and
            ``lengths`` (how many of its instances have 0, 1, 2 ... tokens).
    """
    counts = Counter(identity.get("counts", {}))
    lengths: np.ndarray = np.zeros(0, dtype=np.int64)
    for record in shards:
        counts.update(record["counts"])
        lengths = _sum(lengths, np.asarray(record["lengths"], dtype=np.int64))
    counts["bytes"] = sum(record["bytes"] for record in shards)
    manifest = {
        "format": FORMAT,
        **identity,
        "counts": dict(sorted(counts.items())),
        "statistics": statistics(counts),
        "lengths": lengths.tolist(),
        "shards": [
            {key: value for key, value in record.items() if key != "lengths"} for record in shards
        ],
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def statistics(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the shares and means that tell whether data is as it should be."""

    def share(part: str, whole: str) -> float:
        return counts.get(part, 0) / max(counts.get(whole, 0), 1)

    return {
        "next_sentence_random_share": share("random_next", "instances"),
        "sentence_order_swapped_share": share("swapped_order", "instances"),
        "mask_rate": share("masked_tokens", "instance_tokens"),
        "replaced_by_mask": share("masked_as_mask", "masked_tokens"),
        "replaced_by_random": share("masked_as_random", "masked_tokens"),
        "mean_length": share("instance_tokens", "instances"),
        "tokens_per_word": share("tokens", "words"),
        "unknown_rate": share("unknown_tokens", "tokens"),
        "truncated_rate": share("truncated_tokens", "instance_tokens"),
        "bytes_per_token": share("bytes", "instance_tokens"),
    }


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a complete pretraining data folder.

    Raises:
        DataError: there is no pretraining data, it is not finished, damaged, or of another format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / UNFINISHED).is_dir():
            raise DataError(
                f"The pretraining data in {folder} is not finished. Go on with "
                f"`{repair_command(folder)}`."
            )
        raise DataError(
            f"{folder} holds no pretraining data (no {MANIFEST}). `nlpapp make-data` writes "
            "such folders."
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged ({error}). Remove it and run `{repair_command(folder)}` again."
        ) from None
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{path} is of format {manifest.get('format')}; this version of nlpapp reads {FORMAT}. "
            f"Make the data again in another folder: `{repair_command(folder)} --output_dir ...`."
        )
    return manifest


def check_shard(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise `DataError`, with the way to repair it, if a shard is not as it was written."""
    problem = damage(folder / record["file"], record["sha256"])
    if problem is not None:
        raise DataError(
            f"Shard {folder / record['file']} is {problem}. Build it again with "
            f"`{repair_command(folder)}`: the other shards are kept."
        )


def repair_command(folder: Path) -> str:
    """Return the command that made the data in ``folder``, and that makes it whole again."""
    # The data set of a phase lies in the folder of its run.
    run = next((f for f in (folder, folder.parent) if (f / "config.yaml").is_file()), folder)
    made_by = (read_json(run / "environment.json") or {}).get("command", "make-data")
    return f"nlpapp {made_by} --config {run / 'config.yaml'}"


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(one), len(other)), dtype=np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
