"""Vocabularies of language models: words, characters, bytes, or the pieces of a tokenizer.

All turn a line of text into ids and end it with <eos>. Words and characters that are more frequent
have smaller ids (an adaptive softmax counts on it; bytes and a tokenizer keep the ids they have).
Words are what blanks separate, as in the WikiText files: punctuation that should be words of its
own must stand apart, or use a tokenizer. Of bytes, the line feed is <eos>.

<unk> is an entry only if training has seen it: in the text itself, or for entries too rare to keep.
Without it, an unknown word is an error rather than a guess that no training has informed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from nlpapp.errors import CheckpointError, ConfigError, DataError, nearest
from nlpapp.text import wordpiece

UNKNOWN, END = "<unk>", "<eos>"
FILE_NAME = "vocabulary.json"
KINDS = ("words", "characters")
"""What a `SymbolVocabulary` can be made of."""
BYTES = "bytes"
LONG_LINE = 1_000_000
"""Characters of a line that are encoded at once: text8 is one line of 100 million."""


class Vocabulary(Protocol):
    """What language models need of a vocabulary."""

    end_id: int
    """Ends every line; also stands before the first token of a text."""
    unknown_id: int | None
    joins_entries: bool
    """Whether the text of an entry can depend on those after it, as with pieces of words."""

    def __len__(self) -> int:
        """Return V, the number of entries."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without <eos>; DataError for a word that has none."""
        ...

    def encode_lines(self, lines: Iterable[str], *, source: str) -> Iterator[list[int]]:
        """Yield the ids of each line, <eos> at its end; errors name ``source`` and the line.

        A line of characters that is very long comes in several parts.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, a new line after each <eos>."""
        ...

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of all that decides which ids a text gets."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `load_vocabulary` reads into ``folder``."""
        ...


