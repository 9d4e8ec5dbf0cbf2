"""A text as one long row of ids, read in order: what language models train on and are scored on.

The row of n tokens is cut into lanes, stretches that lie side by side in a batch; step s holds
tokens s*T ... (s+1)*T - 1 of every lane. So lane i of a step goes on where lane i of the step
before ended, and a memory kept for it stays valid. Processes and micro-batches share out the lanes,
not the time.

Every token is predicted from the one before it, the first from ``start_id``; a lane's first token
is predicted from the last of the lane before it, so that cutting loses no prediction.

Legend: n = tokens, T = segment length, L = tokens of a lane.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from nlpapp.data.sampling import Batch, split_step
from nlpapp.data.table_files import read_lines
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.vocabulary import Vocabulary

IGNORED_LABEL = -100


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned integer type that holds every id below ``vocab_size``."""
    return np.min_scalar_type(vocab_size - 1)


def write_token_ids(path: Path, lines: Iterable[list[int]], vocab_size: int) -> np.ndarray:
    """Write the ids of ``lines``, one after the other, to an .npy file; return it memory-mapped.

    Needs the memory of a few lines only. The file appears whole or not at all, so several processes
    may write the same one at the same time.

    Args:
        path: where the .npy file goes; folders are made.
        lines: ids of each line, <eos> included.
        vocab_size: V; decides the integer type.

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
                raise DataError(f"there is no token to write to {path}: the text is empty.")
            # The header holds the number of tokens, which is known only now.
            with open(whole, "wb") as file, open(body, "rb") as source:
                header = {"descr": dtype.str, "fortran_order": False, "shape": (num_tokens,)}
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(source, file)
            os.replace(whole, path)
    except OSError as error:
        raise DataError(f"could not write the ids of the text to {path}: {error}.") from error
    return np.load(path, mmap_mode="r", allow_pickle=False)


def encode_file(text_file: str | Path, vocabulary: Vocabulary, cache: Path) -> np.ndarray:
    """Return the ids of a text file, memory-mapped from the .npy file ``cache``, which is written.

    Raises:
        DataError: the file is absent, empty, not UTF-8, or has a word that the vocabulary lacks.
    """
    lines = (line for _, line in read_lines(Path(text_file)))
    encoded = vocabulary.encode_lines(lines, source=str(text_file))
    ids = write_token_ids(cache, encoded, len(vocabulary))
    if (ids == vocabulary.end_id).all():
        raise DataError(f"{text_file} has only empty lines: there is nothing to learn or to score.")
    return ids


class StreamSteps:
    """A row of ids as optimizer steps of ordered (lanes, T) segments; see the top of this file.

    For training the end of the row that does not fill all lanes equally is left out
    (``num_trimmed`` tokens, fewer than lanes). With ``keep_all``, for evaluation, nothing is: the
    last lanes are padded with label -100. A lane's last segment may be shorter than T.
    """

    def __init__(
        self,
        token_ids: np.ndarray,
        *,
        num_lanes: int,
        segment_length: int,
        start_id: int,
        keep_all: bool = False,
        name: str = "the text",
    ) -> None:
        """Cut ``token_ids`` (n,) into lanes.

        Args:
            token_ids: (n,), may be memory-mapped.
            num_lanes: lanes, over all processes and micro-batches together.
            segment_length: T, in tokens.
            start_id: stands before the first token; by custom <eos>.
            keep_all: predict every token, with padding (evaluation).
            name: what error messages call the text.

        Raises:
            ConfigError: the text is shorter than one batch of segments, or an option is below 1.
            DataError: the text is empty.
        """
        if num_lanes < 1 or segment_length < 1:
            raise ConfigError(
                f"batch_size {num_lanes} and segment_length {segment_length} must be at least 1."
            )
        if len(token_ids) == 0:
            raise DataError(f"{name} is empty: there is nothing to predict.")
        if not keep_all and len(token_ids) < num_lanes * segment_length:
            raise ConfigError(
                f"{name} has {len(token_ids)} tokens, fewer than one batch of {num_lanes} lanes x "
                f"{segment_length} tokens. Lower batch_size or segment_length, or use more text."
            )
        self.token_ids = token_ids
        # More lanes than tokens would be padding only.
        self.num_lanes = min(num_lanes, len(token_ids))
        self.segment_length = segment_length
        self.start_id = start_id
        self.lane_length = (
            -(-len(token_ids) // self.num_lanes) if keep_all else len(token_ids) // num_lanes
        )
        self.num_predicted = min(len(token_ids), self.lane_length * self.num_lanes)
        self.num_trimmed = len(token_ids) - self.num_predicted

    def num_steps(self, epoch: int) -> int:
        """Return the number of segments of a lane."""
        return -(-self.lane_length // self.segment_length)

    def micro_batches(
        self, epoch: int, step: int, *, rank: int, world_size: int, accumulation: int
    ) -> list[Batch]:
        """Return {"input_ids", "labels"}, (b, T) int64, for each micro-batch of this process."""
        shares = split_step(np.arange(self.num_lanes), rank, world_size, accumulation)
        return [self._segment(lanes, step) for lanes in shares]

    def _segment(self, lanes: np.ndarray, step: int) -> Batch:
        start = step * self.segment_length
        stop = min(start + self.segment_length, self.lane_length)
        inputs = np.full((len(lanes), stop - start), self.start_id, dtype=np.int64)
        labels = np.full((len(lanes), stop - start), IGNORED_LABEL, dtype=np.int64)
        for row, lane in enumerate(lanes):
            first = lane * self.lane_length + start
            last = min(lane * self.lane_length + stop, self.num_predicted)
            if first < last:
                labels[row, : last - first] = self.token_ids[first:last]
                context = max(first - 1, 0)  # the token before each label
                inputs[row, context - first + 1 : last - first] = self.token_ids[context : last - 1]
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}
