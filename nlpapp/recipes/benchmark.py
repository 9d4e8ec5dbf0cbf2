"""Time classifiers and exported bundles on this machine, in rotation, on the same texts."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp.data.classification import Examples, read_examples
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.deployment.benchmark import (
    Subject,
    distinct_names,
    find_subjects,
    format_table,
    time_predictors,
)
from nlpapp.deployment.export import export_classifier
from nlpapp.errors import ConfigError
from nlpapp.evaluation.plots import plot_trade_off
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bert import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.classifiers import align_labels, build_classifier
from nlpapp.models.pretrained import load_classifier, save_model_folder
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time classifiers and exported bundles on this machine, in rotation, on the same texts."""

    output_dir: str
    """Folder for benchmark.json, the plot and the report."""
    models: list[str] = field(default_factory=list)
    """Model folders and bundles; none: a random BERT of size and a random BiLSTM of student, as
    PyTorch models and as bundles, to compare sizes before anything is trained."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt of the random models."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT."""
    student: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of the random BiLSTM."""
    file: str | None = None
    """Texts to time with: TSV, CSV or JSONL with named columns; if labelled, also for accuracy."""
    task: str | None = None
    """GLUE task whose first dev set is used instead of a file; needs data_dir."""
    data_dir: str | None = None
    """Folder with GLUE."""
    text_column: str | None = None
    """Column of the text in file; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label, if it is there."""
    max_seq_length: int = 128
    """Tokens that PyTorch models and new bundles read of a text; given bundles have their limit."""
    batch_sizes: list[int] = field(default_factory=lambda: [8, 32])
    """Batches, in texts, whose throughput is measured beside the latency of one text."""
    rounds: int = 200
    """Timed predictions of one text for each model; a tenth of them for each batch size."""
    threads: int = 1
    """Processor threads that each model may use."""
    seed: int = 42
    """Seed of random weights."""

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", *(["batch_sizes"] if self.batch_sizes else [])):
            value = getattr(self, name)
            if min(value if isinstance(value, list) else [value]) < 1:
                raise ConfigError(f"{name} is {value}; use 1 or more.")


def run(config: Config) -> dict[str, float]:
    """Time every model, print the table, and leave it as JSON, plot and report."""
    run = RunFolder.open(config.output_dir, config=config, command="benchmark", seed=config.seed)
    if run.finished is not None:
        return run.finished
    examples = _read(config)
    folders = [Path(model) for model in config.models] or _build_random(config, run)
    subjects = [
        subject
        for folder, name in zip(folders, distinct_names(folders), strict=True)
        for subject in find_subjects(
            folder,
            name=name,
            load_torch=lambda path: (load_classifier(path), load_tokenizer(str(path))),
            threads=config.threads,
            max_seq_length=config.max_seq_length,
        )
    ]
    texts = [index for index, text in enumerate(examples.texts_a) if text.strip()]
    scored = examples.labels is not None and bool(config.models)
    accuracies = [_accuracy(subject, examples, texts) if scored else None for subject in subjects]
    rows = time_predictors(
        subjects,
        [examples.texts_a[index] for index in texts],
        [examples.texts_b[index] for index in texts] if examples.texts_b is not None else None,
        batch_sizes=config.batch_sizes,
        rounds=config.rounds,
        threads=config.threads,
    )
    for row, accuracy in zip(rows, accuracies, strict=True):
        row |= {"accuracy": accuracy} if accuracy is not None else {}
    return _leave(run, rows)


def _read(config: Config) -> Examples:
    if (config.file is None) == (config.task is None):
        raise ConfigError("give either --file, or --task with --data_dir: the texts to time with.")
    if config.file is not None:
        return read_examples(
            config.file,
            text_column=config.text_column,
            text_pair_column=config.text_pair_column,
            label_column=config.label_column,
        )
    task = get_task(str(config.task))
    if config.data_dir is None:
        raise ConfigError(f"--task {task.name} needs --data_dir, the folder that holds GLUE.")
    return read_task(task, config.data_dir, (*task.dev_splits, "test")[0])


def _build_random(config: Config, run: RunFolder) -> list[Path]:
    """Save a random BERT and a random BiLSTM, export both, and return all four folders."""
    if config.tokenizer is None:
        raise ConfigError(
            "give --models, or --tokenizer for random models of --size and --student."
        )
    tokenizer = load_tokenizer(config.tokenizer)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    names = ("LABEL_0", "LABEL_1")
    set_seed(config.seed, "weights")
    models = {
        "bert": build_classifier(None, label_names=names, size=config.size, **vocabulary),
        "bilstm": build_bilstm(config.student, label_names=names, **vocabulary),
    }
    folders = []
    for name, model in models.items():
        folders += [run.path / f"random-{name}", run.path / f"random-{name}-bundle"]
        save_model_folder(model, folders[-2], tokenizer=tokenizer)
        export_classifier(model, tokenizer, folders[-1], max_seq_length=config.max_seq_length)
    return folders


def _accuracy(subject: Subject, examples: Examples, texts: list[int]) -> float | None:
    predict = subject.load()
    correct = 0
    for start in range(0, len(texts), 32):
        part = texts[start : start + 32]
        pairs = None if examples.texts_b is None else [examples.texts_b[index] for index in part]
        found = predict([examples.texts_a[index] for index in part], pairs)
        if "label" not in found[0] or not examples.label_names:
            return None
        own = list(found[0]["probabilities"])
        outputs = align_labels(own, examples.label_names)
        for index, entry in zip(part, found, strict=True):
            correct += own.index(entry["label"]) == outputs[examples.known_labels[index]]
    return correct / len(texts)


def _leave(run: RunFolder, rows: list[dict[str, Any]]) -> dict[str, float]:
    print(format_table(rows))
    (run.path / "benchmark.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    shown = [row | {"name": f"{row['model']} {row['kind']}"} for row in rows]
    y = "accuracy" if any(row.get("accuracy") is not None for row in rows) else "bytes"
    plot_trade_off(shown, x="p50_ms", y=y, label="name", output=run.plots / "trade-off.png")
    metrics = {
        f"{row['model']}_{row['kind']}_{name}": float(value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics
