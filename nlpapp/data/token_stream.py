"""A text as one long row of ids, read in order: what language models train on and are scored on.

The row of n tokens is cut into lanes, stretches that lie side by side in a batch; step s holds
tokens s*T ... (s+1)*T - 1 of every lane. So a row of a step goes on where it ended in the step
before, and a memory kept for it stays valid. In the next epoch each row reads the lane after the
one it has read, which begins where that ended, and the memory goes on with it; only the row that
leaves the last lane jumps, with its memory, to the start of the text. Processes and micro-batches
share out the rows, not the time. Which row begins with which lane depends on the seed, the lengths
of segments on (seed, epoch), so that any number of processes and a resumed run read the same.

Every token is predicted from the one before it, the first from ``start_id``; a lane's first token
is predicted from the last of the lane before it, so that cutting loses no prediction. Where the
lanes cannot be of equal length the last are padded, with labels of -100.

Legend: n = tokens, T = segment length, L = tokens of a lane.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from nlpapp import seeding
from nlpapp.data.sampling import Batch, epoch_order, split_step
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.language_text import LanguageText
from nlpapp.text.vocabulary import Vocabulary

IGNORED_LABEL = -100
BLOCK = 1 << 20
"""Ids that are looked at together."""


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned integer type that holds every id below ``vocab_size``."""
    return np.min_scalar_type(vocab_size - 1)


def write_token_ids(
    path: Path, lines: Iterable[Sequence[int] | np.ndarray], vocab_size: int, *, name: str
) -> np.ndarray:
    """Write the ids of ``lines``, one after the other, to an .npy file; return it memory-mapped.

    Needs the memory of a few lines only. The file appears whole or not at all, so several processes
    may write the same one at the same time.

    Args:
        path: where the .npy file goes; folders are made.
        lines: ids of each line, <eos> included.
        vocab_size: V; decides the integer type.
        name: what error messages call the text.

    Raises:
        DataError: there is no token, or no room for the file.
    """
    dtype = smallest_dtype(vocab_size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            body, whole = Path(folder) / "body", Path(folder) / "whole"
            with open(body, "wb") as file:
                for ids in lines:
                    file.write(np.asarray(ids, dtype=dtype).tobytes())
            num_tokens = body.stat().st_size // dtype.itemsize
            if not num_tokens:
                raise DataError(f"{name} is empty: it has no token.")
            # The header holds the number of tokens, which is known only now.
            with open(whole, "wb") as file, open(body, "rb") as source:
                header = {"descr": dtype.str, "fortran_order": False, "shape": (num_tokens,)}
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(source, file)
            os.replace(whole, path)
    except OSError as error:
        raise DataError(f"could not write the ids of the text to {path}: {error}.") from error
    return np.load(path, mmap_mode="r", allow_pickle=False)


def encode_text(text: LanguageText, vocabulary: Vocabulary, folder: Path) -> np.ndarray:
    """Return the ids of a text, memory-mapped from a file in ``folder``.

    The file is named for vocabulary and text: it is written once, and found again by a resumed run.

    Raises:
        DataError: the text is damaged, has only empty lines, or has a word the vocabulary lacks.
    """
    path = (
        folder / f"{seeding.derive_seed(0, vocabulary.fingerprint(), text.fingerprint()):016x}.npy"
    )
    if path.is_file():
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        ids = write_token_ids(path, text.encode(vocabulary), len(vocabulary), name=text.name)
    blocks = (ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK))
    if not any((block != vocabulary.end_id).any() for block in blocks):
        raise DataError(f"{text.name} has only empty lines: there is nothing to learn or to score.")
    return ids


def check_training_length(
    num_tokens: int, num_lanes: int, segment_length: int, name: str, *, shares: int = 1
) -> None:
    """Raise ConfigError if a text is shorter than one batch of segments, or lanes are too few.

    ``shares`` is the number of micro-batches of a step, over all processes.
    """
    if num_lanes < shares:
        raise ConfigError(
            f"batch_size: {num_lanes} lanes are fewer than the {shares} micro-batches (processes x "
            "gradient_accumulation_steps) that share them out. Give at least as many."
        )
    if num_tokens < num_lanes * segment_length:
        raise ConfigError(
            f"{name} has {num_tokens} tokens, fewer than one batch of {num_lanes} lanes x "
            f"{segment_length} tokens. Lower batch_size or segment_length, or use more text."
        )


