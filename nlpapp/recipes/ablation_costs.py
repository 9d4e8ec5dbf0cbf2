"""What the models of an ablation cost: parameters, bytes, latency and throughput."""

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlpapp.data.classification import Examples
from nlpapp.deployment.benchmark import LEAST_ROUNDS, Loaders, Subject, find_subjects, time_in_turn
from nlpapp.deployment.export import SUPPORTED, export_classifier
from nlpapp.models.classifiers import local_folder
from nlpapp.models.generation import generate_ids
from nlpapp.models.pretrained import load_classifier, read_config
from nlpapp.recipes.ablation_plan import PlannedVariant
from nlpapp.recipes.export_data import labelled_dev_set
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.text.wordpiece import load_tokenizer

if TYPE_CHECKING:
    from nlpapp.recipes.ablation import Config

BATCH = 32
"""Texts in the larger of the two batches that are timed."""
MOST_SECONDS = 120.0
"""Each of the two measurements ends after this, with at least three rounds."""
PARITY_BATCHES = 20
"""Random batches on which an exported model must agree with its PyTorch model."""


def measure_costs(
    config: "Config", examples: Examples, metrics: Sequence[str], plan: Sequence[PlannedVariant]
) -> list[dict[str, Any]]:
    """Return a row for the teachers and each variant: as PyTorch model, fp32 and int8 bundle.

    Every model that can be exported is, and its bundle is scored on ``examples``. Models of the
    same shape cost the same, whatever they have learned: one of them is timed. All models take
    turns on the texts of ``examples``, each in a process of its own.

    Args:
        config: of the ablation.
        examples: the dev set.
        metrics: names; of the first int8 rows have their own figure, the mean over the seeds.
        plan: the variants, whose runs are finished.

    Returns:
        Rows with "model", "kind", "parameters", "bytes", and of batches of 1 and 32 texts the
        latency ("p50_ms", "batch_32_p50_ms", ...) with the number of times it was taken
        ("rounds", "batch_32_rounds"), and "texts_per_second_32".
    """
    models = {
        "teacher" if order == 1 else f"teacher {order}": [local_folder(name)]
        for order, name in enumerate(config.teachers, start=1)
    }
    models |= {one.name: [folder / "model" for folder in one.folders] for one in plan}
    shapes = {
        name: (folders[0] / "config.json").read_text(encoding="utf-8")
        for name, folders in models.items()
    }
    timed: dict[str, str] = {}
    for name, shape in shapes.items():
        timed.setdefault(shape, name)
    subjects: list[Subject] = []
    int8: dict[str, dict[str, float]] = {}
    for order, (name, folders) in enumerate(models.items()):
        bundles = Path(config.output_dir, "bundles", str(order))
        # Where the options name a tokenizer, the folder of a teacher may have none.
        named = config.tokenizer if order < len(config.teachers) else None
        found = [
            _export(folder, bundles / str(seed), named or str(folder), examples, metrics, config)
            for seed, folder in enumerate(folders)
        ]
        scores = [one[f"dev_int8_{metrics[0]}"] for one in found if one]
        int8[name] = {metrics[0]: statistics.mean(scores)} if scores else {}
        if name == timed[shapes[name]]:
            complete = [] if named else [folders[0]]
            complete += [bundles / "0"] if scores else []
            for folder in complete:
                subjects += _subjects(name, folder, config)
    texts = examples.rows_with_text
    first = [examples.texts_a[index] for index in texts]
    seconds = examples.texts_b
    second = None if seconds is None else [seconds[index] for index in texts]
    rows = _time(subjects, first, second, rounds=config.rounds, threads=config.threads)
    return [
        row | {"model": name} | (int8[name] if row["kind"] == "int8" else {})
        for name, shape in shapes.items()
        for row in rows
        if row["model"] == timed[shape]
    ]


def _export(
    folder: Path,
    bundle: Path,
    tokenizer: str,
    examples: Examples,
    metrics: Sequence[str],
    config: "Config",
) -> dict[str, float]:
    """Return the figures of the exported model; none where its type cannot be exported."""
    if read_config(folder).model_type not in SUPPORTED:
        return {}
    model = load_classifier(folder)
    return export_classifier(
        model,
        load_tokenizer(tokenizer),
        bundle,
        max_seq_length=config.max_seq_length,
        seed=config.seed,
        batches=PARITY_BATCHES,
        # What 8 bits cost is to be seen, so no loss is too large.
        dev=labelled_dev_set(model, examples, metrics, seed=config.seed, max_metric_drop=math.inf),
    )


def _subjects(name: str, folder: Path, config: "Config") -> list[Subject]:
    loaders = Loaders(load_classifier, load_tokenizer, load_vocabulary, generate_ids)
    return find_subjects(folder, name=name, loaders=loaders, max_seq_length=config.max_seq_length)


def _time(
    subjects: Sequence[Subject],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    rounds: int,
    threads: int,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        processes = [stack.enter_context(subject.start(threads)) for subject in subjects]
        for subject, process in zip(subjects, processes, strict=True):
            counted = subject.parameters or process.facts.get("parameters")
            row = {"model": subject.name, "kind": subject.kind, "parameters": counted}
            rows.append(row | {"bytes": subject.bytes})
        for size, title in ((1, ""), (BATCH, f"batch_{BATCH}_")):
            turns = rounds if size == 1 else max(LEAST_ROUNDS, rounds // 10)
            options: dict[str, Any] = {"size": size, "rounds": turns}
            times = time_in_turn(processes, texts, pairs, most_seconds=MOST_SECONDS, **options)
            for row, seconds in zip(rows, times, strict=True):
                p50, p95 = np.quantile(seconds, [0.5, 0.95])
                row |= {f"{title}p50_ms": float(p50) * 1000, f"{title}p95_ms": float(p95) * 1000}
                row[f"{title}rounds"] = len(seconds)
                if size == BATCH:
                    row[f"texts_per_second_{BATCH}"] = float(size / p50)
    return rows
