"""Time classifiers and exported bundles on this machine, in rotation, on the same texts."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp.data.classification import Examples, read_examples
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.deployment import benchmark, machine
from nlpapp.deployment.benchmark import Figures, Loaders, Plan, format_table
from nlpapp.deployment.export import export_classifier
from nlpapp.errors import ConfigError
from nlpapp.evaluation.pareto import plot_pareto, usual_trades, write_pareto_page
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.classifiers import align_labels, build_classifier, local_folder
from nlpapp.models.generation import generate_ids
from nlpapp.models.pretrained import load_classifier, save_model_folder
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time classifiers and exported bundles on this machine, in rotation, on the same texts."""

    output_dir: str
    """Folder for benchmark.json, grid.json, pareto.html, the plot and the report."""
    models: list[str] = field(default_factory=list)
    """Model folders, Hub names and bundles, of any kind (a language model continues each text);
    none: a random BERT of size and a BiLSTM of student, as PyTorch models and as bundles."""
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
    batch_sizes: list[int] = field(default_factory=lambda: [8, 32, 128])
    """Batches, in texts, whose throughput is measured beside the latency of one text."""
    loads: int = 3
    """How often each model is loaded, each time in a new process."""
    rounds: int = 200
    """Timed predictions of one text for each model; a tenth of them for each batch size."""
    threads: int = 1
    """Processor threads that each model may use."""
    more_threads: list[int] = field(default_factory=list)
    """Other thread counts to time with as well, for the grid."""
    lengths: list[int] = field(default_factory=list)
    """Lengths in words to time as well, of texts put together from the given ones, for the grid."""
    most_seconds: float = 120.0
    """A measurement of all models ends after this many seconds, with at least three rounds."""
    seed: int = 42
    """Seed of random weights."""

    def __post_init__(self) -> None:
        for name in ("loads", "rounds", "threads", "more_threads", "lengths", "batch_sizes"):
            value = getattr(self, name)
            if min(value if isinstance(value, list) else [value], default=1) < 1:
                raise ConfigError(f"{name} is {value}; use 1 or more.")


def run(config: Config) -> dict[str, float]:
    """Time every model, print the table, and leave it as JSON, plots and report."""
    run = RunFolder.open(config.output_dir, config=config, command="benchmark", seed=config.seed)
    if run.finished is not None:
        return run.finished
    examples = _read(config)
    folders = [local_folder(model) for model in config.models] or _build_random(config, run)
    loaders = Loaders(load_classifier, load_tokenizer, load_vocabulary, generate_ids)
    subjects = benchmark.find_all(folders, loaders=loaders, max_seq_length=config.max_seq_length)
    texts = examples.rows_with_text
    scored = examples.labels is not None and bool(config.models)
    seconds = examples.texts_b
    figures = benchmark.measure(
        subjects,
        [examples.texts_a[index] for index in texts],
        [seconds[index] for index in texts] if seconds is not None else None,
        plan=_plan(config),
        judge=_accuracy(examples, texts) if scored else None,
    )
    return _leave(run, figures, config)


def _plan(config: Config) -> Plan:
    return Plan(
        batch_sizes=config.batch_sizes,
        loads=config.loads,
        rounds=config.rounds,
        thread_counts=[config.threads, *config.more_threads],
        lengths=config.lengths,
        most_seconds=config.most_seconds,
    )


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
        raise ConfigError("give --models, or --tokenizer for random ones of --size and --student.")
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


def _accuracy(
    examples: Examples, texts: list[int]
) -> Callable[[list[dict[str, Any]]], float | None]:
    """Return what turns predictions of ``texts`` into an accuracy; None for scores."""

    def judge(found: list[dict[str, Any]]) -> float | None:
        if "label" not in found[0] or not examples.label_names:
            return None
        own = list(found[0]["probabilities"])
        outputs = align_labels(own, examples.label_names)
        right = [
            own.index(entry["label"]) == outputs[examples.known_labels[index]]
            for index, entry in zip(texts, found, strict=True)
        ]
        return sum(right) / len(right)

    return judge


def _leave(run: RunFolder, figures: Figures, config: Config) -> dict[str, float]:
    print(format_table(figures.models))
    for name, rows in (("benchmark.json", figures.models), ("grid.json", figures.grid)):
        (run.path / name).write_text(json.dumps(rows, indent=2), encoding="utf-8")
    shown = [{"name": f"{row['model']} {row['kind']}"} | row for row in figures.models]
    grid = figures.grid if len(figures.grid) > len(figures.models) else []
    if grid:
        print(format_table(grid))
    trades = usual_trades(figures.models)
    plot_pareto(shown, trades[0], output=run.plots / "trade-off.png")
    write_pareto_page(
        run.path / "pareto.html",
        title="Models on this machine",
        subtitle=f"{machine.describe_processor()}; threads: {config.threads}; turns in rotation",
        rows=shown,
        trades=trades,
        grid=grid,
    )
    metrics = {
        f"{row['model']}_{row['kind']}_{name}": float(value)
        for row in figures.models
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics
