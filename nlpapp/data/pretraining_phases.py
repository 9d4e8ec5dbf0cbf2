"""Several data sets from one reading of the text, such as BERT's 128 and then 512 tokens."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpapp.data.manifest import UNFINISHED
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of several data sets made of the same text, such as 128 and then 512 tokens."""

    name: str
    """Folder of the data set, in output_dir."""
    max_seq_length: int
    """Longest instance in tokens."""
    max_predictions_per_seq: int | None = None
    """Most tokens to predict in one instance; None: what max_seq_length tokens need."""
    dupe_factor: int | None = None
    """Passes over the corpus; None: as for the whole run."""
    short_seq_prob: float | None = None
    """Share of instances that aim at a random shorter length; None: as for the whole run."""


def data_sets(
    options: PretrainingOptions, phases: Sequence[Phase] | None
) -> list[tuple[str, PretrainingOptions]]:
    """Return the data sets to make: the folder of each, "" for the only one, and its options.

    Raises:
        ConfigError: two phases have one name, or a name is no name of a folder.
    """
    names = [phase.name for phase in phases or ()]
    plain = all(name not in ("", "..", UNFINISHED) and Path(name).name == name for name in names)
    if len(set(names)) < len(names) or not plain:
        raise ConfigError(
            f"phases are named {names}: expected different names of folders, and not {UNFINISHED}."
        )
    fields = {field.name for field in dataclasses.fields(PretrainingOptions)}
    settings = {name: value for name, value in vars(options).items() if name in fields}
    if not phases:
        return [("", PretrainingOptions(**settings))]
    found = []
    for phase in phases:
        own = {name: value for name, value in vars(phase).items() if value is not None}
        own.pop("name")
        # Computed anew from the length of the phase, if not given for it.
        own["max_predictions_per_seq"] = phase.max_predictions_per_seq
        found.append((phase.name, PretrainingOptions(**settings | own)))
    return found
