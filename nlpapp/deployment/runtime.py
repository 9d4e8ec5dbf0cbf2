"""Predictions and text vectors from an exported bundle with numpy, onnxruntime and tokenizers.

Nothing here, nor anything this file imports, needs PyTorch or transformers.

    open_bundle(folder)                  a Predictor or an Encoder, by what the bundle holds
    Predictor(folder).predict(texts)     classes or scores
    Encoder(folder).encode(texts)        one vector a text

Both may be called from many threads at once: nothing of them changes after loading.

Legend: N texts, B rows of a batch, S positions, C classes, H hidden width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from nlpapp.deployment.bundle_files import (
    MODEL_FILES,
    Precision,
    read_labels,
    read_manifest,
    verified_bytes,
    verified_path,
)
from nlpapp.errors import CheckpointError, ConfigError, DataError

__all__ = ["MODEL_FILES", "Encoder", "Precision", "Prediction", "Predictor", "open_bundle"]

Prediction = dict[str, Any]
"""{"label": name, "probabilities": {name: probability}}, or {"score": value} of a regression."""
Texts = Sequence[str] | Sequence[tuple[str, str]]
"""Texts, or pairs of texts."""
Reading = tuple[Encoding, ...]
"""The tokens of a text or a pair; of a siamese model those of each side."""
Pooling = Literal["mean", "cls", "max"]
POOLINGS = ("mean", "cls", "max")

BATCH_TOKENS = 4096
"""Positions of a batch, padding included: bounds memory, and larger ones are no faster on a CPU."""
ENCODING_ATTRIBUTES = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}
"""Input of a model -> the attribute of an Encoding that it comes from."""


class Bundle:
    """What all readers of bundles share: the manifest, and a session of the model."""

    reader = ""
    """The name that `READERS` has for it."""

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        """Load a bundle.

        Args:
            folder: the bundle.
            precision: which of its models: fp32, fp16 (made for GPUs), or the smaller and faster
                int8 and int8-static.
            threads: processor threads of one prediction; None or 0 takes all cores.
            device: cuda needs the package onnxruntime-gpu.

        Raises:
            CheckpointError: the folder is no bundle of this kind, or a file of it is missing or was
                changed.
            ConfigError: the bundle has no model of this precision, or there is no such device.
        """
        self.folder = Path(folder)
        self._manifest = read_manifest(self.folder)
        kind = str(self._manifest.get("kind", "classifier"))
        if READERS.get(kind) != self.reader:
            raise CheckpointError(
                f"{folder} is a bundle of the kind '{kind}', which {READERS.get(kind, 'nothing')} "
                f"opens, not {self.reader}."
            )
        self.session = open_session(
            self.folder, self._manifest, precision=precision, threads=threads, device=device
        )
        self._open()

    def _open(self) -> None:
        """Read what this kind of bundle has beside the model."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the bundle was made from: model_type, kind, versions, files and their sha256."""
        return dict(self._manifest)


class TextReader(Bundle):
    """What predictors and encoders share: a tokenizer, and batches of texts of similar length."""

    def _open(self) -> None:
        tokenizer = verified_bytes(self.folder, "tokenizer.json", self._manifest["files"])
        self.tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._pad_id = (self.tokenizer.padding or {}).get("pad_id", 0)
        self.tokenizer.no_padding()  # batches are put together by length below
        self.max_length: int | None = (self.tokenizer.truncation or {}).get("max_length")
        """Tokens that are read of a text, special ones included; the rest is cut."""
        self._inputs = {entry.name for entry in self.session.get_inputs()}

    @property
    def siamese(self) -> bool:
        """Whether the model reads two texts with one encoder, and so cannot do without pairs."""
        return "input_ids_b" in self._inputs

    def read(self, texts: Texts, pairs: Sequence[str] | None = None) -> list[Reading]:
        """Return the tokens of each text, or pair.

        Raises:
            DataError: a text is empty or not a string, or the pairs do not match the texts.
        """
        first, second = _split(texts, pairs)
        self._check(first, second)
        if second is None:
            sides = [self.tokenizer.encode_batch(list(first))]
        elif self.siamese:
            sides = [self.tokenizer.encode_batch(list(side)) for side in (first, second)]
        else:
            sides = [self.tokenizer.encode_batch(list(zip(first, second, strict=True)))]
        return list(zip(*sides, strict=True))

    def batches(
        self, readings: Sequence[Reading], batch_size: int, batch_tokens: int
    ) -> Iterator[np.ndarray]:
        """Yield the indices of readings of similar length, the shortest first."""
        if batch_size < 1 or batch_tokens < 1:
            raise ConfigError(
                f"batch_size {batch_size} and batch_tokens {batch_tokens} must be at least 1."
            )
        lengths = np.array([reading_length(reading) for reading in readings])
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            end = start + 1
            while (
                end < min(start + batch_size, len(order))
                and (end + 1 - start) * lengths[order[end]] <= batch_tokens
            ):
                end += 1
            yield order[start:end]
            start = end

    def feed(self, readings: Sequence[Reading]) -> dict[str, np.ndarray]:
        """Return the inputs of the model for readings that are computed at once, padded."""
        feed: dict[str, np.ndarray] = {}
        for suffix, side in zip(("", "_b"), zip(*readings, strict=True), strict=False):
            width = max(1, *map(len, side))  # texts of zero-width characters have no token
            for name, attribute in ENCODING_ATTRIBUTES.items():
                if name + suffix not in self._inputs:
                    continue
                padding = self._pad_id if name == "input_ids" else 0
                rows = np.full((len(side), width), padding, dtype=np.int64)  # (B, S)
                for row, encoding in zip(rows, side, strict=True):
                    row[: len(encoding)] = getattr(encoding, attribute)
                feed[name + suffix] = rows
        return feed

    def _check(self, texts: Sequence[Any], pairs: Sequence[Any] | None) -> None:
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


