"""Fine-tune a classifier or regressor on a GLUE task or on files of one's own."""

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from nlpapp.data.classification import EncodedExamples, evaluation_steps, training_steps
from nlpapp.data.classification_sets import ClassificationSets, SetOptions, sets_of
from nlpapp.errors import ConfigError
from nlpapp.evaluation.classifier_report import write_classifier_report
from nlpapp.evaluation.learning_rate_plot import plot_learning_rates
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.predictions import score_and_write, score_logits
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifier_heads import HeadConfig, change_head
from nlpapp.models.classifiers import build_classifier, local_folder, set_dropout
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits, save_model_folder
from nlpapp.objectives.classification import (
    ClassificationLossConfig,
    ClassificationObjective,
    forward_logits,
)
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.learning_rate_finder import find_learning_rate
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(SetOptions):
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
    label_separator: str | None = None
    """What stands between the labels of a row that may have several, or none; absent: one label."""
    dropout: float | None = None
    """Dropout of hidden states and attention while training; absent: the model's own."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Multi-sample dropout, new top layers."""
    loss: ClassificationLossConfig = field(default_factory=ClassificationLossConfig)
    """Label smoothing, class weights, R-Drop, adversarial training."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 32
    """Examples in one optimizer step, over all processes and micro-batches."""
    tokens_per_batch: int | None = None
    """Most tokens of a step, with padding, in place of batch_size: short texts, large batches."""
    evaluation_batch_size: int = 64
    """Examples in one evaluation batch."""
    seed: int = 42
    """Seed of the head, order and dropout."""
    repeat_degenerate: int = 0
    """Runs with other seeds, in <output_dir>/seed-<n>, while all of dev gets the same class."""
    find_learning_rate: bool = False
    """Do not train, but plot the loss of 100 steps at learning rates from 1e-7 to 1."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=2e-5))
    )
    """How long and how to train."""


def run(config: Config) -> dict[str, float]:
    """Train, and train again with another seed where that ends in one class for all rows."""
    metrics = _train(config)
    for number in range(1, config.repeat_degenerate + 1):
        if metrics.get("degenerate"):
            seed = config.seed + 1000 * number
            logger.warning("%s is degenerate; again with seed %d", config.output_dir, seed)
            folder = f"{config.output_dir}/seed-{seed}"
            metrics = _train(replace(config, seed=seed, output_dir=folder))
    return metrics


def _train(config: Config) -> dict[str, float]:
    """Train, keep the best epoch, and leave model, figures, predictions and report."""
    run = RunFolder.open(config.output_dir, config=config, command="finetune", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sets = sets_of(config)
    logger.info(sets.describe())
    tokenizer, model = _build(config, sets)
    encode = partial(EncodedExamples, tokenizer=tokenizer, max_seq_length=config.max_seq_length)
    train, pad, size = encode(sets.train), tokenizer.pad_token_id, config.evaluation_batch_size
    chosen_on, dev_rows = next(iter(sets.dev.items()))
    dev_labels = dev_rows.known_labels
    dev = evaluation_steps(encode(dev_rows), pad, batch_size=size)

    def predict(model: Any, steps: Any, undo: np.ndarray) -> np.ndarray:
        return predict_rows(model, forward_logits, steps)[undo]

    objective = ClassificationObjective(
        sets.train.num_labels, loss=config.loss, train_labels=sets.train.labels
    )
    steps = training_steps(train, pad, config.batch_size, config.tokens_per_batch, seed=config.seed)
    if config.find_learning_rate:
        return _find_learning_rate(run, config, model, objective, steps)
    metrics = fit(
        run=run,
        model=model,
        objective=objective,
        steps=steps,
        training=config.training,
        seed=config.seed,
        evaluate=lambda model: score_logits(predict(model, *dev), dev_labels, sets.metrics),
        best_metric=sets.metrics[0],
        fingerprint=fingerprint(tokenizer),
        draw_curves=plot_curves,
    )
    metrics["truncated_share"] = train.truncated_share
    known: dict[str, Any] = {"metrics": sets.metrics, "multi_label": sets.train.multi_label}
    for split, examples in (sets.dev | sets.test).items():
        name, prefix = ("dev", "") if split == chosen_on else (split, f"{split}_")
        path = run.path / f"predictions-{name}.tsv" if run.is_main else None
        read = evaluation_steps(encode(examples), pad, batch_size=size) if prefix else dev
        found = (predict(model, *read), examples.labels, sets.label_names)
        metrics |= score_and_write(path, *found, seed=config.seed, prefix=prefix, **known)
    if run.is_main:
        save_model_folder(model, run.model, tokenizer=tokenizer, fingerprint=fingerprint(tokenizer))
        facts = sets.facts | {"base": config.model, "data": config.task or "own data"}
        write_classifier_report(run.path, run.model, metrics=metrics, texts=dev_rows.texts, **facts)
    run.finish(metrics)
    return metrics


def _build(config: Config, sets: ClassificationSets) -> tuple[Any, PreTrainedModel]:
    if config.model is None and (config.tokenizer is None or config.from_scratch):
        raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = build_classifier(
        folder,
        label_names=sets.label_names,
        multi_label=sets.train.multi_label,
        from_scratch=config.from_scratch,
        size=config.size,
        **vocabulary,
    )
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    change_head(model, config.head)
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    return tokenizer, model


def _find_learning_rate(
    run: RunFolder, config: Config, model: Any, objective: Any, steps: Any
) -> dict[str, float]:
    shared = {name: getattr(config.training, name) for name in ("max_grad_norm", "precision")}
    found = find_learning_rate(model, objective, steps, config.training.optimizer, **shared)
    if run.is_main:
        plot_learning_rates(found, run.plots / "learning-rate.png")
    logger.info("suggested: --training.optimizer.learning_rate %.1e", found.suggestion)
    metrics = {"suggested_learning_rate": found.suggestion, "seconds": run.seconds}
    run.finish(metrics)
    return metrics
