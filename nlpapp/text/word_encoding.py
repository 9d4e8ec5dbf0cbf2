"""Lines of text to token ids, fast: each different word of a text goes to the tokenizer only once.

The tokenizers of BERT, and those of most other models, first cut a text into words and then cut
each word into pieces without looking at its neighbours. For these it is enough to cut the text at
places where they cut it too (numpy, a few operations over all bytes), to number the different
chunks (Arrow), to encode the chunks not seen before, and to gather the ids. The ids are those of
the plain tokenizer, token for token; a tokenizer of which that is not certain is used as it is.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from nlpapp.errors import ConfigError
from nlpapp.text.word_borders import WordCutter, word_cutter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODED_AT_ONCE = 4096
"""Strings that are given to the tokenizer together: its results are far larger than the ids."""
KEPT_CHUNKS = 300_000
"""Chunks whose ids are remembered from one call to the next; then all are forgotten."""
KEPT_CHARACTERS = 16_000_000
"""The same in characters, for texts without blanks, where a chunk can be a whole line."""
CUT_AT_ONCE = 4_000_000
"""Bytes of text that are cut together: what is held of them is about ten times as large."""


@dataclass(frozen=True)
class EncodedLines:
    """Token ids of consecutive lines."""

    ids: np.ndarray
    """All tokens, one line after the other: uint16 if every id fits, or else uint32, (T,)."""
    ends: np.ndarray
    """Where in ``ids`` each line ends: int64, (number of lines,)."""


def plain_encoder(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    """Return a copy of the tokenizer's engine that turns text into ids and nothing else.

    It neither cuts nor pads, and "[MASK]" written in a text is text, not a special token.

    Raises:
        ConfigError: the tokenizer is written in Python and has no engine.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} is a tokenizer in pure Python; make-data needs a fast one "
            "(a folder with tokenizer.json, or vocab.txt)."
        )
    return _plain_copy(backend)


