"""The models of a server: what each answers, and which words of a text matter to it."""

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.deployment.runtime import (
    Encoder,
    Precision,
    Predictor,
    Reading,
    open_bundle,
    reading_length,
)
from nlpapp.errors import ConfigError, DataError

Row = tuple[str, str | None]
"""A text and the second text of its pair, if it is one."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
CONTAINERS = ("bundle", "model")
"""Folder names that say nothing: the folder above them names the model."""


@dataclass(frozen=True)
class Word:
    """A word of a text: characters ``start`` to ``end`` of the text (side 0) or its pair (1)."""

    side: int
    start: int
    end: int


class ServedModel:
    """A bundle behind a name."""

    def __init__(self, name: str, reader: Predictor | Encoder) -> None:
        """Serve ``reader`` as ``name``."""
        self.name = name
        self.reader = reader

    @property
    def kind(self) -> str:
        """What it answers: classifier, regression or encoder."""
        if isinstance(self.reader, Encoder):
            return "encoder"
        return "regression" if self.reader.is_regression else "classifier"

    @property
    def answers(self) -> tuple[str, ...]:
        """The paths on which it answers."""
        return ("/embed",) if isinstance(self.reader, Encoder) else ("/predict", "/explain")

    def describe(self) -> dict[str, Any]:
        """Return what a client may want to know; no path of the server is in it."""
        reader = self.reader
        return {
            "name": self.name,
            "kind": self.kind,
            "labels": [] if isinstance(reader, Encoder) else list(reader.labels),
            "pairs": False if isinstance(reader, Encoder) else reader.is_pair,
            "layers": list(reader.layers) if isinstance(reader, Encoder) else [],
            "hidden_size": reader.hidden_size if isinstance(reader, Encoder) else None,
            "max_length": reader.max_length,
            "answers": list(self.answers),
        }

    def check(self, rows: Sequence[Row], *, layer: int | None = None) -> None:
        """Refuse rows that the model cannot read, before they come into a batch with others.

        Args:
            rows: texts, or pairs.
            layer: of an encoder, the layer that is asked for.

        Raises:
            DataError: a text is empty, the model needs pairs, or it has no such layer.
        """
        reader = self.reader
        for index, row in enumerate(rows):
            for name, text in zip(("texts", "pairs"), row, strict=True):
                if text is not None and not text.strip():
                    raise DataError(f"{name}[{index}] is empty; leave empty texts out.")
        if isinstance(reader, Encoder):
            total = reader.num_layers
            wanted = -1 if layer is None else layer
            if (wanted + total + 1 if wanted < 0 else wanted) not in reader.layers:
                raise DataError(
                    f"'{self.name}' has no layer {wanted}; it has "
                    f"{', '.join(map(str, reader.layers))} of {total} (0: the embeddings)."
                )
        elif reader.siamese and any(pair is None for _, pair in rows):
            raise DataError(f"'{self.name}' compares two texts: give pairs as well.")

    def read(self, key: Hashable, rows: Sequence[Row]) -> list[tuple[Reading, int]]:
        """Return the tokens of each row and their number; the ``key`` is that of `batch_key`."""
        paired, *_ = _parts(key)
        texts: Any = rows if paired else [text for text, _ in rows]
        return [(reading, reading_length(reading)) for reading in self.reader.read(texts)]

    def compute(self, key: Hashable, readings: Sequence[Reading]) -> Sequence[Any]:
        """Return one answer a reading; all are computed at once.

        Raises:
            ArithmeticError: a number of an answer is not finite, which JSON cannot write.
        """
        if isinstance(self.reader, Encoder):
            _, pooling, layer = _parts(key)
            vectors = self.reader.encode_together(readings, pooling=pooling, layer=layer)
            if not np.isfinite(vectors).all():
                raise ArithmeticError(f"'{self.name}' gives vectors that are not finite.")
            return vectors.tolist()
        found = self.reader.predict_together(readings)
        for answer in found:
            numbers = [answer["score"]] if "score" in answer else answer["probabilities"].values()
            if not math.isfinite(sum(numbers)):
                raise ArithmeticError(f"'{self.name}' gives numbers that are not finite.")
        return found


def batch_key(
    rows: Sequence[Row], *, pooling: str | None = None, layer: int | None = None
) -> tuple[bool, str | None, int | None]:
    """Return what rows must have in common to be computed together."""
    return rows[0][1] is not None, pooling, layer


def _parts(key: Hashable) -> tuple[bool, Any, Any]:
    assert isinstance(key, tuple)
    return key


def open_models(
    folders: Sequence[str | Path], *, precision: Precision = "fp32", threads: int | None = None
) -> dict[str, ServedModel]:
    """Load bundles.

    Args:
        folders: bundles, each as ``folder`` or as ``name=folder``.
        precision: which model of each bundle.
        threads: processor threads of a computation; None takes all cores.

    Returns:
        The models by name, in the order given; the first answers requests that name none.

    Raises:
        ConfigError: there is none, a name is taken twice, or cannot stand in a request.
        CheckpointError: a folder is no bundle, or a damaged one.
    """
    if not folders:
        raise ConfigError("give --models: one bundle of nlpapp export or more.")
    models: dict[str, ServedModel] = {}
    for entry in folders:
        name, folder = split_name(str(entry))
        if name in models:
            raise ConfigError(
                f"two models have the name '{name}'; give names: --models '[one={folder}, ...]'."
            )
        reader = open_bundle(folder, precision=precision, threads=threads)
        models[name] = ServedModel(name, reader)
    return models


def split_name(entry: str) -> tuple[str, Path]:
    """Return name and folder of ``folder`` or ``name=folder``.

    Raises:
        ConfigError: the name has characters that a request may not use.
    """
    name, equals, folder = entry.partition("=")
    path = Path(folder if equals else entry)
    if not equals:
        parts = [part for part in path.absolute().parts if part not in CONTAINERS]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1]).lstrip("._-") or "model"
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' cannot name a model: use letters, digits, '.', '_' and '-', at most 100. "
            f"If '{name}' begins the path of a folder, write name=folder: name={entry}."
        )
    return name, path


def find_words(row: Row) -> list[Word]:
    """Return the words of a row, but none of a text of one word: nothing would remain of it."""
    words: list[Word] = []
    for side, text in enumerate(row):
        places = [match.span() for match in WORD.finditer(text or "")]
        if len(places) > 1:
            words += [Word(side, start, end) for start, end in places]
    return words


def without_word(row: Row, word: Word) -> Row:
    """Return the row without one of its words."""
    text, pair = row
    if word.side == 0:
        return text[: word.start] + text[word.end :], pair
    return text, str(pair)[: word.start] + str(pair)[word.end :]


def word_weights(whole: dict[str, Any], parts: Sequence[dict[str, Any]]) -> list[float]:
    """Return how much each word adds to the answer: that of the whole text minus that without it.

    The answer is the probability of the whole text's label, or the score of a regression
    (occlusion, Zeiler and Fergus 2014, with words in place of patches).
    """
    return [_answer(whole, whole) - _answer(part, whole) for part in parts]


def _answer(prediction: dict[str, Any], whole: dict[str, Any]) -> float:
    if "score" in whole:
        return float(prediction["score"])
    return float(prediction["probabilities"][whole["label"]])
