"""The text of ids that come one by one, in parts that are final."""

from collections.abc import Iterable, Iterator

from nlpapp.text.vocabulary import Vocabulary

KEPT_TOKENS = 64
"""Tokens whose text is made again with each new one, to see how they join it."""
INCOMPLETE = "\ufffd"
"""Stands for a character that lacks some of its bytes."""


def stream_text(prompt: list[int], ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[str]:
    """Yield the text of ``prompt`` and ``ids`` in parts, as soon as each is final.

    Where entries join, the last word is held back until the next one begins: pieces to come may
    still belong to it. What was shown long ago is forgotten, so that a part takes the same time
    however long the text has become.
    """
    known, shown = list(prompt), 0
    for index in ids:
        known.append(index)
        text = vocabulary.decode(known)
        final = len(text.rstrip(INCOMPLETE))
        if vocabulary.joins_entries:
            final = max(text.rfind(" "), text.rfind("\n"))
        if final > shown:
            yield text[shown:final]
            shown = final
        if len(known) > 2 * KEPT_TOKENS:
            known, shown = _forget(known, text, shown, vocabulary)
    yield vocabulary.decode(known)[shown:]


def _forget(
    known: list[int], text: str, shown: int, vocabulary: Vocabulary
) -> tuple[list[int], int]:
    """Return the last ids whose text is the end of ``text``, and how much of it is shown."""
    for first in range(len(known) - KEPT_TOKENS, len(known) - 1):
        end = vocabulary.decode(known[first:])
        if text.endswith(end) and len(text) - len(end) <= shown:
            return known[first:], shown - (len(text) - len(end))
    return known, shown
