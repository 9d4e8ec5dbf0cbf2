"""How large and how fast models are on this machine: PyTorch folders and exported bundles.

What is timed is what a user waits for: a list of texts in, a list of labels and probabilities (or
vectors, or the next words of a language model) out, tokenizer included. Each model lives in a
process of its own, so that load time, memory and threads are its own. All models take turns on the
same texts, so that another load on the machine slows all of them alike; medians leave out what is
left of it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from nlpapp.deployment.bundle_files import MODEL_FILES, read_manifest
from nlpapp.deployment.model_process import ModelProcess
from nlpapp.errors import CheckpointError, ConfigError, DataError

WARM_UP = 2
"""Turns of each model that are not counted."""
TURN = 10
"""Single texts that a model predicts in one turn; larger batches take turns one by one.

One more before them is not counted: it finds the processor's caches full of the other models.
"""
LEAST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that predicts, and how a process of its own can load it."""

    name: str
    kind: str
    """pytorch, or the precision of a bundle's model: fp32, fp16, int8, int8-static."""
    parameters: int | None
    """None: counted when it is loaded."""
    bytes: int
    """Size on disk of the weights, and of what they need beside them, such as the vocabulary."""
    specification: Mapping[str, Any]
    """What `deployment.timed_process` needs besides the threads."""
    command: Sequence[str] | None = None
    """Another program that answers as `deployment.timed_process` does; absent: that one."""

    def start(self, threads: int) -> ModelProcess:
        """Return a new process that has loaded it."""
        specification = dict(self.specification) | {"threads": threads}
        title = f"{self.name} ({self.kind})"
        return ModelProcess(specification, name=title, threads=threads, command=self.command)


@dataclass(frozen=True)
class Loaders:
    """Functions of modules, by which a new process loads PyTorch models; it imports them by name.

    The layers that have them are above this one.
    """

    classifier: Callable[..., Any]
    """Folder -> a sequence classifier."""
    tokenizer: Callable[..., Any]
    """Folder -> its transformers tokenizer."""
    vocabulary: Callable[..., Any]
    """Folder of a language model -> its vocabulary."""
    generate: Callable[..., Any]
    """As `models.generation.generate_ids`."""

    def named(self, task: str) -> dict[str, str]:
        """Return "module:function" of what a model of ``task`` needs."""
        own = "nlpapp.deployment.torch_predictor:load_"
        if task == "language-model":
            found = {"load_model": own + "language_model", "generate": _name(self.generate)}
            return found | {"load_tokenizer": _name(self.vocabulary)}
        loader = own + "encoder" if task == "encoder" else _name(self.classifier)
        return {"load_model": loader, "load_tokenizer": _name(self.tokenizer)}


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured of each model."""

    batch_sizes: Sequence[int] = (8, 32, 128)
    """Batches, in texts, whose throughput is measured beside the latency of one text."""
    loads: int = 3
    """How often each model is loaded, each time in a new process; medians are reported."""
    rounds: int = 200
    """Predictions of one text each, for the latency; a tenth of them for each batch size."""
    thread_counts: Sequence[int] = (1,)
    """Processor threads that each model may use; the first is that of the main table."""
    lengths: Sequence[int] = ()
    """Lengths in words of texts that are put together from the given ones, beside those as given.
    """
    most_seconds: float = 120.0
    """A measurement of all models ends after this, with at least three rounds."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out of it."""

    models: list[dict[str, Any]]
    """A row for each model: sizes, loading, and figures on the given texts at the first count."""
    grid: list[dict[str, Any]] = field(default_factory=list)
    """A row for each model, thread count and length (words; None: the texts as given)."""


def find_all(folders: Sequence[Path], **options: Any) -> list[Subject]:
    """Return what can be timed in ``folders``, named apart; for options see `find_subjects`."""
    return [
        subject
        for folder, name in zip(folders, distinct_names(folders), strict=True)
        for subject in find_subjects(folder, name=name, **options)
    ]


