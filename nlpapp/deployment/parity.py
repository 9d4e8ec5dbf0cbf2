"""Whether exported models compute what the PyTorch model does: random batches of many shapes.

A packed LSTM, a traced length or a fixed batch size shows only at shapes that were not exported
with, and a wrong mask only where there is padding; so the batches have all of these.

Legend: B rows, S positions, M positions of memory, D hidden width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpapp import seeding

Feed = dict[str, np.ndarray]
Compute = Callable[[Feed], Sequence[np.ndarray]]
"""The inputs of a batch -> the outputs, in the order of the model's."""

LARGEST_BATCH = 64
NUM_BATCHES = 200


def random_shapes(
    rng: np.random.Generator, *, max_seq_length: int, batches: int = NUM_BATCHES
) -> list[tuple[int, int]]:
    """Return (B, S) of each batch: the smallest and largest of both, and others between.

    Others are drawn with equal weight on each doubling, so that the small shapes, where mistakes
    show, are as frequent as the large ones, which take the time.
    """
    ends = [(1, 1), (1, max_seq_length), (LARGEST_BATCH, 1), (LARGEST_BATCH, max_seq_length)]
    others = max(0, batches - len(ends))

    def draw(most: int) -> list[int]:
        values = np.exp(rng.uniform(0, np.log(most + 1), others)).astype(int)
        return [int(value) for value in values.clip(1, most)]

    return [*ends, *zip(draw(LARGEST_BATCH), draw(max_seq_length), strict=True)]


def random_feeds(
    model: Any,
    names: Sequence[str],
    *,
    max_seq_length: int,
    seed: int,
    batches: int = NUM_BATCHES,
    shapes: Sequence[tuple[int, int]] | None = None,
) -> Iterator[Feed]:
    """Yield batches of random pieces in 1..64 rows of 1..``max_seq_length`` tokens, with padding.

    Args:
        model: its config has vocab_size and pad_token_id.
        names: inputs of the model: input_ids, attention_mask, token_type_ids; with ``_b`` for the
            second texts.
        max_seq_length: of the longest batches, in tokens.
        seed: the batches are a function of it.
        batches: how many; the smallest and the largest shapes are always among them.
        shapes: (B, S) of each, in place of drawn ones.

    Each batch has one full row.
    """
    rng = seeding.generator(seed, "export comparison")
    shapes = shapes or random_shapes(rng, max_seq_length=max_seq_length, batches=batches)
    pad = getattr(model.config, "pad_token_id", 0) or 0
    for size, width in shapes:
        feed: Feed = {}
        for side in ("", "_b") if "input_ids_b" in names else ("",):
            lengths = rng.integers(1, width + 1, size)
            lengths[rng.integers(size)] = width
            mask = np.arange(width) < lengths[:, None]
            ids = rng.integers(0, model.config.vocab_size, (size, width))
            # A padding piece inside a row would shift RoBERTa's positions; real text has none.
            ids[ids == pad] = (pad + 1) % model.config.vocab_size
            feed[f"input_ids{side}"] = np.where(mask, ids, pad)
            feed[f"attention_mask{side}"] = mask.astype(np.int64)
        if "token_type_ids" in names:
            second = np.arange(width) >= rng.integers(0, width + 1, (size, 1))
            feed["token_type_ids"] = (second & mask).astype(np.int64)
        yield feed


def random_memory_feeds(
    config: Any, *, mem_len: int, max_seq_length: int, seed: int, batches: int = NUM_BATCHES
) -> Iterator[Feed]:
    """Yield batches for a Transformer-XL: ids (B, S), and a memory (B, M, D) a layer, M 0..mem_len.

    The first batches have no memory, one position, and a full one.
    """
    rng = seeding.generator(seed, "export comparison")
    shapes = random_shapes(rng, max_seq_length=max_seq_length, batches=batches)
    for number, (size, width) in enumerate(shapes):
        drawn = int(rng.integers(0, mem_len + 1))
        known = [0, min(1, mem_len), mem_len]
        memory = known[number] if number < len(known) else drawn
        feed: Feed = {"input_ids": rng.integers(0, config.vocab_size, (size, width))}
        for layer in range(config.num_hidden_layers):
            states = rng.standard_normal((size, memory, config.hidden_size), dtype=np.float32)
            feed[f"memory_{layer}"] = states
        yield feed


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an exported model is from the PyTorch model."""

    largest: float
    """Of any element of any output; not a number if one is not."""
    scale: float
    """Largest absolute element that PyTorch gave."""
    agreement: float
    """Share of rows (of positions, for a language model) with the same likeliest class."""
    batches: int


def compare(
    reference: Compute, candidates: Mapping[str, Compute], feeds: Iterator[Feed]
) -> dict[str, Difference]:
    """Return the difference of each candidate from the reference over all batches.

    Batch by batch, so that the hidden states of a long comparison are never in memory together.
    The outputs at padding are not compared where there is one vector a position: nobody reads them.
    """
    largest = dict.fromkeys(candidates, 0.0)
    agreements: dict[str, list[np.ndarray]] = {name: [] for name in candidates}
    scale, batches = 0.0, 0
    for feed in feeds:
        batches += 1
        expected = [_without_padding(output, feed) for output in reference(feed)]
        scale = max([scale, *(float(np.abs(output).max(initial=0)) for output in expected)])
        for name, compute in candidates.items():
            found = [_without_padding(output, feed) for output in compute(feed)]
            for one, other in zip(found, expected, strict=True):
                if one.shape != other.shape:
                    largest[name] = float("nan")
                    continue
                # A difference that is not a number must not pass for a small one.
                gap = np.abs(one.astype(np.float32) - other).max(initial=0)
                largest[name] = float(np.maximum(largest[name], gap))
            same = found[0].argmax(-1) == expected[0].argmax(-1)
            agreements[name].append(np.atleast_1d(same).reshape(-1))
    return {
        name: Difference(
            largest=largest[name],
            scale=scale,
            agreement=float(np.concatenate(agreements[name]).mean()),
            batches=batches,
        )
        for name in candidates
    }


def _without_padding(output: np.ndarray, feed: Feed) -> np.ndarray:
    mask = feed.get("attention_mask")
    if mask is None or output.ndim != 3:
        return output
    return output[mask.astype(bool)]  # (tokens, D)
