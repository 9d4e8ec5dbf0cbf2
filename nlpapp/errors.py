"""Errors for the user: each names what was found, what was expected, and the way out."""

import difflib
from collections.abc import Iterable


class NlpappError(Exception):
    """Anything nlpapp refuses to do; the command line prints its text without a traceback."""

    exit_code = 1


class ConfigError(NlpappError):
    """An option, or a combination of options, that cannot be run."""

    exit_code = 2


class DataError(NlpappError):
    """An input file, row, label or shard that cannot be used."""


class CheckpointError(NlpappError):
    """A checkpoint or model folder that is damaged, incomplete, or belongs to something else."""


class TrainingError(NlpappError):
    """Training that cannot go on, such as a loss that is not finite."""


class Interrupted(NlpappError):
    """A run stopped by a signal after saving its state; exits with 128 + the signal's number."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the candidate closest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
