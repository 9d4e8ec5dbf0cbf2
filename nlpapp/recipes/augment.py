"""Make a transfer set for distillation from labelled or plain text, or show what it would hold."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from nlpapp.data.augmentation import AugmentationConfig, AugmentationCounts, AugmentedPart, augment
from nlpapp.data.classification import Examples, read_chunks
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.disk import disk_errors, written_whole
from nlpapp.errors import ConfigError
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make new texts from the texts of a set, for a teacher to label: distill --unlabeled_file."""

    output_dir: str
    """Folder for transfer.txt and its statistics."""
    file: str | None = None
    """TSV, CSV, JSONL or parquet file with the texts; labels are not read."""
    task: str | None = None
    """GLUE task instead, its training set: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    text_column: str | None = None
    """Column of the text; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    header: bool = True
    """Whether the first line of TSV or CSV names the columns; without, a column has a number, from
    1 on, and a file of plain text is one column."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """The rules."""
    mask_token: str = "[MASK]"
    """What stands for a masked word: the mask token of the teacher's tokenizer."""
    seed: int = 42
    """Seed of all that is drawn."""
    workers: int | None = None
    """Processes; None: one for each core. The texts do not depend on it."""
    preview: int = 0
    """Print the new texts of this many rows, and write nothing."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.file is None):
            raise ConfigError("give either --task with --data_dir, or --file.")
        if (self.task is None) != (self.data_dir is None):
            raise ConfigError("--task and --data_dir go together, and without --file.")
        if self.task is not None and (self.text_column or self.text_pair_column):
            raise ConfigError("--task knows its columns; leave text_column out.")
        if self.task is not None and not self.header:
            raise ConfigError("--task knows its files; leave header out.")
        if self.augmentation.n_iter == 0:
            raise ConfigError("augmentation.n_iter is 0, which makes no text; use 1 or more.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be at least 1, or left out.")
        if self.preview < 0:
            raise ConfigError(f"preview {self.preview}: expected 0 (none) or more.")


def run(config: Config) -> dict[str, float]:
    """Write the new texts and return the statistics of the rules."""
    if config.preview:
        return _preview(config, _read(config))
    run = RunFolder.open(config.output_dir, config=config, command="augment", seed=config.seed)
    if run.finished is not None:
        return run.finished
    examples = _read(config)
    counts = AugmentationCounts()
    path = run.path / "transfer.txt"
    with disk_errors(run.path, "Nothing is kept"), written_whole(path) as file:
        for part in _parts(config, examples):
            # A word holds no white space, so that neither blanks nor tabs need a mark.
            file.writelines("\t".join(sides).encode() + b"\n" for sides in part.texts)
            counts += part.counts
    logger.info("%s: %s", path, counts)
    metrics = {"rows": float(len(examples))} | {k: float(v) for k, v in vars(counts).items()}
    metrics |= counts.shares() | {"seconds": run.seconds}
    run.finish(metrics)
    return metrics


def _read(config: Config) -> Examples:
    if config.task is not None:
        return read_task(get_task(config.task), str(config.data_dir), "train")
    (whole,) = read_chunks(
        str(config.file),
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        header=config.header,
        chunk_rows=sys.maxsize,
    )
    return whole


def _parts(config: Config, examples: Examples) -> Iterator[AugmentedPart]:
    return augment(
        *(examples.texts_a, examples.texts_b, config.augmentation),
        seed=config.seed,
        mask_token=config.mask_token,
        workers=config.workers,
    )


def _preview(config: Config, examples: Examples) -> dict[str, float]:
    shown = None
    for part in _parts(config, examples):
        for sides, row in zip(part.texts, part.rows, strict=True):
            if row >= config.preview:
                return {}
            if row != shown:
                original = [examples.texts_a[row]]
                original += [examples.texts_b[row]] if examples.texts_b is not None else []
                print(f"\n=== row {row + 1}: {' | '.join(original)}")
                shown = row
            print(f"  {' | '.join(sides)}")
    return {}
