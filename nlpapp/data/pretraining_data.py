"""Reads the folder that make-data wrote: examples by number, straight from numpy arrays.

All of it is held in memory, in the small integer types of the shards: two bytes a token for a
vocabulary of up to 65,536 pieces.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class PretrainingExample:
    """One instance: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]."""

    input_ids: np.ndarray
    """(S,), with masks in place if the data has static masks."""
    token_type_ids: np.ndarray
    """(S,): 0 up to the first [SEP], 1 after it."""
    masked_lm_positions: np.ndarray | None
    """(K,) positions to predict, ascending; None: masks are drawn when batches are made."""
    masked_lm_ids: np.ndarray | None
    """(K,) what stood there."""
    next_sentence_label: int | None
    """0: B follows A, 1: B is random; None without next-sentence prediction."""


@dataclass(frozen=True)
class _Lists:
    """Rows of different lengths: all values, and where each row begins."""

    values: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class PretrainingData:
    """The instances of a pretraining data folder; make it with `PretrainingData.open`."""

    def __init__(self, manifest: dict[str, Any], table: pa.Table) -> None:
        """Take over the columns of ``table``."""
        self.manifest = manifest
        self._ids = _lists(table, "input_ids")
        self._types = _lists(table, "token_type_ids")
        static = "masked_lm_positions" in table.column_names
        self._positions = _lists(table, "masked_lm_positions") if static else None
        self._labels = _lists(table, "masked_lm_ids") if static else None
        self._next: np.ndarray | None = None
        if "next_sentence_label" in table.column_names:
            self._next = table.column("next_sentence_label").to_numpy()
        self.lengths: np.ndarray = np.diff(self._ids.offsets)
        """Tokens of each instance, int64."""

    @classmethod
    def open(cls, folder: str | Path) -> "PretrainingData":
        """Read a folder, and check every shard against its checksum.

        Raises:
            DataError: there is no pretraining data, it is not finished, or a shard is damaged.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        tables = []
        for record in manifest["shards"]:
            path = folder / record["file"]
            problem = damage(path, record["sha256"])
            if problem is not None:
                raise DataError(
                    f"Shard {path} is {problem}. Build it again with "
                    f"`nlpapp make-data --config {folder / 'config.yaml'}`: the other shards "
                    "are kept."
                )
            tables.append(pq.read_table(path))
        return cls(manifest, pa.concat_tables(tables))

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> PretrainingExample:
        """Return instance number ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"instance {index} of {len(self)}")
        return PretrainingExample(
            input_ids=self._ids[index],
            token_type_ids=self._types[index],
            masked_lm_positions=self._positions[index] if self._positions else None,
            masked_lm_ids=self._labels[index] if self._labels else None,
            next_sentence_label=None if self._next is None else int(self._next[index]),
        )

    @property
    def has_static_masks(self) -> bool:
        """Tell whether the masks are in the data, rather than drawn when batches are made."""
        return self._positions is not None

    @property
    def has_next_sentence(self) -> bool:
        """Tell whether the data has next-sentence labels."""
        return self._next is not None


def _lists(table: pa.Table, name: str) -> _Lists:
    chunks: list[pa.ListArray] = [chunk for chunk in table.column(name).chunks if len(chunk)]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
    values = [chunk.flatten().to_numpy() for chunk in chunks]
    return _Lists(
        values=np.concatenate(values) if values else np.zeros(0, dtype=np.uint16),
        offsets=np.concatenate([[0], *lengths]).cumsum(dtype=np.int64),
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / UNFINISHED).is_dir():
            raise DataError(
                f"The pretraining data in {folder} is not finished. Go on with "
                f"`nlpapp make-data --config {folder / 'config.yaml'}`."
            )
        raise DataError(
            f"{folder} holds no pretraining data (no {MANIFEST}). `nlpapp make-data` writes "
            "such folders."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged ({error}). Remove the folder and run make-data again."
        ) from None
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{path} is of format {manifest.get('format')}; this version of nlpapp reads {FORMAT}. "
            "Run make-data again."
        )
    return manifest


def damage(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a file, or None if it is as it was written."""
    if not path.is_file():
        return "missing"
    return None if file_sha256(path) == sha256 else "damaged (its checksum differs)"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex, reading a piece at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
