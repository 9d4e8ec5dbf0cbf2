"""Prose to sentences, and the documents they make up.

Wrapped lines are joined into paragraphs, and paragraphs are split into sentences.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sentencex

_END = re.compile(r"[.!?\u2026:;\u3002\uff01\uff1f][\"'\u2019\u201d)\]\s]*$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


_BLANKS = {ord(c): " " for c in "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"}
_BLANKS |= dict.fromkeys(range(0x2000, 0x200B), " ")
"""All blanks outside ASCII; each becomes a plain one."""


class _LineNumber:
    """A field that holds a number, or a function that finds it out once somebody asks.

    Whoever reads a large file from the middle need not count the lines before for every document.
    """

    def __get__(self, document: Any, owner: type | None = None) -> int:
        if document is None:
            raise AttributeError("line")  # So that the field has no default value.
        value = document.__dict__["line"]
        if callable(value):
            value = document.__dict__["line"] = value()
        return value

    def __set__(self, document: Any, value: int | Callable[[], int]) -> None:
        document.__dict__["line"] = value


@dataclass(frozen=True)
class Document:
    """Sentences that follow one another."""

    sentences: tuple[str, ...]
    """Without line breaks, without blanks at their ends, none of them empty."""
    source: str
    """The file or data set it is from."""
    line: _LineNumber = _LineNumber()
    """The line of that file (or the row of that table) where it begins, counted from 1.

    Reading it can cost a pass over the file before the document's part, once for each part.
    """


def split_prose(lines: Sequence[str], *, width: int | None = None) -> list[str]:
    """Return the sentences of a document of prose, stripped and not empty.

    Args:
        lines: its lines without their ends; blank lines end paragraphs.
        width: what the lines are wrapped at, in characters, 0 if they are not; None finds it out.
    """
    language = prose_language(lines[:1000])
    sentences = [
        sentence.strip()
        for paragraph in join_paragraphs(lines, width=width)
        for sentence in segment(language, paragraph)
    ]
    return [sentence for sentence in sentences if sentence]


def segment(language: Literal["zh", "en"], paragraph: str) -> list[str]:
    """Return the sentences of a paragraph; other blanks than those of ASCII become plain ones.

    `sentencex` crashes where a blank of several bytes follows a sentence end.
    """
    plain = paragraph if paragraph.isascii() else paragraph.translate(_BLANKS)
    return list(sentencex.segment(language, plain))


def prose_language(lines: Sequence[str]) -> Literal["zh", "en"]:
    """Return whose sentence ends to look for: Chinese if many, or most, letters are ideographs."""
    text = "".join(lines)
    ideographs = 0 if text.isascii() else len(_CJK.findall(text))
    return "zh" if ideographs > 500 or 2 * ideographs > len(text) else "en"


def join_paragraphs(lines: Sequence[str], *, width: int | None = None) -> Iterator[str]:
    """Yield paragraphs, each on one line, of wrapped or of unwrapped prose.

    Where lines are wrapped, a paragraph ends at a blank line, or at a line much shorter than the
    others: some prints mark paragraphs in no other way, and a heading is no part of a sentence.
    ``width`` is as for `split_prose`.
    """
    if width is None:
        width = wrapped_width([line for line in lines if line.strip()])
    part: list[str] = []
    for line in lines:
        if line.strip():
            part.append(line.strip())
        if part and (not line.strip() or width == 0 or len(line) < 0.6 * width):
            yield " ".join(part)
            part = []
    if part:
        yield " ".join(part)


def wrapped_width(lines: Sequence[str]) -> int:
    """Return the width that ``lines`` are wrapped at, in characters; 0 if they are not wrapped."""
    if len(lines) < 4:
        return 0
    lengths = sorted(map(len, lines))
    width = lengths[int(0.9 * (len(lengths) - 1))]
    inside = [line for line in lines[:-1] if not _END.search(line)]
    broken = len(inside) / len(lines)  # Lines that break off in the middle of a sentence.
    full = sum(len(line) >= 0.75 * width for line in inside) / max(len(inside), 1)
    return width if 40 <= width <= 120 and broken >= 0.4 and full >= 0.5 else 0


def guess_format(lines: Sequence[str]) -> tuple[Literal["lines", "text"], str]:
    """Return the format that ``lines``, the beginning of a file, seem to be in, and why."""
    filled = [line.strip() for line in lines if line.strip()]
    width = wrapped_width(filled)
    if width:
        return (
            "text",
            f"its lines are wrapped at about {width} characters, in the middle of sentences",
        )
    probe = filled[:: max(1, len(filled) // 200)][:200]
    language = prose_language(probe)
    several = sum(len(segment(language, line)) > 1 for line in probe)
    share = several / max(len(probe), 1)
    return "text" if share > 0.15 else "lines", f"{share:.0%} of its lines hold several sentences"
