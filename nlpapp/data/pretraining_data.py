"""Reads the folder that make-data wrote: examples by number, straight from arrays on disk.

The first opening writes the shards out as flat arrays (`pretraining_cache`); they are mapped, not
read, so that memory does not grow with the data, and processes of one machine share its pages.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.data.manifest import read_manifest
from nlpapp.data.pretraining_cache import cache_folder, open_arrays


@dataclass(frozen=True)
class PretrainingExample:
    """One instance: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]. Its arrays are read-only."""

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
    sentence_order_label: int | None = None
    """0: A and B are in order, 1: swapped; None without sentence-order prediction."""
    word_continues: np.ndarray | None = None
    """(S,) bool: the token goes on with the word before it; None: the data does not say."""


@dataclass(frozen=True)
class _Lists:
    """Rows of different lengths: all values, and where each row begins."""

    values: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class PretrainingData:
    """The instances of a pretraining data folder; make it with `PretrainingData.open`."""

    def __init__(self, manifest: dict[str, Any], cache: Path) -> None:
        """Map the arrays in ``cache``."""
        self.manifest = manifest
        self._cache = cache
        arrays = open_arrays(cache)

        def lists(name: str, offsets: str) -> _Lists | None:
            return _Lists(arrays[name], arrays[offsets]) if name in arrays else None

        self._ids = _Lists(arrays["input_ids"], arrays["token_offsets"])
        self._types = _Lists(arrays["token_type_ids"], arrays["token_offsets"])
        self._continues = lists("word_continues", "token_offsets")
        self._positions = lists("masked_lm_positions", "prediction_offsets")
        self._labels = lists("masked_lm_ids", "prediction_offsets")
        self._next = arrays.get("next_sentence_label")
        self._order = arrays.get("sentence_order_label")
        self.lengths: np.ndarray = arrays["lengths"]
        """Tokens of each instance, int64."""

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> "PretrainingData":
        """Open a folder; the first time, read in and check its shards.

        Args:
            folder: what make-data wrote.
            verify: check shards against their checksums before they are read in, and again at an
                opening that finds another size or time of change than at the last check.

        Raises:
            DataError: there is no pretraining data, it is not finished, a shard is missing or
                damaged, or there is no room for the arrays.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        return cls(manifest, cache_folder(folder, manifest, verify=verify))

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the arrays itself: none of them is sent to it.
        return type(self), (self.manifest, self._cache)

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
            sentence_order_label=None if self._order is None else int(self._order[index]),
            word_continues=self._continues[index] if self._continues else None,
        )

    @property
    def fingerprint(self) -> str:
        """Say what the data is, in words that differ for other data.

        The checksums of the shards stand for the instances, the options for masks drawn later.
        """
        shards = _digest([record["sha256"] for record in self.manifest["shards"]])
        options = _digest(self.manifest["options"])
        return f"{len(self)} instances in shards {shards} with options {options}"

    @property
    def has_static_masks(self) -> bool:
        """Tell whether the masks are in the data, rather than drawn when batches are made."""
        return self._positions is not None

    @property
    def has_next_sentence(self) -> bool:
        """Tell whether the data has next-sentence labels."""
        return self._next is not None

    @property
    def has_sentence_order(self) -> bool:
        """Tell whether the data has sentence-order labels."""
        return self._order is not None

    @property
    def has_words(self) -> bool:
        """Tell whether the data says which tokens go on with a word."""
        return self._continues is not None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
