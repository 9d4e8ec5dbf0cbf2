"""Where a text can be cut so that its pieces, encoded one by one, give the ids of the whole.

A border is safe if the tokenizer puts one there whatever stands around it. For BERT that is every
blank, every ASCII punctuation mark and every Chinese character. For byte-level BPE and for
SentencePiece it is the first blank after a visible character: blanks belong to the word after them.
Borders can be missed without harm (the tokenizer finds them in the chunk), but never be wrong.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Normalize = Callable[[str], str]

_LETTER, _BLANK, _ALONE = range(3)
_NEWLINE, _SPACE = ord("\n"), ord(" ")

_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled"}
"""What they make of a visible character and of a blank does not depend on the other."""
_RUNS_OF_BLANKS = {" {2,}", "( ){2,}", r"\s{2,}|[\n\r\t]"}
"""Patterns of blanks only: no border lies within a run of blanks, so they see it whole."""


@dataclass(frozen=True)
class WordCutter:
    """How the text of one tokenizer is cut."""

    starts: Callable[[np.ndarray], np.ndarray]
    """Bytes of lines, each with a line feed before it, to where chunks begin: ascending (K,)."""
    unify: Callable[[bytes], bytes]
    """Make bytes of chunks equal that give equal ids, keeping their number."""
    whole_words: Mapping[str, int] = field(default_factory=dict)
    """Words, blanks around them apart, that are one token, known from the vocabulary alone."""


def word_cutter(tokenizer: Tokenizer) -> WordCutter | None:
    """Return how to cut text for ``tokenizer``, or None if it may look beyond any border.

    A tokenizer is recognised by what its parts are, not by the name of its class.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    if any(not token.special for token in added):
        return None  # Such a token is found anywhere in a text, across words too.
    normalizer, cutter = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
    model = type(tokenizer.model).__name__
    if (normalizer.get("type"), cutter.get("type"), model) == (
        "BertNormalizer",
        "BertPreTokenizer",
        "WordPiece",
    ):
        return _bert_cutter(tokenizer, normalizer)
    if model == "BPE" and getattr(tokenizer.model, "dropout", None):
        return None  # Encodes the same word differently each time.
    if model not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        return None
    if not _is_local_normalizer(normalizer) or not _keeps_blank_with_word(cutter):
        return None
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    return WordCutter(starts=_BlankBorders(normalize), unify=bytes)


def _state(part: Any) -> dict[str, Any]:
    """Return the settings of a normalizer or pre-tokenizer as in tokenizer.json; {} if none."""
    if part is None:
        return {}
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state


# --- BERT ------------------------------------------------------------------------------------


def _byte_classes() -> bytes:
    classes = bytearray(256)
    for byte in b" \t\r\n":
        classes[byte] = _BLANK
    for first, last in ((33, 47), (58, 64), (91, 96), (123, 126)):
        classes[first : last + 1] = bytes([_ALONE]) * (last - first + 1)
    return bytes(classes)


_CLASSES = _byte_classes()


def _bert_cutter(tokenizer: Tokenizer, normalizer: Mapping[str, Any]) -> WordCutter:
    chinese = bool(normalizer.get("handle_chinese_chars"))
    longest = tokenizer.model.max_input_chars_per_word
    blanks = bytes(_SPACE if byte in b"\t\r\n" else byte for byte in range(256))
    return WordCutter(
        starts=lambda data: _bert_starts(data, chinese=chinese),
        # Line feeds too: for BERT the first word of a line is a word like any other.
        unify=lambda text: text.translate(blanks.lower() if normalizer["lowercase"] else blanks),
        whole_words={
            piece: index
            for piece, index in tokenizer.get_vocab(with_added_tokens=False).items()
            if (piece.isascii() and piece.isalnum() and len(piece) <= longest)
            or (chinese and len(piece) == 1 and "\u4e00" <= piece <= "\u9fff")
        },
    )


def _bert_starts(data: np.ndarray, *, chinese: bool) -> np.ndarray:
    """Return where words, punctuation marks and Chinese characters begin, one blank before each.

    Any other byte is taken for a letter, control characters and accents too: inside a chunk the
    tokenizer itself decides.
    """
    classes = np.frombuffer(data.tobytes().translate(_CLASSES), dtype=np.uint8)
    starts = classes == _ALONE
    starts[1:] |= classes[1:] != classes[:-1]
    blank = classes == _BLANK
    if chinese:
        first = _chinese_characters(data)
        starts[first] = True
        after = first + 3
        starts[after[after < len(data)]] = True
    starts &= ~blank
    # A chunk takes the blank before it along: half as many chunks as if it were one by itself.
    borders = data == _NEWLINE
    borders[1:] |= starts[1:] & ~blank[:-1]
    borders[:-1] |= blank[:-1] & starts[1:]
    return np.flatnonzero(borders)