def segment_borders(
    lane_length: int, segment_length: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return where the segments of a lane begin, and its end: (number of segments + 1,).

    Args:
        lane_length: L.
        segment_length: T.
        rng: draws the lengths as Merity et al. 2018 do (arXiv 1708.02182, section 4.1): from a
            normal distribution of standard deviation 5 around T, or in one of twenty cases around
            T / 2; at least 5 and at most T + 15, so that attention needs bounded memory. None: all
            segments have T tokens, but for the last.
    """
    if rng is None:
        return np.append(np.arange(0, lane_length, segment_length), lane_length)
    borders = [0]
    while borders[-1] < lane_length:
        mean = segment_length if rng.random() < 0.95 else segment_length / 2
        length = min(max(5, int(rng.normal(mean, 5))), segment_length + 15)
        borders.append(min(borders[-1] + length, lane_length))
    return np.array(borders)


class StreamSteps:
    """A row of ids as optimizer steps of ordered (lanes, T) segments; see the top of this file.

    Every token is predicted exactly once an epoch. A lane's last segment may be shorter than T.
    """

    def __init__(
        self,
        token_ids: np.ndarray,
        *,
        num_lanes: int,
        segment_length: int,
        start_id: int,
        seed: int = 0,
        shuffle_lanes: bool = False,
        variable_length: bool = False,
        name: str = "the text",
    ) -> None:
        """Cut ``token_ids`` (n,) into lanes.

        Args:
            token_ids: (n,), may be memory-mapped.
            num_lanes: lanes, over all processes and micro-batches together.
            segment_length: T, in tokens.
            start_id: stands before the first token; by custom <eos>.
            seed: of the two options below.
            shuffle_lanes: which row begins with which lane is drawn.
            variable_length: lengths of segments are drawn anew for each epoch (`segment_borders`).
            name: what error messages call the text.

        Raises:
            ConfigError: an option is below 1.
            DataError: the text is empty.
        """
        if num_lanes < 1 or segment_length < 1:
            raise ConfigError(
                f"batch_size {num_lanes} and segment_length {segment_length} must be at least 1."
            )
        if len(token_ids) == 0:
            raise DataError(f"{name} is empty: there is nothing to predict.")
        self.token_ids = token_ids
        # More lanes than tokens would be padding only.
        self.num_lanes = min(num_lanes, len(token_ids))
        self.segment_length = segment_length
        self.start_id = start_id
        self.seed = seed
        rows = np.arange(self.num_lanes)
        self._first_lanes = epoch_order(self.num_lanes, seed, 0) if shuffle_lanes else rows
        self.variable_length = variable_length
        self.lane_length = -(-len(token_ids) // self.num_lanes)
        self._cut: tuple[int, np.ndarray] | None = None

    @property
    def fingerprint(self) -> str:
        """The number of tokens and a hash of them, for a message: another text has another."""
        digest = hashlib.sha256()
        for start in range(0, len(self.token_ids), BLOCK):
            digest.update(self.token_ids[start : start + BLOCK].tobytes())
        return f"{len(self.token_ids)} tokens {digest.hexdigest()[:12]}"

    def num_steps(self, epoch: int) -> int:
        """Return the number of segments of a lane."""
        return len(self._borders(epoch)) - 1

    def _borders(self, epoch: int) -> np.ndarray:
        if self._cut is None or (self._cut[0] != epoch and self.variable_length):
            rng = seeding.generator(self.seed, "segments", epoch) if self.variable_length else None
            borders = segment_borders(self.lane_length, self.segment_length, rng)
            self._cut = (epoch, borders)
        return self._cut[1]

    def micro_batches(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[Batch]:
        """Return {"input_ids", "labels"}, (b, T) int64, for each micro-batch of this process."""
        lanes = (self._first_lanes + epoch) % self.num_lanes
        start, stop = self._borders(epoch)[step : step + 2].tolist()
        shares = split_step(lanes, rank, world_size, accumulation)
        return [self._segment(share, start, stop) for share in shares]

    def _segment(self, lanes: np.ndarray, start: int, stop: int) -> Batch:
        inputs = np.full((len(lanes), stop - start), self.start_id, dtype=np.int64)
        labels = np.full((len(lanes), stop - start), IGNORED_LABEL, dtype=np.int64)
        for row, lane in enumerate(lanes):
            first = lane * self.lane_length + start
            last = min(lane * self.lane_length + stop, len(self.token_ids))
            if first < last:
                labels[row, : last - first] = self.token_ids[first:last]
                context = max(first - 1, 0)  # the token before each label
                inputs[row, context - first + 1 : last - first] = self.token_ids[context : last - 1]
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}
