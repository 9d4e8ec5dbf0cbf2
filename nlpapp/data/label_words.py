"""The words of a label column as numbers: class indices, scores, or one 0 or 1 for each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpapp.errors import DataError, nearest


class UnknownLabelError(DataError):
    """A label in a file that is not one of the classes."""


@dataclass(frozen=True)
class LabelWords:
    """The words of one label column, and where they stand."""

    path: Path
    words: list[str]
    lines: list[int]

    def classes(self, expected: Sequence[str]) -> np.ndarray:
        """Return (rows,) int64 indices into ``expected``.

        Raises:
            UnknownLabelError: a word is empty or not one of ``expected``.
        """
        index = {word: position for position, word in enumerate(expected)}
        labels = np.zeros(len(self.words), dtype=np.int64)
        for row, word in enumerate(self.words):
            if not word or word not in index:
                raise self._unknown(row, word, expected)
            labels[row] = index[word]
        return labels

    def sets_of_classes(self, expected: Sequence[str], separator: str) -> np.ndarray:
        """Return (rows, classes) float32, 1 where a row has the class; a row may have none.

        Raises:
            UnknownLabelError: a part of a word is not one of ``expected``.
        """
        index = {word: position for position, word in enumerate(expected)}
        labels = np.zeros((len(self.words), len(expected)), dtype=np.float32)
        for row, word in enumerate(self.words):
            for part in split_words(word, separator):
                if part not in index:
                    raise self._unknown(row, part, expected)
                labels[row, index[part]] = 1
        return labels

    def scores(self) -> np.ndarray:
        """Return (rows,) float32 scores.

        Raises:
            DataError: a word is no finite number.
        """
        scores = np.zeros(len(self.words), dtype=np.float32)
        for row, (word, line) in enumerate(zip(self.words, self.lines, strict=True)):
            try:
                score = float(word)
            except ValueError:
                score = math.nan
            if not math.isfinite(score):
                raise DataError(
                    f"{self.path}, line {line}: the score '{word}' is not a finite number."
                )
            scores[row] = score
        return scores

    def _unknown(self, row: int, word: str, expected: Sequence[str]) -> UnknownLabelError:
        listed = ", ".join(repr(name) for name in expected) + "." + nearest(word, expected)
        where = f"{self.path}, line {self.lines[row]}"
        return UnknownLabelError(f"{where}: label '{word}' is not one of {listed}")


def split_words(word: str, separator: str) -> list[str]:
    """Return the parts of ``word`` between separators, without white space; none if it is empty."""
    return [part.strip() for part in word.split(separator) if part.strip()]


def infer_label_names(words: Sequence[str]) -> tuple[str, ...]:
    """Return the different labels, sorted: as numbers if all are whole numbers, else as text.

    An empty word is no label.
    """
    different = set(words) - {""}
    whole = all(word.removeprefix("-").isdecimal() for word in different)
    return tuple(sorted(different, key=(lambda word: (int(word), word)) if whole else None))
