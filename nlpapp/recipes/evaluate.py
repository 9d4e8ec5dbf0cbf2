"""Score any classifier on a labelled file or a GLUE task."""

import logging
from dataclasses import dataclass, field
from typing import Any

from nlpapp.data.classification import (
    Examples,
    encode_for,
    evaluation_steps,
    read_examples,
)
from nlpapp.data.classification_sets import usual_metrics
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.data.label_words import UnknownLabelError
from nlpapp.errors import ConfigError
from nlpapp.evaluation.predictions import score_and_write
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import (
    align_labels,
    is_multi_label,
    local_folder,
    open_classifier,
    renamed_labels,
)
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits
from nlpapp.objectives.classification import forward_logits
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score any classifier on a labelled file or a GLUE task."""

    output_dir: str
    """Folder for figures, predictions and report."""
    model: str | None = None
    """Classifier: the model folder of a run, any Hugging Face classifier, or a name on the Hub;
    absent: a BERT with random weights, to try the command out."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    file: str | None = None
    """Labelled TSV, CSV, JSONL or parquet file."""
    task: str | None = None
    """GLUE task instead of a file; needs data_dir."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    split: str | None = None
    """Split of the task; absent: its first dev set."""
    text_column: str | None = None
    """Column of the text, by name or number from 1; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label."""
    label_separator: str | None = None
    """What stands between the labels of a row, for a model of which a row may have several."""
    header: bool = True
    """The first line of TSV and CSV files names the columns; if not, give their numbers."""
    label_names: list[str] | None = None
    """The data's words for the model's classes, in the model's order, where they differ."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 64
    """Examples in one batch."""
    seed: int = 42
    """Seed of the bootstrap intervals, and of random weights."""


def run(config: Config) -> dict[str, float]:
    """Predict every row, and leave the metrics with their intervals."""
    run = RunFolder.open(config.output_dir, config=config, command="evaluate", seed=config.seed)
    if run.finished is not None:
        return run.finished
    tokenizer, model = _load(config)
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    names = renamed_labels(model, config.label_names)
    several = is_multi_label(model)
    examples, metric_names = _read(config, names, several)
    labels = examples.known_labels
    outputs = align_labels(names, examples.label_names)
    encoded = encode_for(model, tokenizer, examples, max_seq_length=config.max_seq_length)
    steps, undo = evaluation_steps(encoded, tokenizer.pad_token_id, batch_size=config.batch_size)
    logits = predict_rows(model, forward_logits, steps)[undo]
    logits = logits[:, outputs] if outputs else logits
    path = run.path / "predictions-dev.tsv" if run.is_main else None
    found = (logits, labels, examples.label_names)
    metrics = score_and_write(
        path, *found, metrics=metric_names, multi_label=several, seed=config.seed
    )
    metrics |= {"truncated_share": encoded.truncated_share}
    metrics |= {"rows": float(len(examples)), "seconds": run.seconds}
    logger.info(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    if run.is_main:
        write_run_report(run.path, metrics=metrics, texts=examples.texts)
    run.finish(metrics)
    return metrics


def _load(config: Config) -> tuple[Any, Any]:
    if config.model is None and config.tokenizer is None:
        raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    model = open_classifier(
        folder,
        label_names=config.label_names,
        size=config.size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, model


def _read(
    config: Config, names: tuple[str, ...], several: bool
) -> tuple[Examples, tuple[str, ...]]:
    """Return the examples and the names of their metrics."""
    if several != (config.label_separator is not None):
        raise ConfigError(
            "a row may have several of the model's classes: say what stands between them in the "
            "file with --label_separator"
            if several
            else "a row has one of the model's classes; leave label_separator out"
        )
    if (config.file is None) == (config.task is None):
        raise ConfigError("give either --file, or --task with --data_dir.")
    if config.file is not None and (config.split or config.data_dir):
        raise ConfigError("--split and --data_dir go with --task; leave them out with --file.")
    if config.task is not None:
        task = get_task(config.task)
        if config.data_dir is None:
            raise ConfigError(f"--task {task.name} needs --data_dir, the folder that holds GLUE.")
        split = config.split or (*task.dev_splits, "test")[0]
        return read_task(task, config.data_dir, split), task.metrics
    generic = all(name.startswith("LABEL_") for name in names)
    try:
        examples = read_examples(
            str(config.file),
            text_column=config.text_column,
            text_pair_column=config.text_pair_column,
            label_column=config.label_column,
            label_names=None if names and generic else names,
            label_separator=config.label_separator,
            header=config.header,
            require_labels=True,
        )
    except UnknownLabelError as error:
        raise UnknownLabelError(
            f"{error} These are the model's classes; if the file only has other words for "
            'them, give its words in the same order: --label_names \'["0", "1"]\'.'
        ) from error
    return examples, usual_metrics(examples.label_names, multi_label=several)