class SymbolVocabulary:
    """A list of words or characters; a symbol's place is its id.

    A character vocabulary has blanks as symbols; in both a line's end is <eos>.
    """

    joins_entries = False

    def __init__(self, kind: str, symbols: Sequence[str]) -> None:
        if kind not in KINDS:
            raise DataError(
                f"a vocabulary of '{kind}' is unknown; expected one of {', '.join(KINDS)}."
            )
        self.kind = kind
        self.symbols = list(symbols)
        self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if END not in self.ids or len(self.ids) != len(self.symbols):
            raise DataError(f"a vocabulary needs {END}, and each symbol once.")
        self.end_id = self.ids[END]
        self.unknown_id = self.ids.get(UNKNOWN)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without <eos>.

        Raises:
            DataError: a symbol is unknown, and there is no <unk>.
        """
        if self.unknown_id is not None:
            return [self.ids.get(symbol, self.unknown_id) for symbol in split(self.kind, text)]
        try:
            return [self.ids[symbol] for symbol in split(self.kind, text)]
        except KeyError as error:
            symbol = str(error.args[0])
            raise DataError(
                f"'{symbol}' is not among the {len(self)} {self.kind} of the vocabulary, which has "
                f"no {UNKNOWN}.{nearest(symbol, self.symbols)} Change the text, or train with a "
                f"larger min_frequency or a max_size, so that {UNKNOWN} is learnt."
            ) from None

    def encode_lines(self, lines: Iterable[str], *, source: str) -> Iterator[list[int]]:
        """Yield the ids of each line, <eos> at its end; errors name ``source`` and the line."""
        for number, line in enumerate(lines, start=1):
            try:
                if self.kind == "characters":
                    while len(line) > LONG_LINE:
                        yield self.encode(line[:LONG_LINE])
                        line = line[LONG_LINE:]
                yield [*self.encode(line), self.end_id]
            except DataError as error:
                raise DataError(f"{source}, line {number}: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, a new line after each <eos>."""
        symbols = [self.symbols[index] if index != self.end_id else "\n" for index in ids]
        if self.kind == "characters":
            return "".join(symbols)
        return " ".join(symbols).replace(" \n ", "\n").replace(" \n", "\n").replace("\n ", "\n")

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of kind and symbols."""
        return hashlib.sha256(json.dumps([self.kind, self.symbols]).encode()).hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocabulary.json into ``folder``."""
        content = {"kind": self.kind, "symbols": self.symbols}
        text = json.dumps(content, ensure_ascii=False, indent=0)
        (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")


def split(kind: str, text: str) -> Sequence[str]:
    """Return the words (what blanks separate) or the characters of ``text``."""
    return text.split() if kind == "words" else text


def count_symbols(
    kind: str,
    lines: Iterable[str],
    *,
    min_frequency: int = 1,
    max_size: int | None = None,
    source: str = "the text",
) -> SymbolVocabulary:
    """Count the words or characters of ``lines`` and keep the frequent ones.

    Args:
        kind: "words" or "characters".
        lines: lines of training text.
        min_frequency: symbols seen less often become <unk>.
        max_size: the most symbols kept, <eos> and <unk> included; None: all.
        source: what error messages call the text.

    Raises:
        DataError: there is nothing in the text.
        ConfigError: an option is out of range.
    """
    if min_frequency < 1:
        raise ConfigError(
            f"min_frequency: {min_frequency} must be at least 1 (1 keeps everything)."
        )
    if max_size is not None and max_size < 3:
        raise ConfigError(
            f"max_size: {max_size} leaves no room beside {END} and {UNKNOWN}; give 3 or more."
        )
    counts: Counter[str] = Counter()
    num_lines = 0
    for line in lines:
        counts.update(split(kind, line))
        num_lines += 1
    if not counts:
        raise DataError(f"{source} holds no {kind}: there is nothing to build a vocabulary from.")
    counts[END] += num_lines
    return SymbolVocabulary(kind, _most_frequent(counts, min_frequency, max_size))


def _most_frequent(counts: Counter[str], min_frequency: int, max_size: int | None) -> list[str]:
    """Return the symbols to keep: by frequency, and in alphabetical order within one frequency."""
    size = len(counts) if max_size is None else max_size
    kept = [symbol for symbol, count in counts.items() if count >= min_frequency or symbol == END]
    if UNKNOWN in counts or len(kept) < len(counts) or len(kept) > size:
        # <unk> and <eos> stay whatever their frequency, so the others have two places less.
        others = sorted(set(kept) - {UNKNOWN, END}, key=lambda symbol: (-counts[symbol], symbol))
        kept = [END, UNKNOWN, *others[: size - 2]]
        known = sum(counts[symbol] for symbol in kept if symbol != UNKNOWN)
        counts = counts | Counter({UNKNOWN: counts.total() - known})
    return sorted(kept, key=lambda symbol: (-counts[symbol], symbol))


class ByteVocabulary:
    """The 256 bytes of UTF-8: every text has ids, and enwik8 is what it is elsewhere."""

    end_id = ord("\n")
    unknown_id: int | None = None
    joins_entries = False

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of ``text``."""
        return list(text.encode())

    def encode_lines(self, lines: Iterable[str], *, source: str) -> Iterator[list[int]]:
        """Yield the bytes of each line, its line feed included; all text has bytes."""
        for line in lines:
            yield [*line.encode(), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        return bytes(ids).decode(errors="replace")

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of the kind: there is one such vocabulary."""
        return hashlib.sha256(BYTES.encode()).hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocabulary.json into ``folder``."""
        (Path(folder) / FILE_NAME).write_text(json.dumps({"kind": BYTES}), encoding="utf-8")


class TokenizerVocabulary:
    """The pieces of a Hugging Face tokenizer; its end-of-text or separator token is <eos>."""

    joins_entries = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        end_id = (
            tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        )
        if end_id is None:
            raise DataError(
                "the tokenizer has neither an end-of-text nor a separator token to end lines with."
            )
        self.tokenizer = tokenizer
        self.end_id: int = end_id
        # GPT-2 and its kin have one token for both; a line's end is not an unknown word.
        unknown = tokenizer.unk_token_id
        self.unknown_id: int | None = None if unknown == end_id else unknown

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without special tokens."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def encode_lines(self, lines: Iterable[str], *, source: str) -> Iterator[list[int]]:
        """Yield the ids of each line, <eos> at its end; a tokenizer has ids for everything."""
        lines = iter(lines)
        while batch := list(islice(lines, 1000)):  # one call for many lines uses all cores
            for ids in self.tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                yield [*ids, self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, a new line after each <eos>."""
        lines: list[list[int]] = [[]]
        for index in ids:
            if index == self.end_id:
                lines.append([])
            else:
                lines[-1].append(index)
        return "\n".join(str(self.tokenizer.decode(line)) for line in lines)

    def fingerprint(self) -> str:
        """Return the tokenizer's fingerprint."""
        return wordpiece.fingerprint(self.tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's own files into ``folder``."""
        wordpiece.save_tokenizer(self.tokenizer, folder)


def build_vocabulary(
    kind: str, lines: Iterable[str], *, min_frequency: int, max_size: int | None, source: str
) -> Vocabulary:
    """Return a vocabulary of ``kind``: words, characters, bytes, or a tokenizer's folder.

    Bytes and a tokenizer are as they are: for them the other arguments are not used.

    Raises:
        ConfigError: ``kind`` is neither, or an option is out of range.
        DataError: the text is empty, or the tokenizer's folder damaged.
    """
    if kind in KINDS:
        return count_symbols(
            kind, lines, min_frequency=min_frequency, max_size=max_size, source=source
        )
    if kind == BYTES:
        return ByteVocabulary()
    if not Path(kind).exists():
        raise ConfigError(
            f"vocabulary: '{kind}' is neither 'words' nor 'characters' nor 'bytes' nor the folder "
            f"of a tokenizer.{nearest(kind, [*KINDS, BYTES])}"
        )
    return TokenizerVocabulary(wordpiece.load_tokenizer(kind))


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Load the vocabulary beside a language model.

    Raises:
        CheckpointError: there is none, or its file is damaged.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        try:
            return TokenizerVocabulary(wordpiece.load_tokenizer(folder))
        except DataError as error:
            raise CheckpointError(
                f"{folder} has no vocabulary: expected {FILE_NAME} or a tokenizer. ({error})"
            ) from None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content == {"kind": BYTES}:
            return ByteVocabulary()
        return SymbolVocabulary(content["kind"], content["symbols"])
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise CheckpointError(
            f"{path} is damaged or no vocabulary: {error}. Copy it again from the run that made it."
        ) from error
