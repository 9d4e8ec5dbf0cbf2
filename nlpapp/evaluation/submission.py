"""The files the GLUE server takes: one TSV for each test set, and the zip of them all.

Each is ``index<TAB>prediction`` with the label words of the official files. The server refuses a
submission with a file missing, so a test set without a model gets the commonest class of its
training set.
"""

import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nlpapp.errors import DataError

logger = logging.getLogger(__name__)

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of each entry: the same predictions give the same bytes."""


class SubmittedTask(Protocol):
    """What of a task is needed here (`nlpapp.data.glue_tasks.GlueTask` is one)."""

    @property
    def name(self) -> str:
        """Name, for messages."""

    @property
    def label_words(self) -> tuple[str, ...]:
        """The server's words for the classes; empty for scores."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Split -> official number of rows."""

    @property
    def server_files(self) -> Mapping[str, str]:
        """Test split -> file name."""

    @property
    def majority(self) -> str:
        """Prediction where there is no model."""


@dataclass(frozen=True)
class Submission:
    """A written submission."""

    path: Path
    filled: tuple[str, ...]
    """Server files that hold the commonest class only, for want of predictions."""


def prediction_words(task: SubmittedTask, predictions: np.ndarray) -> list[str]:
    """Return the server's spelling of (N,) class indices, or of scores clipped to 0..5."""
    if not task.label_words:
        return [f"{score:.3f}" for score in np.clip(predictions, 0.0, 5.0)]
    return [task.label_words[index] for index in predictions]


def write_submission(
    folder: Path,
    tasks: Mapping[str, SubmittedTask],
    predictions: Mapping[tuple[str, str], np.ndarray],
) -> Submission:
    """Write the server's files and ``submission.zip`` into ``folder``.

    Args:
        folder: is made if absent.
        tasks: name -> task, all that the server wants.
        predictions: (task name, test split) -> (N,) class indices, or scores.

    Raises:
        DataError: if predictions are not one for each row of the official test set.
    """
    for name, split in predictions:
        if name not in tasks or split not in tasks[name].server_files:
            raise DataError(f"the GLUE server takes no predictions for {name}/{split}.")
    contents: dict[str, str] = {}
    filled: list[str] = []
    for name, task in tasks.items():
        for split, file_name in task.server_files.items():
            expected = task.rows[split]
            if (name, split) not in predictions:
                filled.append(file_name)
                words = [task.majority] * expected
            else:
                words = prediction_words(task, predictions[name, split])
            if len(words) != expected:
                raise DataError(
                    f"{file_name}: found {len(words):,} predictions, the GLUE server expects "
                    f"{expected:,}, one for each row of the official test set."
                )
            rows = "".join(f"{index}\t{word}\n" for index, word in enumerate(words))
            contents[file_name] = "index\tprediction\n" + rows
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, text in contents.items():
        (folder / file_name).write_text(text, encoding="utf-8")
    path = folder / "submission.zip"
    _write_zip(path, contents)
    if filled:
        logger.warning(
            "%s: no predictions for the official test set of %s; filled with the commonest class "
            "of train.",
            *(path, ", ".join(filled)),
        )
    return Submission(path, tuple(filled))


def _write_zip(path: Path, contents: Mapping[str, str]) -> None:
    beside = path.with_suffix(".zip.part")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, date_time=ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents[name])
    os.replace(beside, path)
