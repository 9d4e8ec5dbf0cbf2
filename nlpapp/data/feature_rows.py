"""Lines of text for feature extraction: ``text`` or ``text a ||| text b``, to ids, in chunks.

Source of the form, of the cutting and of the order of special tokens: extract_features.py of
google-research/bert. A pair is cut from its longer text, and from the second one where both are
equally long; the library's own cutting differs from that by one token at odd lengths.

The file is a stream: what is in memory is one chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.data.collate import attention_mask, pad_rows
from nlpapp.data.sampling import Batch, cut_by_tokens
from nlpapp.data.table_files import read_lines
from nlpapp.disk import file_sha256
from nlpapp.errors import ConfigError

SEPARATOR = " ||| "

CHUNK_CHARACTERS = 4_000_000
"""A chunk ends with the line that exceeds this, however few lines it has: it bounds the memory."""

TextRow = tuple[str, str | None]
"""A text, and the second text of a pair."""


@dataclass(frozen=True)
class TextFile:
    """A file of one text or pair a line, read through once."""

    path: Path
    rows: int
    sha256: str


def scan(path: str | Path) -> TextFile:
    """Read a file through once: its lines are counted, and all of them are UTF-8.

    Raises:
        DataError: the file is absent, empty, or not UTF-8; names the line and the byte.
    """
    path = Path(path)
    rows = sum(1 for _ in read_lines(path))
    return TextFile(path, rows, file_sha256(path))


def split_pair(line: str) -> TextRow:
    """Return the text of ``line``, or its two texts, cut at the last `SEPARATOR`."""
    line = line.strip()
    first, separator, second = line.rpartition(SEPARATOR)
    return (first, second) if separator else (line, None)


def read_rows(path: str | Path, *, skip: int, chunk_rows: int) -> Iterator[list[TextRow]]:
    """Yield the lines of a file, ``chunk_rows`` at a time, from line ``skip`` (from 0) on.

    Of very long lines there are fewer in a chunk. An empty line is an empty text: row number and
    line number stay the same.

    Raises:
        DataError: as `scan`.
    """
    rows: list[TextRow] = []
    characters = 0
    for _, text in islice(read_lines(Path(path)), skip, None):
        rows.append(split_pair(text))
        characters += len(text)
        if len(rows) == chunk_rows or characters > CHUNK_CHARACTERS:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def read_texts(path: str | Path, wanted: Sequence[int]) -> dict[int, str]:
    """Return the lines of a file with the numbers ``wanted`` (from 0), in one pass."""
    missing = set(wanted)
    last = max(missing, default=-1) + 1
    lines = islice(read_lines(Path(path)), last)
    return {number - 1: text for number, text in lines if number - 1 in missing}


@dataclass(frozen=True)
class EncodedRows:
    """Rows as ids, unpadded, in the order of the file."""

    input_ids: list[np.ndarray]
    token_type_ids: list[np.ndarray]
    lengths: np.ndarray
    """(rows,) int64: tokens of each row, special ones included."""
    cut: int
    """Rows that did not fit into the most tokens."""

    pad_token_id: int

    def batches(self, tokens_per_batch: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield (indices of rows, their batch): rows of similar length, as many as fit.

        A batch has input_ids, attention_mask and token_type_ids, (B, S) int64, padded on the
        right. A row over ``tokens_per_batch`` is a batch of its own.
        """
        order = np.argsort(self.lengths, kind="stable")
        budget = max(tokens_per_batch, int(self.lengths.max()))
        for indices in cut_by_tokens(order, self.lengths, budget):
            rows = [self.input_ids[index] for index in indices]
            types = [self.token_type_ids[index] for index in indices]
            yield (
                indices,
                {
                    "input_ids": pad_rows(rows, self.pad_token_id),
                    "attention_mask": attention_mask(rows),
                    "token_type_ids": pad_rows(types, 0),
                },
            )


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts before, between and behind the texts: (ids, types) of each place."""

    special: tuple[tuple[list[int], list[int]], ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(len(ids) for ids, _ in self.special)

    def fill(self, texts: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        ids, types = list(self.special[0][0]), list(self.special[0][1])
        for text, kind, (after, after_types) in zip(
            texts, self.types, self.special[1:], strict=True
        ):
            ids += text + after
            types += [kind] * len(text) + after_types
        return np.asarray(ids, dtype=np.int32), np.asarray(types, dtype=np.int8)


class RowEncoder:
    """Turns texts and pairs into ids, as the original feature extractor did."""

    def __init__(self, tokenizer: Any, *, max_seq_length: int) -> None:
        """Take a fast transformers tokenizer.

        Raises:
            ConfigError: the tokenizer has no backend of `tokenizers`, or ``max_seq_length`` has no
                room for a token of each text of a pair.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"the tokenizer ({type(tokenizer).__name__}) has no tokenizer.json; save it as a "
                "fast tokenizer first."
            )
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._single, self._pair = self._frame(1), self._frame(2)
        needed = self._pair.size + 2
        if max_seq_length < needed:
            raise ConfigError(
                f"max_seq_length is {max_seq_length}; use at least {needed}: {self._pair.size} "
                "special tokens and one of each text."
            )
        self.max_seq_length = max_seq_length
        self.pad_token_id = int(tokenizer.pad_token_id or 0)

    def _frame(self, texts: int) -> _Frame:
        """Look at what the tokenizer puts around one or two texts."""
        whole = self._backend.encode("a", "a" if texts == 2 else None)
        special: list[tuple[list[int], list[int]]] = [([], [])]
        types: list[int] = []
        for token, kind, owner in zip(whole.ids, whole.type_ids, whole.sequence_ids, strict=True):
            if owner is None:
                special[-1][0].append(token)
                special[-1][1].append(kind)
            elif owner == len(types):
                types.append(kind)
                special.append(([], []))
        return _Frame(tuple(special), tuple(types))

    def __call__(self, rows: Sequence[TextRow]) -> EncodedRows:
        """Return ``rows`` as ids; a second text without a token counts as none."""
        flat = [text for row in rows for text in row if text is not None]
        encoded = (
            encoding.ids for encoding in self._backend.encode_batch(flat, add_special_tokens=False)
        )
        ids, types, cut = [], [], 0
        for _, second in rows:
            texts = [next(encoded)] + ([next(encoded)] if second is not None else [])
            texts = texts if all(texts) else texts[:1]
            frame = self._single if len(texts) == 1 else self._pair
            kept = kept_tokens([len(text) for text in texts], self.max_seq_length - frame.size)
            cut += sum(kept) < sum(map(len, texts))
            filled = frame.fill([text[:size] for text, size in zip(texts, kept, strict=True)])
            ids.append(filled[0])
            types.append(filled[1])
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        return EncodedRows(ids, types, lengths, cut, self.pad_token_id)

    def tokens(self, ids: np.ndarray) -> list[str]:
        """Return the pieces that ``ids`` stand for."""
        return [self._backend.id_to_token(int(token)) for token in ids]


def kept_tokens(sizes: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of each text (one or two) fit into ``room`` tokens together.

    The longer one of two loses a token at a time; of two equally long ones the second does.
    """
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    first, second = sizes
    excess = first + second - room
    if excess <= 0:
        return [first, second]
    # The longer text comes down to the other's size first; then they lose in turn.
    if first > second:
        alone = min(excess, first - second)
        first -= alone
    else:
        alone = min(excess, second - first)
        second -= alone
    both = excess - alone
    return [first - both // 2, second - (both + 1) // 2]
