"""Text from an exported Transformer-XL with numpy, onnxruntime and tokenizers; no PyTorch.

Legend: T segment length, M memory length, D hidden width, V vocabulary.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from nlpapp.deployment.bundle_files import verified_bytes
from nlpapp.deployment.runtime import Bundle
from nlpapp.errors import ConfigError, DataError

PROMPT_SEGMENT = 512
"""Tokens of a prompt that are read at once, and without a memory those that each token is written
from; as `nlpapp generate` does, whose text is the same."""


class LanguageModel(Bundle):
    """A Transformer-XL that continues prompts, loaded from a bundle folder of `nlpapp export`."""

    reader = "LanguageModel"

    def _open(self) -> None:
        self.vocabulary = _Words(self.folder, self._manifest)

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 42,
    ) -> str:
        """Return ``prompt`` and what the model puts after it.

        Args:
            prompt: empty for the start of a text.
            max_new_tokens: tokens to write.
            temperature: 0 always takes the likeliest token, 1 draws by the model's probabilities.
            top_k: draw from this many likeliest tokens only; 0: from all.
            top_p: draw from the fewest likeliest tokens with this probability together.
            seed: of the draws.

        Raises:
            ConfigError: an option is out of range.
            DataError: a word is unknown, and the vocabulary has no <unk>.
        """
        ids = self.vocabulary.encode(prompt)
        new = self.generate_ids(
            ids,
            max_new_tokens=max_new_tokens,
            rng=np.random.default_rng(seed),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        return self.vocabulary.decode([*ids[1:], *new])

    def generate_ids(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        rng: np.random.Generator,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Iterator[int]:
        """Yield the ids that the model puts after ``prompt``, at least one id, never <unk>.

        A model exported without memory writes each from the last `PROMPT_SEGMENT` ids.

        Raises:
            ConfigError: an option is out of range.
        """
        if not 0 <= temperature < np.inf or top_k < 0 or not 0 < top_p <= 1:
            raise ConfigError(
                f"temperature {temperature} and top_k {top_k} must be finite and not negative, and "
                f"top_p {top_p} must be over 0 and at most 1."
            )
        memory, pending = self.empty_memory(), list(prompt)
        remembers = bool(self.manifest["mem_len"])
        for _ in range(max_new_tokens):
            if not remembers:
                pending = pending[-PROMPT_SEGMENT:]
            for start in range(0, len(pending), PROMPT_SEGMENT):
                logits, memory = self.step(pending[start : start + PROMPT_SEGMENT], memory)
            scores = logits[-1].copy()
            if self.vocabulary.unknown_id is not None:
                scores[self.vocabulary.unknown_id] = -np.inf
            shares = next_token_probabilities(
                scores, temperature=temperature, top_k=top_k, top_p=top_p
            )
            token = int(rng.choice(len(shares), p=shares))
            yield token
            pending = [token] if remembers else [*pending, token]

    def empty_memory(self) -> list[np.ndarray]:
        """Return the memory at the start of a text: (1, 0, D) of each layer."""
        shape = (1, 0, int(self.manifest["hidden_size"]))
        return [np.zeros(shape, np.float32) for _ in range(int(self.manifest["num_layers"]))]

    def step(
        self, ids: Sequence[int], memory: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the (T, V) log-probabilities after each of ``ids``, and the next memory.

        Args:
            ids: T ids that follow what ``memory`` was made from.
            memory: of each layer, (1, M, D).
        """
        feed = {f"memory_{layer}": states for layer, states in enumerate(memory)}
        feed["input_ids"] = np.array([ids], dtype=np.int64)
        logits, *after = self.session.run(None, feed)
        return logits[0], after


def next_token_probabilities(
    logits: np.ndarray, *, temperature: float, top_k: int, top_p: float
) -> np.ndarray:
    """Return (V,) probabilities as `models.generation.next_token_probabilities` does.

    That one cannot be imported where there is no PyTorch; a test holds the two together.
    """
    if temperature == 0:
        certain = np.zeros(len(logits))
        certain[logits.argmax()] = 1.0
        return certain
    scores = logits.astype(np.float64) / temperature
    shares = np.exp(scores - scores.max())
    order = np.argsort(-shares, kind="stable")
    if top_k:
        shares[order[top_k:]] = 0
    shares /= shares.sum()
    if top_p < 1:
        before = np.cumsum(shares[order]) - shares[order]  # of the likelier tokens
        shares[order[before >= top_p]] = 0
    return shares / shares.sum()


class _Words:
    """The vocabulary of a bundle: words, characters, bytes, or the pieces of a tokenizer."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.end_id: int = manifest["end_id"]
        self.unknown_id: int | None = manifest["unknown_id"]
        self.kind = "pieces"
        if "vocabulary.json" in manifest["files"]:
            content = json.loads(verified_bytes(folder, "vocabulary.json", manifest["files"]))
            self.kind = content["kind"]
            self.symbols: list[str] = content.get("symbols", [])  # bytes need none
            self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        else:
            text = verified_bytes(folder, "tokenizer.json", manifest["files"]).decode()
            self.tokenizer = Tokenizer.from_str(text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, <eos> for its start and for each line break."""
        ids = []
        for line in text.split("\n"):
            ids += [self.end_id, *self._line_ids(line)]
        return ids

    def _line_ids(self, line: str) -> list[int]:
        if self.kind == "pieces":
            return list(self.tokenizer.encode(line, add_special_tokens=False).ids)
        if self.kind == "bytes":
            return list(line.encode())
        ids = []
        for symbol in line.split() if self.kind == "words" else line:
            index = self.ids.get(symbol, self.unknown_id)
            if index is None:
                raise DataError(f"'{symbol}' is not in the vocabulary, which has no <unk>.")
            ids.append(index)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, a new line after each <eos>."""
        lines: list[list[int]] = [[]]
        for index in ids:
            if index == self.end_id:
                lines.append([])
            else:
                lines[-1].append(index)
        return "\n".join(map(self._line_text, lines))

    def _line_text(self, ids: Sequence[int]) -> str:
        if self.kind == "pieces":
            return str(self.tokenizer.decode(ids))
        if self.kind == "bytes":
            return bytes(ids).decode(errors="replace")
        return (" " if self.kind == "words" else "").join(self.symbols[index] for index in ids)
