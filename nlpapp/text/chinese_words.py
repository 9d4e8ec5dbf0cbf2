"""Chinese text to words: with jieba, or by the longest words of a dictionary.

Chinese has no blanks between words, and a Chinese BERT has one token for each character. Whole-word
masking needs to know which characters belong together.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nlpapp.errors import ConfigError, DataError, nearest

Segmenter = Literal["none", "jieba", "max_match"]
SEGMENTERS = ("none", "jieba", "max_match")

Cut = Callable[[str], Iterable[str]]
"""Text without blanks to its words, in order, nothing left out."""

# The blocks that BERT takes for Chinese characters, each of which is a token of its own.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class DictionaryWord:
    """A line of a user dictionary."""

    word: str
    frequency: int | None = None
    """How often the word occurs, on the scale of jieba's own dictionary; None: often enough to be
    found. Longest matching does not look at it."""


def is_ideograph(character: str) -> bool:
    """Say whether BERT takes ``character`` for a Chinese one (kana and Hangul are not)."""
    code = ord(character)
    return any(first <= code <= last for first, last in _IDEOGRAPHS)


def check_segmenter(segmenter: str, user_dictionary: str | None) -> None:
    """Raise `ConfigError` unless the choice of a segmenter can work on this machine."""
    if segmenter not in SEGMENTERS:
        raise ConfigError(
            f"segmenter: '{segmenter}' is unknown; expected {', '.join(SEGMENTERS)}."
            f"{nearest(segmenter, SEGMENTERS)}"
        )
    if segmenter == "none" and user_dictionary is not None:
        raise ConfigError(
            "user_dictionary is given, but segmenter: none looks up no words. Use segmenter: "
            "max_match (the dictionary alone) or jieba (added to jieba's own)."
        )
    if segmenter == "max_match" and user_dictionary is None:
        raise ConfigError(
            "segmenter: max_match needs user_dictionary, a file with one word a line. Without one, "
            "segmenter: jieba brings its own dictionary."
        )
    if segmenter == "jieba":
        _import_jieba()


def segmenter_cut(segmenter: Segmenter, words: Sequence[DictionaryWord]) -> Cut:
    """Return the function that cuts text into words.

    Args:
        segmenter: ``jieba`` or ``max_match``.
        words: the user dictionary; jieba's own words are there anyway.

    Raises:
        ConfigError: jieba is not installed.
    """
    if segmenter == "jieba":
        return _jieba_cut(words)
    known = frozenset(word.word for word in words)
    return functools.partial(longest_match, words=known, longest=max(map(len, known), default=1))


def longest_match(text: str, *, words: frozenset[str], longest: int) -> list[str]:
    """Cut ``text`` from left to right, always the longest of ``words``, or one character."""
    found: list[str] = []
    start = 0
    while start < len(text):
        end = min(start + longest, len(text))
        while end > start + 1 and text[start:end] not in words:
            end -= 1
        found.append(text[start:end])
        start = end
    return found


def _jieba_cut(words: Sequence[DictionaryWord]) -> Cut:
    jieba = _import_jieba()
    tokenizer = jieba.Tokenizer()
    # What initialize() does, but for its cache: a file in the common temporary folder, which
    # anybody may have written and which is read with marshal.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    for word in words:
        tokenizer.add_word(word.word, word.frequency)
    cut: Cut = tokenizer.cut
    return cut


def _import_jieba():
    try:
        import jieba
    except ImportError:
        raise ConfigError(
            "segmenter: jieba needs the package jieba: `pip install nlpapp[zh]`. Without it, "
            "segmenter: max_match works with a dictionary of yours (user_dictionary)."
        ) from None
    return jieba


def read_dictionary(path: str | Path) -> list[DictionaryWord]:
    """Return the words of a user dictionary: one a line, then its frequency and tag or neither.

    That is jieba's format; the tag (a part of speech) is not used. Blank lines are left out.

    Raises:
        DataError: there is no such file, it is not UTF-8, a line is of another form, or no word is
            in it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"user_dictionary: there is no file '{path}'.")
    words: list[DictionaryWord] = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            # A byte order mark is no part of the first word.
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 (byte {error.start} of the line). Convert the "
                f"dictionary, for example with `iconv -f GB18030 -t UTF-8 {path.name}`."
            ) from None
        if line.strip():
            words.append(_dictionary_word(path, number, line.split()))
    if not words:
        raise DataError(f"{path} holds no word; expected a dictionary with one word a line.")
    return words


def _dictionary_word(path: Path, number: int, parts: list[str]) -> DictionaryWord:
    word, *rest = parts
    frequency = int(rest.pop(0)) if rest and rest[0].isdecimal() else None
    tag_fits = not rest or (len(rest) == 1 and rest[0].isascii() and rest[0].isalpha())
    if not tag_fits or frequency == 0:
        raise DataError(
            f"{path}, line {number}: '{' '.join(parts)[:80]}' is no dictionary line. Expected "
            "'word', 'word frequency' or 'word frequency tag', with a frequency of 1 or more and a "
            "tag of Latin letters."
        )
    return DictionaryWord(word, frequency)
