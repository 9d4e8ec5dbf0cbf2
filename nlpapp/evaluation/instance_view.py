"""One training instance as text that a person can read in a terminal."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WORDPIECE, SENTENCEPIECE, BYTE_LEVEL = "##", "\u2581", "\u0120"
"""What tells words apart: the first stands before a piece that goes on, the others before words."""


@dataclass(frozen=True)
class InstanceView:
    """One training instance in words: the pieces that the model sees, and what they hide."""

    tokens: list[str]
    """Pieces as the vocabulary spells them, masks in place; padding may follow."""
    masked: list[int]
    """Positions to predict, ascending; empty if the masks are drawn during training."""
    originals: list[str]
    """What stood at these positions."""
    label: str | None
    """The label in words; None without a sentence task."""
    length: int
    """Tokens without padding."""
    mask_token: str = "[MASK]"


def format_instance(view: InstanceView, width: int = 100) -> str:
    """Return an instance as lines to read: its segments, then label and number of masks.

    ``[MASK: walked]`` hides "walked", ``{car -> walked}`` shows a random piece in its place, and
    ``{kept: walked}`` is to be predicted although it is seen. A longer word is never divided.

    Args:
        view: the instance.
        width: columns of a line; a Chinese character takes two.
    """
    segments = _segments(view)
    margin = "   " if len(segments) > 1 else ""
    lines = []
    for order, segment in enumerate(segments):
        wrapped = _wrapped(_words(view, segment), width - len(margin))
        first = chr(ord("A") + order % 26) + margin[1:] if margin else ""
        lines += [first + wrapped[0], *(margin + line for line in wrapped[1:])]
    facts = [view.label] if view.label is not None else []
    facts.append(f"{view.length:,} tokens")
    if view.masked:
        hidden = dict(zip(view.masked, view.originals, strict=True))
        fates = Counter(_fate(view, *place) for place in hidden.items())
        facts.append(
            f"{len(hidden):,} to predict ({fates['mask']:,} masked, {fates['random']:,} random, "
            f"{fates['kept']:,} kept)"
        )
    return "\n".join([*lines, f"= {', '.join(facts)}"])


def _segments(view: InstanceView) -> list[range]:
    """Return the positions of each segment, the separator that ends it included."""
    tokens, hidden = view.tokens[: view.length], set(view.masked)
    if not tokens or not _is_special(tokens[-1]) or len(tokens) - 1 in hidden:
        return [range(len(tokens))]
    ends = [i for i, token in enumerate(tokens) if token == tokens[-1] and i not in hidden]
    # RoBERTa has two separators in a row: the second one opens the next segment.
    ends = [end for end in ends if end - 1 not in ends or end == len(tokens) - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [range(start, end + 1) for start, end in zip(starts, ends, strict=True)]


def _is_special(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in ("[]", "<>")


def _fate(view: InstanceView, position: int, original: str) -> str:
    if view.tokens[position] == view.mask_token:
        return "mask"
    return "kept" if view.tokens[position] == original else "random"


def _words(view: InstanceView, positions: range) -> list[tuple[str, bool]]:
    """Return (text, whether a blank stands before it); no line is broken inside a text."""
    marker = _marker(view)
    hidden = dict(zip(view.masked, view.originals, strict=True))
    # Visible pieces of a word are decoded together, for a character may be spread over several.
    parts: list[tuple[list[int], bool]] = []
    previous = ""
    for position in positions:
        piece = hidden.get(position, view.tokens[position])
        joined = bool(parts) and not _is_special(previous) and _goes_on(piece, marker)
        if joined and position not in hidden and parts[-1][0][-1] not in hidden:
            parts[-1][0].append(position)
        else:
            parts.append(([position], joined))
        previous = piece
    words: list[tuple[str, bool]] = []
    for part, joined in parts:
        text = _decoded([view.tokens[position] for position in part], marker)
        if part[0] in hidden:
            text = _marked(text, _decoded([hidden[part[0]]], marker), view, part[0])
        if joined:
            words[-1] = (words[-1][0] + text, words[-1][1])
        else:
            chinese = marker == WORDPIECE and bool(words) and _is_chinese(words[-1][0][-1], text[0])
            words.append((text, not chinese))
    return words


def _marked(seen: str, original: str, view: InstanceView, position: int) -> str:
    raw = view.originals[view.masked.index(position)]
    return {
        "mask": f"[MASK: {original}]",
        "random": f"{{{seen} -> {original}}}",
        "kept": f"{{kept: {original}}}",
    }[_fate(view, position, raw)]


def _marker(view: InstanceView) -> str:
    pieces = [*view.tokens, *view.originals]
    for marker in (BYTE_LEVEL, SENTENCEPIECE):
        if any(piece.startswith(marker) for piece in pieces):
            return marker
    return WORDPIECE


def _goes_on(piece: str, marker: str) -> bool:
    """Tell whether a piece belongs to the word before it."""
    if marker == WORDPIECE:
        return piece.startswith(marker)
    return not _is_special(piece) and not piece.startswith(marker)


def _byte_of_character() -> dict[str, int]:
    """Return the alphabet of byte-level pieces: printable bytes are themselves, others follow."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + order): byte for order, byte in enumerate(others)}


BYTES = _byte_of_character()


def _decoded(pieces: Sequence[str], marker: str) -> str:
    """Return the text of pieces of one word, never empty, and safe to print."""
    text = spelled = "".join(pieces)
    if marker == WORDPIECE:
        text = "".join(piece.removeprefix(marker) for piece in pieces)
    elif marker == SENTENCEPIECE:
        text = spelled.replace(marker, " ").strip()
    elif all(character in BYTES for character in spelled):
        encoded = bytes(BYTES[character] for character in spelled)
        text = encoded.decode("utf-8", errors="replace").strip(" ")
    # The text is foreign: what could move the cursor or turn a line round is not passed on. The two
    # zero-width joiners are letters of several scripts.
    return "".join(
        character if character.isprintable() or character in "\u200c\u200d" else "\ufffd"
        for character in text or spelled or " "
    )


def _is_chinese(*characters: str) -> bool:
    """Tell whether all are Chinese characters or their punctuation: no blanks between them."""
    return all(
        "\u3001" <= character <= "\u303f"
        or "\u3400" <= character <= "\u9fff"
        or "\uff01" <= character <= "\uff60"
        or character >= "\U00020000"
        for character in characters
    )


def _columns(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)


def _wrapped(words: Sequence[tuple[str, bool]], width: int) -> list[str]:
    lines, used = [""], 0
    for text, blank in words:
        gap, size = " " if blank and lines[-1] else "", _columns(text)
        if lines[-1] and used + len(gap) + size > width:
            lines.append(text)
            used = size
        else:
            lines[-1] += gap + text
            used += len(gap) + size
    return lines
