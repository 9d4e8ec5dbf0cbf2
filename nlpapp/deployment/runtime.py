"""Predictions from an exported bundle with numpy, onnxruntime and tokenizers alone.

Nothing here, nor anything this file imports, needs PyTorch or transformers.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from nlpapp.errors import CheckpointError, ConfigError, DataError

MODEL_FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


class Predictor:
    """A classifier (or regression) of texts, loaded from a bundle folder of `nlpapp export`."""

    def __init__(
        self, folder: str | Path, *, precision: Literal["fp32", "int8"] = "fp32", threads: int = 0
    ) -> None:
        """Load a bundle.

        Args:
            folder: the bundle.
            precision: which of its models: fp32, or the smaller and faster int8.
            threads: processor threads of one prediction; 0 takes all cores.

        Raises:
            CheckpointError: the folder is no bundle, or a file of it is missing or was changed.
            ConfigError: the bundle has no model of this precision.
        """
        self.folder = Path(folder)
        checksums = _read_checksums(self.folder)
        if MODEL_FILES.get(precision) not in checksums:
            there = [name for name, file in MODEL_FILES.items() if file in checksums]
            raise ConfigError(
                f"{folder} has no {precision} model; it has {', '.join(there)}. "
                "Export it again with int8, or choose another precision."
            )
        model = _verified(self.folder, MODEL_FILES[precision], checksums)
        tokenizer = _verified(self.folder, "tokenizer.json", checksums)
        labels = json.loads(_verified(self.folder, "labels.json", checksums))
        self.labels: list[str] = labels["labels"]
        self.tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._pad_id = (self.tokenizer.padding or {}).get("pad_id", 0)
        self.tokenizer.no_padding()  # batches are put together by length below
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {entry.name for entry in self.session.get_inputs()}

    @property
    def siamese(self) -> bool:
        """Whether the model reads two texts with one encoder, and so cannot do without pairs."""
        return "input_ids_b" in self._inputs

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Return one prediction a text, in the order of ``texts``.

        Args:
            texts: the texts.
            pairs: the second text of each, for models of text pairs.
            batch_size: texts computed at once; those of similar length go together.

        Returns:
            {"label": name, "probabilities": {name: probability}} for each text, or {"score": value}
            from a regression.

        Raises:
            DataError: a text is empty or not a string, or the pairs do not match the texts.
        """
        if not len(texts):
            return []
        logits = self.logits(texts, pairs, batch_size=batch_size)  # (texts, labels)
        if not self.labels:
            return [{"score": float(row[0])} for row in logits]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        return [
            {
                "label": self.labels[int(row.argmax())],
                "probabilities": dict(zip(self.labels, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> np.ndarray:
        """Return the model's raw outputs, (texts, labels), for texts as in `predict`."""
        self._check(texts, pairs)
        sides = self._encode(texts, pairs)
        lengths = np.array([len(encoding.ids) for encoding in sides[0]])
        order = np.argsort(lengths, kind="stable")
        rows: np.ndarray | None = None
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            feed: dict[str, np.ndarray] = {}
            for suffix, side in zip(("", "_b"), sides, strict=False):
                feed |= self._feed([side[index] for index in part], suffix)
            (found,) = self.session.run(["logits"], feed)
            if rows is None:
                rows = np.empty((len(texts), found.shape[1]), dtype=np.float32)
            rows[part] = found
        return np.empty((0, max(1, len(self.labels)))) if rows is None else rows

    def _encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[list[Encoding]]:
        if pairs is None:
            return [self.tokenizer.encode_batch(list(texts))]
        if self.siamese:
            return [self.tokenizer.encode_batch(list(side)) for side in (texts, pairs)]
        return [self.tokenizer.encode_batch(list(zip(texts, pairs, strict=True)))]

    def _feed(self, encodings: list[Encoding], suffix: str) -> dict[str, np.ndarray]:
        width = max(len(encoding.ids) for encoding in encodings)
        columns = {
            "input_ids": "ids",
            "attention_mask": "attention_mask",
            "token_type_ids": "type_ids",
        }
        feed = {}
        for name, attribute in columns.items():
            if name + suffix not in self._inputs:
                continue
            padding = self._pad_id if name == "input_ids" else 0
            rows = np.full((len(encodings), width), padding, dtype=np.int64)  # (B, S)
            for row, encoding in zip(rows, encodings, strict=True):
                row[: len(encoding.ids)] = getattr(encoding, attribute)
            feed[name + suffix] = rows
        return feed

    def _check(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        if self.siamese and pairs is None:
            raise DataError(f"the model in {self.folder} compares two texts: give pairs as well.")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(
                f"there are {len(texts)} texts and {len(pairs)} pairs; give one for each."
            )
        for name, side in (("texts", texts), ("pairs", pairs)):
            if isinstance(side, str):
                raise DataError(f"{name} is one string; give a list of strings.")
            for index, text in enumerate(side or ()):
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise DataError(f"{name}[{index}] is of type {kind}; expected a string.")
                if not text.strip():
                    raise DataError(f"{name}[{index}] is empty; leave empty texts out.")


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a bundle: it has no manifest.json. Make one with nlpapp export."
        )
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); export the model again.") from error


def _verified(folder: Path, name: str, checksums: dict[str, str]) -> bytes:
    """Return the bytes of a file of the bundle, if they are the ones that were exported."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {folder / name}: {error}. Copy the whole bundle again."
        ) from error
    if hashlib.sha256(content).hexdigest() != checksums.get(name):
        raise CheckpointError(
            f"{folder / name} is not the file that was exported: its sha256 differs from the one "
            "in manifest.json. Copy the bundle again, or export the model again."
        )
    return content