class LineEncoder:
    """Encode lines as the plain tokenizer does, special tokens left out.

    Ids of words are remembered between calls, so keep one encoder for a whole corpus. It is not
    safe to share between threads.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Make an encoder from a private copy of ``tokenizer``."""
        self.engine = _plain_copy(tokenizer)
        """The copy: it neither cuts nor pads."""
        self._cutter: WordCutter | None = word_cutter(self.engine)
        largest = max(self.engine.get_vocab(with_added_tokens=True).values(), default=0)
        self._typecode = "H" if largest < 2**16 else "I"
        self._dtype = np.dtype(np.uint16 if largest < 2**16 else np.uint32)
        self._forget()

    @property
    def local(self) -> bool:
        """Whether words are encoded once each; if not, every line goes through the tokenizer."""
        return self._cutter is not None

    def encode(self, text: bytes) -> EncodedLines:
        r"""Return the ids of all lines of ``text``.

        Args:
            text: UTF-8; each line ends with a line feed, the last one too. Lines may be empty.

        Raises:
            ValueError: ``text`` does not end with a line feed, or is not UTF-8.
        """
        if text and not text.endswith(b"\n"):
            raise ValueError("Each line must end with a line feed; the last one does not.")
        encode = self._encode_plainly
        if self._cutter is not None:
            encode = self._encode_words
        parts = [encode(part) for part in _split_lines(text, CUT_AT_ONCE)]
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.ids) for part in parts)])
        ids = [part.ids for part in parts] or [np.zeros(0, self._dtype)]
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return EncodedLines(
            np.concatenate(ids), np.concatenate(ends or [np.zeros(0, np.int64)]).astype(np.int64)
        )

    def _encode_plainly(self, text: bytes) -> EncodedLines:
        ids, ends = array(self._typecode), array("q")
        for encoded in self._ids(text.decode("utf-8").split("\n")[:-1]):
            ids.extend(encoded)
            ends.append(len(ids))
        return EncodedLines(np.array(ids, dtype=self._dtype), np.array(ends, dtype=np.int64))

    def _encode_words(self, text: bytes) -> EncodedLines:
        assert self._cutter is not None
        # A line feed before each line rather than behind it: so the first chunk of a line, which
        # many tokenizers treat otherwise, differs from the same word within a line.
        text = b"\n" + text[:-1]
        data = np.frombuffer(text, dtype=np.uint8)
        starts = self._cutter.starts(data)
        offsets = np.append(starts, len(data)).astype(np.int32)
        chunks = pa.StringArray.from_buffers(
            len(starts), pa.py_buffer(offsets), pa.py_buffer(self._cutter.unify(text))
        ).dictionary_encode()
        rows = self._rows(chunks.dictionary.to_pylist())
        ids, ends = self._gather(rows[np.frombuffer(chunks.indices.buffers()[1], dtype=np.int32)])
        # A line ends where the chunk of the next one begins.
        first = np.searchsorted(starts, np.flatnonzero(data == ord("\n"))[1:])
        return EncodedLines(ids, np.append(ends[first], ends[-1]).astype(np.int64))

    def _rows(self, chunks: list[str]) -> np.ndarray:
        """Return the number of each chunk in the store of ids, where new ones are added."""
        if len(self._row_of) > KEPT_CHUNKS or self._characters > KEPT_CHARACTERS:
            self._forget()
        row_of = self._row_of
        unknown = [chunk for chunk in chunks if chunk not in row_of]
        if unknown:
            self._add(unknown)
        return np.fromiter(map(row_of.__getitem__, chunks), dtype=np.int32, count=len(chunks))

    def _add(self, chunks: list[str]) -> None:
        assert self._cutter is not None
        whole = self._cutter.whole_words
        hard: list[str] = []
        for chunk in chunks:
            known = whole.get(chunk.strip(" "))
            if known is None:
                hard.append(chunk)
            else:
                self._store(chunk, (known,))
        for chunk, ids in zip(
            hard, self._ids([chunk.removeprefix("\n") for chunk in hard]), strict=True
        ):
            self._store(chunk, ids)

    def _store(self, chunk: str, ids: Any) -> None:
        self._row_of[chunk] = len(self._row_of)
        self._characters += len(chunk)
        self._flat.extend(ids)
        self._offsets.append(len(self._flat))

    def _forget(self) -> None:
        self._row_of: dict[str, int] = {}
        self._characters = 0
        self._flat = array(self._typecode)
        self._offsets = array("i", [0])

    def _gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the chunks in ``rows``, and where each chunk begins; the end too."""
        kind = pa.uint16() if self._typecode == "H" else pa.uint32()
        # Arrow's own buffers: pa.array of a numpy array would import pandas in every process.
        flat = pa.Array.from_buffers(kind, len(self._flat), [None, pa.py_buffer(self._flat)])
        lists = pa.ListArray.from_buffers(
            pa.list_(kind),
            len(self._row_of),
            [None, pa.py_buffer(self._offsets)],
            children=[flat],
        )
        taken = lists.take(pa.Array.from_buffers(pa.int32(), len(rows), [None, pa.py_buffer(rows)]))
        ends = np.frombuffer(taken.buffers()[1], dtype=np.int32)[: len(rows) + 1]
        ids = np.frombuffer(taken.values.buffers()[1] or b"", dtype=self._dtype)[: int(ends[-1])]
        return ids.copy(), ends

    def _ids(self, texts: list[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            batch = texts[start : start + ENCODED_AT_ONCE]
            for encoding in self.engine.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids


def _plain_copy(tokenizer: Tokenizer) -> Tokenizer:
    encoder = Tokenizer.from_str(tokenizer.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    return encoder


def _split_lines(text: bytes, most: int) -> Iterator[bytes]:
    """Yield whole lines of at most ``most`` bytes together, or one longer line."""
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > most:
            end = text.rfind(b"\n", start, start + most) + 1
            if end <= start:
                end = text.find(b"\n", start + most) + 1
        yield text[start:end]
        start = end