class Predictor(TextReader):
    """A classifier (or regression) of texts, loaded from a bundle folder of `nlpapp export`."""

    reader = "Predictor"

    def _open(self) -> None:
        super()._open()
        self.labels: list[str] = read_labels(self.folder, self._manifest)

    @property
    def is_pair(self) -> bool:
        """Whether the model was made for pairs of texts, as far as the bundle knows."""
        return self.siamese or bool(self._manifest.get("pairs"))

    @property
    def is_regression(self) -> bool:
        """Whether a prediction is a score instead of a class."""
        return not self.labels

    def predict(
        self,
        texts: Texts,
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> list[Prediction]:
        """Return one prediction a text, in the order of ``texts``.

        Args:
            texts: the texts, or pairs (first, second) of texts.
            pairs: the second text of each, in place of pairs in ``texts``.
            batch_size: texts computed at once; those of similar length go together.
            batch_tokens: positions computed at once, padding included.

        Returns:
            {"label": name, "probabilities": {name: probability}} for each text, or {"score": value}
            from a regression.

        Raises:
            DataError: a text is empty or not a string, or the pairs do not match the texts.
        """
        if not len(texts):
            return []
        logits = self.logits(texts, pairs, batch_size=batch_size, batch_tokens=batch_tokens)
        return self._predictions(logits)

    def predict_together(self, readings: Sequence[Reading]) -> list[Prediction]:
        """Return one prediction a reading of `read`; all are computed at once."""
        return self._predictions(self._run(readings))

    def logits(
        self,
        texts: Texts,
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> np.ndarray:
        """Return the model's raw outputs, (N, C), for texts as in `predict`."""
        readings = self.read(texts, pairs)
        rows = np.empty((len(readings), max(1, len(self.labels))), dtype=np.float32)
        for part in self.batches(readings, batch_size, batch_tokens):
            rows[part] = self._run([readings[index] for index in part])
        return rows

    def _run(self, readings: Sequence[Reading]) -> np.ndarray:
        (found,) = self.session.run(["logits"], self.feed(readings))  # (B, C)
        return found

    def _predictions(self, logits: np.ndarray) -> list[Prediction]:
        if not self.labels:
            return [{"score": float(row[0])} for row in logits]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)  # (N, C)
        return [
            {
                "label": self.labels[int(row.argmax())],
                "probabilities": dict(zip(self.labels, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]


class Encoder(TextReader):
    """Vectors of texts from an encoder, loaded from a bundle folder of `nlpapp export`."""

    reader = "Encoder"

    def _open(self) -> None:
        super()._open()
        self.num_layers = int(self._manifest["num_layers"])
        """Layers of the encoder; layer 0 is the embeddings."""
        self.layers: list[int] = sorted(int(layer) for layer in self._manifest["layers"])
        """Layers that the bundle has, counted from the embeddings (0)."""
        self.hidden_size = int(self._manifest["hidden_size"])

    def encode(
        self,
        texts: Texts,
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> np.ndarray:
        """Return one vector a text, (N, H) float32, in the order of ``texts``.

        Args:
            texts: the texts, or pairs (first, second) of texts.
            pooling: mean or max over the tokens, special ones included, or the first token (cls).
            layer: whose hidden states; 0 is the embeddings, -1 the last layer.
            batch_size: texts computed at once; those of similar length go together.
            batch_tokens: positions computed at once, padding included.

        Raises:
            ConfigError: an unknown pooling, or a layer that the bundle does not have.
            DataError: a text is empty or not a string.
        """
        readings = self.read(texts)
        vectors = np.empty((len(readings), self.hidden_size), dtype=np.float32)
        for part in self.batches(readings, batch_size, batch_tokens):
            together = [readings[index] for index in part]
            vectors[part] = self.encode_together(together, pooling=pooling, layer=layer)
        return vectors

    def encode_together(
        self, readings: Sequence[Reading], *, pooling: Pooling = "mean", layer: int = -1
    ) -> np.ndarray:
        """Return one vector a reading of `read`, (B, H); all are computed at once."""
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling '{pooling}' is unknown; expected {', '.join(POOLINGS)}.")
        output = f"layer_{self._layer(layer)}"
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("only_execute_path_to_fetches", "1")
        feed = self.feed(readings)
        (states,) = self.session.run([output], feed, options)  # (B, S, H)
        return pool(states, feed["attention_mask"], pooling)

    def _layer(self, layer: int) -> int:
        found = layer + self.num_layers + 1 if layer < 0 else layer
        if found not in self.layers:
            raise ConfigError(
                f"{self.folder} has no layer {layer}; it has "
                f"{', '.join(map(str, self.layers))} of {self.num_layers} (0: the embeddings). "
                "Export it again with --layers."
            )
        return found


def pool(states: np.ndarray, attention_mask: np.ndarray, pooling: str) -> np.ndarray:
    """Return the (B, H) vectors of (B, S, H) hidden states; padding has no part in them."""
    if pooling == "cls":
        return states[:, 0]
    inside = attention_mask[:, :, None].astype(bool)  # (B, S, 1)
    inside[:, :1] |= ~inside.any(axis=1, keepdims=True)  # a text of no token is its padding
    if pooling == "max":
        return np.where(inside, states, np.finfo(states.dtype).min).max(axis=1)
    return np.where(inside, states, 0).sum(axis=1) / inside.sum(axis=1)


def reading_length(reading: Reading) -> int:
    """Return the positions that a reading takes; of a siamese model those of the longer side."""
    return max(map(len, reading))


def open_bundle(
    folder: str | Path,
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Predictor | Encoder:
    """Return what reads the bundle in ``folder``; the arguments are those of `Predictor`.

    Raises:
        CheckpointError: it is no bundle, a damaged one, or one of a language model.
        ConfigError: the bundle has no model of this precision, or there is no such device.
    """
    kind = read_manifest(Path(folder)).get("kind", "classifier")
    reader = Encoder if kind == "encoder" else Predictor
    return reader(folder, precision=precision, threads=threads, device=device)


READERS = {
    "classifier": "Predictor",
    "regression": "Predictor",
    "encoder": "Encoder",
    "language-model": "LanguageModel",
}
"""Kind of a bundle, as in its manifest -> the class that reads it."""


def open_session(
    folder: Path,
    manifest: dict[str, Any],
    *,
    precision: str,
    threads: int | None,
    device: str,
) -> onnxruntime.InferenceSession:
    """Return a session of a model of the bundle, whose file is checked first.

    Raises:
        CheckpointError: the file is missing or was changed.
        ConfigError: the bundle has no model of this precision, or there is no such device.
    """
    files = manifest["files"]
    if MODEL_FILES.get(precision) not in files:
        there = [name for name, file in MODEL_FILES.items() if file in files]
        raise ConfigError(
            f"{folder} has no {precision} model; it has {', '.join(there)}. "
            f"Export it again with {precision}, or choose another precision."
        )
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"device '{device}' is not there for onnxruntime; use cpu, or install onnxruntime-gpu "
            "in place of onnxruntime for cuda."
        )
    path = verified_path(folder, MODEL_FILES[precision], files)
    return load_onnx(path, precision=precision, threads=threads, provider=provider)


def load_onnx(
    path: Path,
    *,
    precision: str,
    threads: int | None = None,
    provider: str = "CPUExecutionProvider",
) -> onnxruntime.InferenceSession:
    """Return a session of an ONNX file; the arguments are those of `open_session`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Its warnings are about choices of the graph that the export has checked.
    options.log_severity_level = 3
    if precision == "fp16" and provider == "CPUExecutionProvider":
        # onnxruntime 1.31 crashes while it lays out some float16 graphs anew for a CPU.
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(str(path), options, providers=[provider])


def _split(texts: Any, pairs: Sequence[str] | None) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return the first and the second texts."""
    if pairs is not None or isinstance(texts, str):
        return texts, pairs
    couples = [isinstance(text, (tuple, list)) for text in texts]
    if not any(couples):
        return texts, None
    for index, text in enumerate(texts):
        if not couples[index] or len(text) != 2:
            raise DataError(f"texts[{index}] is no pair of two texts, though others are.")
    return [text[0] for text in texts], [text[1] for text in texts]
