"""Prose out of docstrings and reStructuredText: code, tables, signatures and markup are left out.

Lines -> blocks (doctests, literal blocks, headings and grammars fall out) -> paragraphs joined from
wrapped lines -> sentences -> only those that read like English. What is lost: sentences mixed with
much code, and every example.
"""

import re
from collections.abc import Iterator

import sentencex

SHORTEST, LONGEST = 3, 60
"""Words of a sentence that is kept."""

_ROLE = re.compile(r":[a-z:+-]+:`[~!]?(?:([^`<]+?)\s*<[^`>]*>|([^`]*))`")
_LITERAL = re.compile(r"``(.+?)``")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}")
_QUOTED = re.compile(r"`([^`]+)['`]_{0,2}")
_STARS = re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*\n]*?[^\s*])?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"\s*\[(?:\d+|#\w*)\]_?")
_FIELD = re.compile(
    r"^(?::(?:param|type|returns?|rtype|raises?|ivar|var|keyword)\b[^:]*:|@\w+(?:\s+\w+:)?)\s*"
)
_BULLET = re.compile(r"^\s*(?:[-*+o\u2022]|\(?(?:\d{1,2}|[a-z])[.)])\s+")
_UNDERLINE = re.compile(r"^\s*([-=~^*#+\"'_.:])\1{2,}\s*$")
_SIGNATURE = re.compile(
    r"^\s*[\w.]+\s*\([^)]*(?:\)|$).{0,3}(?:(?:->|=>|--|:).*)?$|^\s*[\w.]+\([^)]*\)\s*(?:->|=>|--|=)"
)
_GRAMMAR = re.compile(r"::=|^\s*[|+]\s*[-\w\"']|\s[|+]\s*$|^\s*(?:#|\$ |%|--?\w+[ ,=])")
_CODE = re.compile(r"[=<>{}\\|@#$%^~\[\];/*()]|\d")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_'-]*")


def prose_sentences(text: str) -> list[str]:
    """Return the English sentences of a docstring or reST text, in order, without markup."""
    found = []
    for paragraph in paragraphs(text):
        for sentence in sentencex.segment("en", paragraph):
            cleaned = tidy(sentence)
            if reads_like_english(cleaned):
                found.append(cleaned)
    return found


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of ``text``, each on one line, without code, headings and markup."""
    for block in _blocks(text.expandtabs().split("\n")):
        for paragraph in _split_items(block):
            joined = " ".join(line.strip() for line in paragraph)
            joined = strip_markup(_FIELD.sub("", _BULLET.sub("", joined)))
            if joined:
                yield joined


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yield runs of lines that may be prose: cut at blank lines, headings and code."""
    block: list[str] = []
    literal: int | None = None  # the indentation of the line that announced a literal block
    skipping = False  # inside a doctest, which ends with a blank line
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        blank = not line.strip()
        if blank:
            skipping = False
        elif literal is not None and indent <= literal:
            literal = None
        if not blank and (skipping := skipping or line.lstrip().startswith(">>>")):
            pass
        elif not blank and literal is None and not _is_layout(lines, number):
            if block and indent > _indent(block[-1]) and block[-1].rstrip().endswith(":"):
                yield block
                block = []
            block.append(line)
            continue
        if block:
            announced = block[-1].rstrip().endswith("::") or block[-1].lstrip().startswith(".. ")
            if announced and literal is None:
                literal = _indent(block[-1] if block[-1].lstrip().startswith("..") else block[0])
            yield block
        block = []
    if block:
        yield block


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_layout(lines: list[str], number: int) -> bool:
    """Tell whether a line is a heading, an underline, a table row, a signature or a grammar."""
    line = lines[number]
    below = lines[number + 1] if number + 1 < len(lines) else ""
    return bool(
        _UNDERLINE.match(line)
        or _UNDERLINE.match(below)
        or _SIGNATURE.match(line)
        or _GRAMMAR.search(line)
        or re.search(r"\S {3,}\S", line)
    )


def _split_items(block: list[str]) -> Iterator[list[str]]:
    """Cut a block where a list item or a field begins, or where the text jumps back outwards."""
    part: list[str] = []
    for line in block:
        starts_item = _BULLET.match(line) or _FIELD.match(line.strip())
        if part and (
            starts_item
            or _indent(line) < _indent(part[-1])
            or _indent(line) >= _indent(part[-1]) + 8
        ):
            yield part
            part = []
        part.append(line)
    if part:
        yield part


def strip_markup(text: str) -> str:
    """Return ``text`` without reST roles, quotes, emphasis and footnote marks."""
    text = _ROLE.sub(lambda match: match[1] or match[2], text)
    text = _LITERAL.sub(r"\1", text)
    text = _LINK.sub(r"\1", text)
    text = _QUOTED.sub(r"\1", text)
    text = _STARS.sub(r"\1", text)
    text = _FOOTNOTE.sub("", text)
    return re.sub(r"\s+", " ", text.replace("::", ":")).strip()


def tidy(sentence: str) -> str:
    """Return ``sentence`` with a full stop at its end instead of a colon or of nothing."""
    sentence = sentence.strip().strip("*|").strip()
    if sentence.endswith((":", ",", ";", " -")):
        sentence = sentence.rstrip(":,;- ")
    if sentence and sentence[-1] not in ".?!\"')":
        sentence += "."
    return sentence


def reads_like_english(sentence: str) -> bool:
    """Tell whether ``sentence`` has the length and the letters of English, not of code."""
    sentence = sentence.replace("()", "")  # The name of a function is a word like any other.
    words = _WORD.findall(sentence)
    if not sentence or not SHORTEST <= len(words) <= LONGEST or len(sentence.split()) > LONGEST:
        return False
    if not (sentence[0].isalnum() or sentence[0] in "\"'("):
        return False
    plain = sum(len(word) for word in words) + sentence.count(" ")
    lower = sum(word.islower() for word in words)
    return (
        plain >= 0.85 * len(sentence)
        and len(_CODE.findall(sentence)) <= 0.05 * len(sentence)
        and lower >= 0.5 * len(words)
        and max(map(len, sentence.split())) <= 40
    )