def find_subjects(
    folder: str | Path, *, name: str, loaders: Loaders, max_seq_length: int
) -> list[Subject]:
    """Return what can be timed in ``folder``: a PyTorch model, or the models of a bundle.

    Args:
        folder: a model folder, or a bundle of `nlpapp export`.
        name: what to call it, as in `distinct_names`.
        loaders: what a new process imports to load a PyTorch model.
        max_seq_length: tokens that a PyTorch model reads; a bundle has its own limit.

    Raises:
        CheckpointError: the folder is neither, or cannot be read.
    """
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return _bundle_subjects(folder, name)
    weights = list(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise CheckpointError(
            f"{folder} is neither a model folder (config.json, model.safetensors) nor a bundle of "
            "nlpapp export (manifest.json, model.onnx)."
        )
    task = _task(folder / "config.json")
    loaded = loaders.named(task)
    specification = {"folder": str(folder), "task": task, "max_seq_length": max_seq_length}
    return [
        Subject(
            name=name,
            kind="pytorch",
            parameters=None,
            bytes=_bytes(*weights) + _bytes(*_beside(folder)),
            specification=specification | loaded,
        )
    ]


def _task(path: Path) -> str:
    try:
        architectures = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if any("SequenceClassification" in name for name in architectures):
        return "classifier"
    # Of BERT's kin the LM heads are for masked words: what they are timed for is their vectors.
    if any(name.endswith(("LMHeadModel", "CausalLM")) for name in architectures):
        return "language-model"
    return "encoder"


def _bundle_subjects(folder: Path, name: str) -> list[Subject]:
    manifest = read_manifest(folder)
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        parameters = int(figures["parameters"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / 'metrics.json'} cannot be read: {error}.") from error
    task = manifest.get("kind", "classifier")
    return [
        Subject(
            name=name,
            kind=precision,
            parameters=parameters,
            bytes=_bytes(folder / file, *_beside(folder)),
            specification={"folder": str(folder), "precision": precision, "task": task},
        )
        for precision, file in MODEL_FILES.items()
        if file in manifest["files"] and (folder / file).is_file()
    ]


def _beside(folder: Path) -> list[Path]:
    """Return the files that a model needs beside its weights: vocabulary, labels, options."""
    return [path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".py")]


def _bytes(*files: Path) -> int:
    return sum(path.stat().st_size for path in files)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: of runs/sst2/model sst2, or the whole path where two agree."""
    parts = [[part for part in path.parts if part not in ("model", "bundle")] for path in folders]
    short = [kept[-1] if kept else str(path) for kept, path in zip(parts, folders, strict=True)]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, folders, strict=True)
    ]


def texts_of_length(texts: Sequence[str], words: int) -> list[str]:
    """Return as many texts as there are, each of ``words`` words taken from ``texts`` in order.

    Words are what stands between spaces; after the last text the first one follows.

    Raises:
        ConfigError: ``words`` is below 1.
        DataError: the texts have no words.
    """
    if words < 1:
        raise ConfigError(f"a text of {words} words cannot be made; use 1 or more.")
    stream = list(chain.from_iterable(text.split() for text in texts))
    if not stream:
        raise DataError("there are no words to make texts of.")
    starts = range(0, len(texts) * words, words)
    return [
        " ".join(stream[(start + offset) % len(stream)] for offset in range(words))
        for start in starts
    ]


def measure(
    subjects: Sequence[Subject],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    plan: Plan,
    judge: Callable[[list[dict[str, Any]]], float | None] | None = None,
) -> Figures:
    """Measure ``subjects`` in rotation.

    Args:
        subjects: from `find_subjects`.
        texts: texts of usual length; all models get the same ones, again and again if they are few.
        pairs: second texts.
        plan: what is measured.
        judge: predictions of all ``texts`` -> accuracy, or None where it has no meaning.

    Returns:
        Rows with model, kind, parameters, bytes, start_ms (from nothing to a loaded model: the
        interpreter, imports, weights), load_ms (of these the loading alone), peak_mb (largest
        resident memory in 10^6 bytes, with all batches of the given texts predicted), p50_ms,
        p95_ms and p99_ms of one text, texts_per_second_<n> for each batch size, and accuracy; and
        the grid.

    Raises:
        DataError: there are no texts.
        CheckpointError: a model cannot be loaded, or its process ends.
    """
    if not texts:
        raise DataError("there are no texts to time the models with.")
    models: list[dict[str, Any]] = []
    grid: list[dict[str, Any]] = []
    for turn, threads in enumerate(plan.thread_counts):
        with ExitStack() as stack:
            loads, processes = _load_in_turn(
                subjects, threads, plan.loads if turn == 0 else 1, stack
            )
            for words in (None, *plan.lengths):
                first, second = texts, pairs
                if words is not None:
                    first = texts_of_length(texts, words)
                    second = None if pairs is None else texts_of_length(pairs, words)
                rows = time_processes(processes, first, second, plan=plan)
                title = {"threads": threads, "words": words}
                for subject, row in zip(subjects, rows, strict=True):
                    grid.append({"model": subject.name, "kind": subject.kind} | title | row)
                if turn == 0 and words is None:
                    models = _main_rows(subjects, loads, processes, rows)
                    _judge(models, processes, texts, pairs, judge)
    return Figures(models=models, grid=grid)


def _load_in_turn(
    subjects: Sequence[Subject], threads: int, times: int, stack: ExitStack
) -> tuple[list[list[tuple[float, float]]], list[ModelProcess]]:
    """Start each subject ``times`` times in rotation; return (start, load) ms and the last ones."""
    loads: list[list[tuple[float, float]]] = [[] for _ in subjects]
    processes: list[ModelProcess] = []
    for turn in range(times):
        for subject, found in zip(subjects, loads, strict=True):
            process = subject.start(threads)
            found.append((process.start_ms, float(process.facts["load_ms"])))
            if turn == times - 1:
                processes.append(stack.enter_context(process))
            else:
                process.close()
    return loads, processes


def _main_rows(
    subjects: Sequence[Subject],
    loads: list[list[tuple[float, float]]],
    processes: Sequence[ModelProcess],
    rows: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    models = []
    for subject, found, process, row in zip(subjects, loads, processes, rows, strict=True):
        start_ms, load_ms = np.median(found, axis=0)
        counted = subject.parameters or process.facts.get("parameters")
        sizes = {"model": subject.name, "kind": subject.kind, "parameters": counted}
        sizes |= {"bytes": subject.bytes, "start_ms": float(start_ms), "load_ms": float(load_ms)}
        models.append(sizes | {"peak_mb": process.peak_bytes / 1e6} | row)
    return models


def _judge(
    models: list[dict[str, Any]],
    processes: Sequence[ModelProcess],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    judge: Callable[[list[dict[str, Any]]], float | None] | None,
) -> None:
    if judge is None:
        return
    for row, process in zip(models, processes, strict=True):
        predictions = process.predict(texts, pairs)
        accuracy = None if predictions is None else judge(predictions)
        row |= {} if accuracy is None else {"accuracy": accuracy}


def time_processes(
    processes: Sequence[ModelProcess],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    plan: Plan,
) -> list[dict[str, Any]]:
    """Return p50_ms, p95_ms, p99_ms and texts_per_second_<n> of each process, in rotation."""
    options: dict[str, Any] = {"most_seconds": plan.most_seconds}
    latency = time_in_turn(processes, texts, pairs, size=1, rounds=plan.rounds, **options)
    rows: list[dict[str, Any]] = []
    for seconds in latency:
        quantiles = np.quantile(seconds, [0.5, 0.95, 0.99]) * 1000
        rows.append({f"p{n}_ms": float(q) for n, q in zip((50, 95, 99), quantiles, strict=True)})
    for size in plan.batch_sizes:
        rounds = max(LEAST_ROUNDS, plan.rounds // 10)
        times = time_in_turn(processes, texts, pairs, size=size, rounds=rounds, **options)
        for row, seconds in zip(rows, times, strict=True):
            row[f"texts_per_second_{size}"] = float(size / np.median(seconds))
    return rows


def time_in_turn(
    processes: Sequence[ModelProcess],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    size: int,
    rounds: int,
    most_seconds: float,
) -> np.ndarray:
    """Return (models, rounds) seconds; in each turn every model gets the same batches of ``size``.

    There are fewer rounds where ``most_seconds`` are over before, but at least three.
    """
    each = min(TURN, rounds) if size == 1 else 1
    cold = 1 if size == 1 else 0  # a large batch is long enough not to notice
    turns = -(-rounds // each)
    least = -(-min(LEAST_ROUNDS, rounds) // each)
    found: list[list[list[float]]] = []
    end = time.perf_counter() + most_seconds
    for turn in tqdm(range(-WARM_UP, turns), desc=f"batches of {size}", unit="turn"):
        if turn >= least and time.perf_counter() > end:
            break
        batches = [
            _batch(texts, pairs, (max(turn, 0) * each + place) * size, size)
            for place in range(each)
        ]
        answers: dict[int, list[float]] = {}
        # The first model finds the machine idle before it: each gets that place equally often.
        for place in range(len(processes)):
            index = (place + turn) % len(processes)
            answers[index] = processes[index].time(batches[-1:] * cold + batches)[cold:]
        if turn >= 0:
            found.append([answers[index] for index in range(len(processes))])
    return np.concatenate([np.array(turn) for turn in found], axis=1)[:, :rounds]


def _batch(
    texts: Sequence[str], pairs: Sequence[str] | None, start: int, size: int
) -> dict[str, Any]:
    chosen = [(start + offset) % len(texts) for offset in range(size)]
    return {
        "texts": [texts[index] for index in chosen],
        "pairs": None if pairs is None else [pairs[index] for index in chosen],
    }


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as lines of aligned columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_shown(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