def _chinese_characters(data: np.ndarray) -> np.ndarray:
    """Return where the characters U+4E00 to U+9FFF begin, which UTF-8 writes in three bytes."""
    lead = np.flatnonzero((data >= 0xE4) & (data <= 0xE9))
    return lead[(data[lead] > 0xE4) | (data[np.minimum(lead + 1, len(data) - 1)] >= 0xB8)]


# --- Byte-level BPE and SentencePiece --------------------------------------------------------


def _is_local_normalizer(state: Mapping[str, Any]) -> bool:
    kind = state.get("type")
    if kind == "Sequence":
        return all(_is_local_normalizer(part) for part in state["normalizers"])
    if kind == "Strip":
        # On the right it strips what is blank up to the end of a line, which is a chunk of its own.
        return not state["strip_left"]
    if kind == "Replace":
        pattern, content = state["pattern"], state["content"]
        if "Regex" in pattern:
            return pattern["Regex"] in _RUNS_OF_BLANKS and content in (" ", "\u2581")
        literal = pattern.get("String", "")
        return all(bool(text) and not any(c.isspace() for c in text) for text in (literal, content))
    return kind is None or kind in _LOCAL_NORMALIZERS


def _keeps_blank_with_word(state: Mapping[str, Any]) -> bool:
    """Say whether each blank after a visible character is sure to begin a piece of the text."""
    kind = state.get("type")
    if kind == "ByteLevel":
        return bool(state["use_regex"])
    if kind == "Metaspace":
        return bool(state["split"])
    if kind in ("WhitespaceSplit", "Whitespace"):
        return True
    if kind != "Sequence":
        return False
    kinds = [part.get("type") for part in state["pretokenizers"]]
    return kinds == ["WhitespaceSplit", "Metaspace"]


class _BlankBorders:
    """Cut before each space that follows a visible character, and before each line feed."""

    def __init__(self, normalize: Normalize):
        self._normalize = normalize
        # By code point: 1 visible, 0 not, -1 not looked up yet. Beyond U+FFFF nothing is cut.
        self._visible: np.ndarray = np.full(2**16, -1, dtype=np.int8)
        self._visible[0] = 0
        ascii_bytes = [_is_visible(chr(byte), normalize) for byte in range(128)]
        self._ascii: np.ndarray = np.array(ascii_bytes + [False] * 128)

    def __call__(self, data: np.ndarray) -> np.ndarray:
        spaces = np.flatnonzero(data == _SPACE)
        before = data[spaces - 1]
        cut = self._ascii[before]
        wide = np.flatnonzero(before >= 0x80)
        if len(wide):
            cut[wide] = self._is_visible_before(data, spaces[wide])
        borders = data == _NEWLINE
        borders[spaces[cut]] = True
        return np.flatnonzero(borders)

    def _is_visible_before(self, data: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Say for each position whether the character before it, of several bytes, is visible."""
        third, second, last = (data[positions - back].astype(np.int32) for back in (3, 2, 1))
        two = ((second & 0x1F) << 6) | (last & 0x3F)
        three = ((third & 0x0F) << 12) | ((second & 0x3F) << 6) | (last & 0x3F)
        codes = np.where(second >= 0xC0, two, np.where(third >= 0xE0, three, 0))
        for code in np.unique(codes[self._visible[codes] < 0]).tolist():
            self._visible[code] = _is_visible(chr(code), self._normalize)
        return self._visible[codes] == 1


def _is_visible(character: str, normalize: Normalize) -> bool:
    """Say whether a character stays what it is, and no blank, beside a blank on either side."""
    # Marks join the character before them, control and format characters may vanish.
    if unicodedata.category(character)[0] in "CMZ":
        return False
    alone = _after(" ", character, normalize)
    return (
        alone != ""
        and not alone[-1].isspace()
        and unicodedata.category(alone[-1])[0] not in "CMZ"
        and normalize(f" {character} a") == normalize(f" {character}") + normalize(" a")
        # Some character maps swallow a letter that Unicode joins to a no-break space before it.
        and alone == _after("\u00a0", character, normalize)
    )


def _after(blank: str, character: str, normalize: Normalize) -> str:
    """Return what becomes of ``character`` between ``blank`` and a letter."""
    start = len(normalize(f"{blank}a")) - 1
    return normalize(f"{blank}{character}a")[start:-1]
