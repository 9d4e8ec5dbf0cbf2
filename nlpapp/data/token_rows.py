"""Texts and pairs as rows of token ids, special tokens included, in flat arrays.

The ids are those of the tokenizer itself. Where it treats each word by itself, each different word
goes to it only once (`nlpapp.text.word_encoding`), and the rows are put together here; rows that
have to be cut, or that spell a special token, and all rows of other tokenizers, are its own.
Legend: N rows, T tokens of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np
from tokenizers import Tokenizer

from nlpapp.text.word_encoding import LineEncoder

ROWS_AT_ONCE = 20_000
"""Rows that are encoded together: bounds what there is beside the ids."""


class FlatRows(Sequence[np.ndarray]):
    """Rows of different lengths in one array; row ``i`` is a view of its part."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        """Cut ``flat``, (T,), into rows of ``lengths``, (N,) int64."""
        self.flat = flat
        self.lengths = lengths
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> list[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | list[np.ndarray]:
        """Return one row, or a list of several."""
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        end = self._ends[row]
        return self.flat[end - self.lengths[row] : end]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: type) -> "FlatRows":
        """Put ``rows`` one behind the other."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        tokens = (token for row in rows for token in row)
        return cls(np.fromiter(tokens, dtype, count=int(lengths.sum())), lengths)

    @classmethod
    def joined(cls, parts: Sequence["FlatRows"]) -> "FlatRows":
        """Return the rows of all ``parts``."""
        return cls(
            np.concatenate([part.flat for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class TokenRows:
    """What the tokenizer makes of N texts or pairs."""

    ids: FlatRows
    """int32."""
    types: FlatRows
    """int8: 0 for the first text and 1 for the second, as far as the tokenizer tells them apart."""
    cut: np.ndarray
    """(N,) bool: whether a row was longer than allowed."""


def tokenize_rows(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, *, max_seq_length: int
) -> TokenRows:
    """Return the rows of ``texts``, or of texts and ``pairs``, cut to ``max_seq_length`` tokens.

    Of a pair the longer text is cut first. At least one row is needed.
    """
    words = _word_encoder(tokenizer)
    parts = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        sides = [side[start : start + ROWS_AT_ONCE] for side in (texts, pairs) if side is not None]
        if words is None:
            parts.append(_by_tokenizer(tokenizer, sides, max_seq_length))
        else:
            parts.append(_by_words(tokenizer, words, sides, max_seq_length))
    return TokenRows(
        FlatRows.joined([part.ids for part in parts]),
        FlatRows.joined([part.types for part in parts]),
        np.concatenate([part.cut for part in parts]),
    )


def _word_encoder(tokenizer: Any) -> LineEncoder | None:
    """Return an encoder of single words, or None if words are not all that counts."""
    engine = getattr(tokenizer, "backend_tokenizer", None)
    if engine is None:
        return None  # A tokenizer written in Python.
    return _word_encoder_of(engine.to_str())


@lru_cache(maxsize=2)
def _word_encoder_of(description: str) -> LineEncoder | None:
    """Make the encoder of an engine, by its tokenizer.json, once for all sets of a run."""
    engine = Tokenizer.from_str(description)
    added = engine.get_added_tokens_decoder().values()
    if engine.normalizer is not None and any(token.normalized for token in added):
        return None  # Whether a text spells such a token shows only after its normalisation.
    words = LineEncoder(engine)
    return words if words.local else None


def _by_tokenizer(tokenizer: Any, sides: Sequence[Sequence[str]], limit: int) -> TokenRows:
    encoding = tokenizer(
        *map(list, sides),
        truncation="longest_first",
        max_length=limit,
        return_token_type_ids=True,  # a tokenizer loaded by no model's class leaves them out
    )
    ids = FlatRows.of(encoding["input_ids"], np.int32)
    types = FlatRows.of(encoding["token_type_ids"], np.int8)
    cut = ids.lengths >= limit
    if encoding.encodings is not None:
        # A tokenizer written in Python does not tell; most that fill the limit were cut.
        for row in np.flatnonzero(cut):
            cut[row] = bool(encoding.encodings[row].overflowing)
    return TokenRows(ids, types, cut)


@dataclass(frozen=True, eq=False)
class _Place:
    """What stands in one place of every row: row i has ``counts[i]`` tokens from ``starts[i]``."""

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of_parts(cls, ids: np.ndarray, types: np.ndarray, counts: np.ndarray) -> "_Place":
        """Each row has the next part of ``ids``."""
        return cls(ids, types, np.cumsum(counts) - counts, counts)


def _by_words(
    tokenizer: Any, words: LineEncoder, sides: Sequence[Sequence[str]], limit: int
) -> TokenRows:
    around = _around(words.engine, len(sides))
    if around is None:
        return _by_tokenizer(tokenizer, sides, limit)
    rows = len(sides[0])
    places: list[_Place] = []
    for number, special in enumerate(around):
        ids, types = np.array(special.ids, np.int32), np.array(special.types, np.int8)
        places.append(_Place(ids, types, np.zeros(rows, np.int64), np.full(rows, len(ids))))
        if number < len(sides):
            text = "".join(line.replace("\n", " ") + "\n" for line in sides[number])
            encoded = words.encode(text.encode("utf-8"))
            types = np.full(len(encoded.ids), special.text_type, np.int8)
            places.append(_Place.of_parts(encoded.ids, types, np.diff(encoded.ends, prepend=0)))
    cut = np.sum([place.counts for place in places], axis=0) > limit
    own = np.flatnonzero(cut | _spell_more_than_words(tokenizer.backend_tokenizer, sides))
    if len(own):
        whole = _by_tokenizer(tokenizer, [[side[row] for row in own] for side in sides], limit)
        for place in places:
            place.counts[own] = 0
        counts = np.zeros(rows, np.int64)
        counts[own] = whole.ids.lengths
        places.append(_Place.of_parts(whole.ids.flat, whole.types.flat, counts))
        cut[own] = whole.cut
    return _gathered(places, cut)


def _gathered(places: Sequence[_Place], cut: np.ndarray) -> TokenRows:
    """Return the rows, each the tokens of its places one after the other."""
    sizes = np.cumsum([0, *(len(place.ids) for place in places)])
    starts = [place.starts + size for place, size in zip(places, sizes, strict=False)]
    counts = np.column_stack([place.counts for place in places])  # (N, places)
    lengths, flat = counts.sum(axis=1), counts.ravel()
    ahead = np.column_stack(starts).ravel() - (np.cumsum(flat) - flat)
    taken = np.repeat(ahead, flat) + np.arange(flat.sum())  # (T,)
    ids = np.concatenate([place.ids.astype(np.int32) for place in places])[taken]
    types = np.concatenate([place.types for place in places])[taken]
    return TokenRows(FlatRows(ids, lengths), FlatRows(types, lengths), cut)


@dataclass(frozen=True)
class _Special:
    """The special tokens before a text, or behind the last."""

    ids: list[int]
    types: list[int]
    text_type: int = 0
    """Type of the tokens of the text that follows."""


def _around(engine: Tokenizer, texts: int) -> list[_Special] | None:
    """Look at what the engine puts before, between and behind one or two texts.

    None: it cannot be seen, as the engine has no token for the letter that is tried.
    """
    whole = engine.encode("a", "a" if texts == 2 else None)
    found: list[_Special] = []
    ids: list[int] = []
    types: list[int] = []
    for token, kind, owner in zip(whole.ids, whole.type_ids, whole.sequence_ids, strict=True):
        if owner is None:
            ids.append(token)
            types.append(kind)
        elif owner == len(found):
            found.append(_Special(ids, types, kind))
            ids, types = [], []
    return [*found, _Special(ids, types)] if len(found) == texts else None


def _spell_more_than_words(engine: Any, sides: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (N,) which rows hold special tokens or line breaks."""
    special = [token.content for token in engine.get_added_tokens_decoder().values()]
    found = np.zeros(len(sides[0]), dtype=bool)
    for side in sides:
        together = "\0".join(side)
        there = [text for text in (*special, "\n") if text in together]
        if there:
            found |= [any(text in line for text in there) for line in side]
    return found
