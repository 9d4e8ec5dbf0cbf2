"""Fine-tune a classifier or regressor on a GLUE task or on files of one's own."""

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from nlpapp.data.classification import ClassificationCollator, EncodedExamples, evaluation_steps
from nlpapp.data.classification_sets import ClassificationSets, read_sets
from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import ConfigError
from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.predictions import score_logits, score_with_intervals, write_predictions
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import build_classifier, local_folder, set_dropout
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits, save_model_folder
from nlpapp.objectives.classification import ClassificationObjective, forward_logits
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

USAGE = """from transformers import pipeline

classify = pipeline("text-classification", "{folder}")
print(classify({example}))"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tune a classifier or regressor on a GLUE task or on files of one's own."""

    output_dir: str
    """Folder for checkpoints, metrics, predictions and the model."""
    model: str | None = None
    """Pretrained model: a folder, or a name on the Hugging Face Hub; absent: random weights."""
    from_scratch: bool = False
    """Take only the architecture of model, and start from random weights."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    task: str | None = None
    """GLUE task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    train_file: str | None = None
    """Training file of one's own instead of a task: TSV, CSV or JSONL with named columns."""
    dev_file: str | None = None
    """File that chooses the best epoch, same columns as train_file."""
    test_file: str | None = None
    """File to predict at the end; scored if it has labels."""
    text_column: str | None = None
    """Column of the text; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label."""
    regression: bool = False
    """The labels of train_file are scores, not classes."""
    dropout: float | None = None
    """Dropout of hidden states and attention while training; absent: the model's own."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 32
    """Examples in one optimizer step, over all processes and micro-batches."""
    evaluation_batch_size: int = 64
    """Examples in one evaluation batch."""
    seed: int = 42
    """Seed of the head, order and dropout."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=2e-5))
    )
    """How long and how to train."""


def run(config: Config) -> dict[str, float]:
    """Train, keep the best epoch, and leave model, figures, predictions and report."""
    run = RunFolder.open(config.output_dir, config=config, command="finetune", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sets = _read_sets(config)
    logger.info(sets.describe())
    tokenizer, model = _build(config, sets)
    encode = partial(EncodedExamples, tokenizer=tokenizer, max_seq_length=config.max_seq_length)
    train = encode(sets.train)
    chosen_on, dev_examples = next(iter(sets.dev.items()))
    dev = encode(dev_examples)

    def predict(model: Any, encoded: EncodedExamples) -> np.ndarray:
        size = config.evaluation_batch_size
        steps, undo = evaluation_steps(encoded, tokenizer.pad_token_id, batch_size=size)
        return predict_rows(model, forward_logits, steps)[undo]

    metrics = fit(
        run=run,
        model=model,
        objective=ClassificationObjective(sets.train.num_labels),
        steps=ExampleSteps(
            len(train),
            ClassificationCollator(train, tokenizer.pad_token_id),
            batch_size=config.batch_size,
            seed=config.seed,
            lengths=train.lengths,
        ),
        training=config.training,
        seed=config.seed,
        evaluate=lambda model: score_logits(
            predict(model, dev), dev_examples.known_labels, sets.metrics
        ),
        best_metric=sets.metrics[0],
        fingerprint=fingerprint(tokenizer),
    )
    for split, examples in (sets.dev | sets.test).items():
        first = split == chosen_on
        logits = predict(model, dev if first else encode(examples))
        if examples.labels is not None:
            prefix = "" if first else f"{split}_"
            metrics |= score_with_intervals(
                logits, examples.labels, sets.metrics, seed=config.seed, prefix=prefix
            )
        if run.is_main:
            path = run.path / f"predictions-{'dev' if first else split}.tsv"
            write_predictions(path, logits, sets.label_names, examples.labels)
    if run.is_main:
        _leave(run, config, model, tokenizer, sets, metrics)
    run.finish(metrics)
    return metrics


def _read_sets(config: Config) -> ClassificationSets:
    return read_sets(
        task=config.task,
        data_dir=config.data_dir,
        train_file=config.train_file,
        dev_file=config.dev_file,
        test_file=config.test_file,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        label_column=config.label_column,
        regression=config.regression,
    )


def _build(config: Config, sets: ClassificationSets) -> tuple[Any, PreTrainedModel]:
    if config.model is None and (config.tokenizer is None or config.from_scratch):
        raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    model = build_classifier(
        folder,
        label_names=sets.label_names,
        from_scratch=config.from_scratch,
        size=config.size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    return tokenizer, model


def _leave(
    run: RunFolder,
    config: Config,
    model: PreTrainedModel,
    tokenizer: Any,
    sets: ClassificationSets,
    metrics: dict[str, float],
) -> None:
    save_model_folder(model, run.model, tokenizer=tokenizer, fingerprint=fingerprint(tokenizer))
    plot_curves(run.path / "metrics.jsonl", run.plots / "curves.png")
    data = config.task or "own data"
    example = '{"text": "...", "text_pair": "..."}' if sets.pairs else '"..."'
    write_model_card(
        run.model,
        title=f"{config.model or 'A BERT from random weights'} fine-tuned on {data}",
        summary=f"Classes: {', '.join(sets.label_names) or 'none, it gives a score'}.",
        metrics=metrics,
        usage=USAGE.format(folder=run.model, example=example),
        run_folder=run.path,
        details={"pipeline_tag": "text-classification", "dataset": data, "rows": len(sets.train)},
    )
    write_run_report(run.path, metrics=metrics)
