"""GLUE (Wang et al. 2019): a task is a row of the table below, and one reader serves them all.

Three sources are read: the official folders (``CoLA/train.tsv`` ...), a local copy of the Hub's
``nyu-mll/glue`` (``cola/train-00000-of-00001.parquet`` ...), and the Hub itself.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nlpapp.data.classification import Examples, examples_from_table
from nlpapp.data.table_files import open_parquet, open_table
from nlpapp.errors import ConfigError, DataError, nearest

logger = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """What there is to know about one task."""

    name: str
    """As the Hub calls it."""
    folders: tuple[str, ...]
    """Names of its folder in the official layout; upper and lower case are not told apart."""
    columns: tuple[str, ...]
    """Text column, or the two of a pair, in the official files."""
    hub_columns: tuple[str, ...] = ()
    """The same on the Hub; empty where they are the official ones."""
    label_column: str = "label"
    labels: tuple[str, ...] = ("not_entailment", "entailment")
    """Class names in the order of the Hub's class indices; empty: a score."""
    label_words: tuple[str, ...] = ("0", "1")
    """The classes as the official files and the server spell them, in the same order."""
    metrics: tuple[str, ...] = ("accuracy",)
    """The first is the one that is named alone; GLUE's score of the task is their mean."""
    rows: Mapping[str, int]
    """Split -> rows of the official set; ``<split>.tsv`` is its file."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> file name, where it is another."""
    headerless: tuple[str, ...] = ()
    """Splits whose files have no header line; their columns are in `HEADERLESS_COLUMNS`."""
    skips_broken_rows: bool = False
    """Whether rows with a wrong number of columns are left out, with a warning."""
    server_files: Mapping[str, str]
    """Test split -> file name in a submission."""
    majority: str = ""
    """The commonest class of train, or the mean score: a submission's answer without a model."""

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """The dev splits; the first chooses the best model."""
        return tuple(split for split in self.rows if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits the server scores."""
        return tuple(self.server_files)

    @property
    def regression(self) -> bool:
        """Whether the labels are scores."""
        return not self.labels


HEADERLESS_COLUMNS = ("source", "label", "original_label", "sentence")
"""CoLA's train and dev files."""


def _rows(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


_ROWS = (
    GlueTask(
        name="cola",
        folders=("CoLA",),
        columns=("sentence",),
        labels=("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
        rows=_rows(8551, 1043, 1063),
        headerless=("train", "dev"),
        server_files={"test": "CoLA.tsv"},
        majority="1",
    ),
    GlueTask(
        name="sst2",
        folders=("SST-2",),
        columns=("sentence",),
        labels=("negative", "positive"),
        rows=_rows(67349, 872, 1821),
        server_files={"test": "SST-2.tsv"},
        majority="1",
    ),
    GlueTask(
        name="mrpc",
        folders=("MRPC",),
        columns=("#1 String", "#2 String"),
        hub_columns=("sentence1", "sentence2"),
        label_column="Quality",
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        rows=_rows(3668, 408, 1725),
        server_files={"test": "MRPC.tsv"},
        majority="1",
    ),
    GlueTask(
        name="stsb",
        folders=("STS-B",),
        columns=("sentence1", "sentence2"),
        label_column="score",
        labels=(),
        label_words=(),
        metrics=("pearson", "spearmanr"),
        rows=_rows(5749, 1500, 1379),
        server_files={"test": "STS-B.tsv"},
        majority="2.701",
    ),
    GlueTask(
        name="qqp",
        folders=("QQP",),
        columns=("question1", "question2"),
        label_column="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        rows=_rows(363846, 40430, 390965),
        skips_broken_rows=True,
        server_files={"test": "QQP.tsv"},
        majority="0",
    ),
    GlueTask(
        name="mnli",
        folders=("MNLI",),
        columns=("sentence1", "sentence2"),
        hub_columns=("premise", "hypothesis"),
        label_column="gold_label",
        labels=("entailment", "neutral", "contradiction"),
        label_words=("entailment", "neutral", "contradiction"),
        rows={
            "train": 392702,
            "dev_matched": 9815,
            "dev_mismatched": 9832,
            "test_matched": 9796,
            "test_mismatched": 9847,
        },
        server_files={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
        majority="contradiction",
    ),
    GlueTask(
        name="qnli",
        folders=("QNLI",),
        columns=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        label_words=("entailment", "not_entailment"),
        rows=_rows(104743, 5463, 5463),
        server_files={"test": "QNLI.tsv"},
        majority="entailment",
    ),
    GlueTask(
        name="rte",
        folders=("RTE",),
        columns=("sentence1", "sentence2"),
        labels=("entailment", "not_entailment"),
        label_words=("entailment", "not_entailment"),
        rows=_rows(2490, 277, 3000),
        server_files={"test": "RTE.tsv"},
        majority="entailment",
    ),
    GlueTask(
        name="wnli",
        folders=("WNLI",),
        columns=("sentence1", "sentence2"),
        rows=_rows(635, 71, 146),
        server_files={"test": "WNLI.tsv"},
        majority="0",
    ),
    GlueTask(
        name="ax",
        folders=("diagnostic", "AX"),
        columns=("sentence1", "sentence2"),
        hub_columns=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        label_words=("entailment", "neutral", "contradiction"),
        metrics=("matthews_correlation",),
        rows={"test": 1104},
        files={"test": "diagnostic.tsv"},
        server_files={"test": "AX.tsv"},
        majority="contradiction",
    ),
)
TASKS: dict[str, GlueTask] = {task.name: task for task in _ROWS}
"""Name -> task. ``ax``, the diagnostic set, has no training set: MNLI's model answers it."""


def get_task(name: str) -> GlueTask:
    """Return the task called ``name``; case and hyphens do not matter.

    Raises:
        ConfigError: if there is none; names the nearest.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in TASKS:
        hint = nearest(plain, TASKS)
        raise ConfigError(f"there is no task '{name}'; there are {', '.join(TASKS)}.{hint}")
    return TASKS[plain]


def has_split(task: GlueTask, folder: str | Path, split: str) -> bool:
    """Return whether ``folder`` holds the files of ``split``; the Hub holds them all."""
    if _is_hub(folder):
        return True
    tsv, parquet = _find_files(task, Path(folder), split)
    return tsv is not None or bool(parquet)


def read_task(task: GlueTask, folder: str | Path, split: str) -> Examples:
    """Read one split (``train``, ``dev``, ``test``; MNLI: ``dev_matched`` ...) of a task.

    Args:
        task: a row of the table.
        folder: a folder with the official layout, one with parquet files as on the Hub, or
            ``nyu-mll/glue`` for the Hub itself.
        split: its name; test sets have no labels.

    Raises:
        ConfigError: if the task has no such split.
        DataError: if the files are absent or not sound, or the Hub cannot be reached.
    """
    if split not in task.rows:
        there = ", ".join(task.rows)
        raise ConfigError(f"task {task.name} has no split '{split}'; there are {there}.")
    if _is_hub(folder):
        examples = _read_hub(task, split)
    else:
        tsv, parquet = _find_files(task, Path(folder), split)
        if tsv is not None:
            examples = _read_tsv(task, tsv, split)
        elif parquet:
            tables = [open_parquet(path).read().to_pydict() for path in parquet]
            columns = {name: [v for table in tables for v in table[name]] for name in tables[0]}
            examples = _from_columns(task, columns, source=str(parquet[0]))
        else:
            raise DataError(not_found(task, Path(folder), split))
    if len(examples) != task.rows[split]:
        logger.warning(
            "%s holds %s rows, the official %s set of %s %s: figures on it are not comparable with "
            "published ones.",
            examples.source,
            f"{len(examples):,}",
            split,
            task.name,
            f"{task.rows[split]:,}",
        )
    return examples


def _is_hub(folder: str | Path) -> bool:
    return str(folder) == HUB_NAME and not Path(folder).exists()


def _find_files(task: GlueTask, folder: Path, split: str) -> tuple[Path | None, list[Path]]:
    """Return the split's official file, if there, and its parquet files."""
    wanted = {name.lower() for name in (*task.folders, task.name)}
    file_name = task.files.get(split, f"{split}.tsv")
    hub_split = split.replace("dev", "validation")
    tsv: Path | None = None
    parquet: list[Path] = []
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.name.lower() in wanted:
                tsv = entry / file_name if (entry / file_name).exists() else tsv
                parquet += sorted(entry.glob(f"{hub_split}-*.parquet"))
                parquet += sorted(entry.glob(f"{hub_split}.parquet"))
    return tsv, parquet


def not_found(task: GlueTask, folder: Path, split: str) -> str:
    """Return what to say where ``folder`` lacks ``split`` of ``task``."""
    if not folder.is_dir():
        return (
            f"{folder}: there is no such folder. Give the folder that holds CoLA/, SST-2/ ... "
            f"(--data_dir), or {HUB_NAME} to read from the Hugging Face Hub."
        )
    file_name = task.files.get(split, f"{split}.tsv")
    if (folder / file_name).is_file():
        return (
            f"{folder} holds {file_name} itself; give the folder above it, which holds "
            f"{task.folders[0]}/ (--data_dir {folder.parent})."
        )
    wanted = Path(task.folders[0]) / file_name
    there = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) or "none"
    parquet = f"{task.name}/{split.replace('dev', 'validation')}-*.parquet"
    text = f"{folder}: there is no {wanted}, nor {parquet}; folders there: {there}."
    names = {name.lower() for task in TASKS.values() for name in (*task.folders, task.name)}
    if not names & {entry.name.lower() for entry in folder.iterdir()}:
        text += (
            " It does not look like GLUE: expected folders such as CoLA/ and SST-2/, or cola/ and "
            "sst2/."
        )
    return text


def _read_tsv(task: GlueTask, path: Path, split: str) -> Examples:
    broken: list[int] | None = [] if task.skips_broken_rows else None
    columns = HEADERLESS_COLUMNS if split in task.headerless else None
    examples = examples_from_table(
        open_table(path, columns=columns, broken=broken),
        text_column=task.columns[0],
        text_pair_column=task.columns[1] if len(task.columns) == 2 else None,
        label_column=None if split in task.test_splits else task.label_column,
        label_names=task.labels,
        label_words=task.label_words,
    )
    if broken:
        first = ", ".join(str(line) for line in broken[:5])
        logger.warning(
            "%s: left out %d rows with a wrong number of columns (lines %s%s); kept %d.",
            path,
            len(broken),
            first,
            " ..." if len(broken) > 5 else "",
            len(examples),
        )
    return examples


def _read_hub(task: GlueTask, split: str) -> Examples:
    """Read one split from the Hugging Face Hub, through its cache."""
    import datasets

    try:
        loaded = datasets.load_dataset(
            HUB_NAME, task.name, split=split.replace("dev", "validation")
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{HUB_NAME}: cannot read {task.name} from the Hugging Face Hub ({reason}). With no "
            "network, give a local folder: the official files, or a copy of the Hub's parquet."
        ) from error
    columns = {name: list(loaded[name]) for name in loaded.column_names}
    return _from_columns(task, columns, source=f"{HUB_NAME}/{task.name}/{split}")


def _from_columns(task: GlueTask, columns: Mapping[str, Iterable], *, source: str) -> Examples:
    """Make examples of the Hub's columns; its labels are class indices, -1 where hidden.

    Raises:
        DataError: a column is absent, a value is null, or a label is none of the task's.
    """
    names = task.hub_columns or task.columns
    for name in names:
        if name not in columns:
            there = ", ".join(columns)
            raise DataError(f"{source}: there is no column '{name}'; there are {there}.")
    texts = [list(columns[name]) for name in names]
    values = list(columns.get("label", []))
    for name, column in zip((*names, "label"), (*texts, values), strict=True):
        if None in column:
            raise DataError(
                f"{source}, row {column.index(None) + 1}: '{name}' is null; the copy is damaged. "
                f"Fetch {HUB_NAME} again."
            )
    labels: np.ndarray = np.array(values, dtype=np.float32 if task.regression else np.int64)
    if not task.regression and len(labels) and labels.max() >= len(task.labels):
        raise DataError(
            f"{source}, row {labels.argmax() + 1}: label {labels.max()}; task {task.name} has "
            f"the classes 0 to {len(task.labels) - 1}. The copy is damaged: fetch {HUB_NAME} again."
        )
    return Examples(
        texts_a=texts[0],
        texts_b=texts[1] if len(names) == 2 else None,
        labels=labels if len(labels) and labels.min() >= 0 else None,
        label_names=task.labels,
        source=source,
    )
