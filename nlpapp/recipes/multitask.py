"""Train one encoder on several tasks, a head for each, from labels and from a teacher for each."""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nlpapp.data.annealing import AnnealedSteps
from nlpapp.data.classification import encode_for
from nlpapp.data.sampling import ExampleSteps
from nlpapp.data.task_mixture import TaskMixture
from nlpapp.data.transfer_set import TransferCollator
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.predictions import score_logits
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.multitask import MultiTaskClassifier
from nlpapp.models.pretrained import save_model_folder
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.multitask_models import (
    ask_teacher,
    build_model,
    build_objective,
    predict,
)
from nlpapp.recipes.multitask_results import report, score_task
from nlpapp.recipes.multitask_tasks import BAM, Task, TaskConfig, check_options, read_tasks
from nlpapp.seeding import derive_seed
from nlpapp.text.wordpiece import fingerprint
from nlpapp.training.fit import TrainingConfig, fit
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train one encoder on several tasks, from labels and from a teacher for each task."""

    output_dir: str
    """Folder for checkpoints, metrics, and models: model/, and tasks/<name>/model/ of each."""
    tasks: list[str | TaskConfig]
    """GLUE tasks by name, or with options: name, task, teacher, or the files of a task of one's
    own, called as in finetune: train_file, dev_file, dev_share, test_file, columns, regression."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    model: str | None = None
    """Pretrained model: a folder, or a name on the Hugging Face Hub; absent: random weights."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    architecture: Literal["transformer", "bilstm"] = "transformer"
    """The encoder: that of model, or a BERT of size; or a BiLSTM, which reads pairs apart."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    bilstm: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of a BiLSTM."""
    objective: DistillationConfig = BAM
    """How to learn from the teachers; as in BAM, from them to the labels over the training. A task
    without a teacher learns its labels alone."""
    size_exponent: float = 1.0
    """A task's share of the steps follows its size to this power: 1 as in MT-DNN, 0.75 as in BAM,
    0.5 its square root, 0 all tasks alike."""
    dropout: float | None = None
    """Dropout of hidden states and attention while training; absent: the model's own."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 32
    """Examples in one optimizer step, all of one task, over all processes and micro-batches."""
    evaluation_batch_size: int = 64
    """Examples in one batch of evaluation, and of the teachers."""
    seed: int = 42
    """Seed of the heads, the order of tasks and examples, and dropout."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=5e-5))
    )
    """How long and how to train; an epoch has as many steps as all examples need."""

    def __post_init__(self) -> None:
        check_options(self)


def run(config: Config) -> dict[str, float]:
    """Ask the teachers, train on all tasks at once, and leave a model for all and one for each."""
    run = RunFolder.open(config.output_dir, config=config, command="multitask", seed=config.seed)
    if run.finished is not None:
        return run.finished
    tasks = read_tasks(config)
    for task in tasks:
        logger.info("%s: %s", task.name, task.sets.describe())
        (run.path / "tasks" / task.name).mkdir(parents=True, exist_ok=True)
    tokenizer, model = build_model(config, tasks)
    taught = {
        task.name: ask_teacher(config, task, run.path / "tasks" / task.name)
        for task in tasks
        if task.options.teacher is not None
    }
    metrics = _train(run, config, tasks, model, tokenizer, taught)
    if run.is_main:
        marked = {"tokenizer": tokenizer, "fingerprint": fingerprint(tokenizer)}
        save_model_folder(model, run.model, **marked)
        for task in tasks:
            folder = run.path / "tasks" / task.name / "model"
            save_model_folder(model.classifier(task.name), folder, **marked)
    figures = {}
    for task in tasks:
        figures[task.name] = score_task(run, config, task, model, tokenizer, taught.get(task.name))
        metrics |= {f"{task.name}_{name}": value for name, value in figures[task.name].items()}
    metrics["parameters"] = float(model.num_parameters())
    if run.is_main:
        report(run, config, tasks, figures, metrics)
    run.finish(metrics)
    return metrics


def _train(
    run: RunFolder,
    config: Config,
    tasks: list[Task],
    model: MultiTaskClassifier,
    tokenizer: Any,
    taught: dict[str, dict[str, np.ndarray]],
) -> dict[str, float]:
    """Train ``model`` on the mixture of tasks, and keep the weights of the best mean score."""
    pad = tokenizer.pad_token_id
    length = {"max_seq_length": config.max_seq_length}
    parts = []
    for task in tasks:
        read = encode_for(model.classifier(task.name), tokenizer, task.sets.train, **length)
        parts.append(
            ExampleSteps(
                len(read),
                TransferCollator(read, pad, taught.get(task.name, {}).get("train")),
                batch_size=config.batch_size,
                seed=derive_seed(config.seed, "task", task.name),
                lengths=read.lengths,
            )
        )
    steps: Any = TaskMixture(parts, exponent=config.size_exponent, seed=config.seed)
    logger.info("steps of each task in an epoch: %s", steps.shares)
    if taught and config.objective.final_alpha is not None:
        steps = AnnealedSteps(steps, config.training.total_steps(steps))
    dev = {
        task.name: encode_for(model.classifier(task.name), tokenizer, task.dev, **length)
        for task in tasks
    }

    def evaluate(model: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        scores = []
        for task in tasks:
            logits = predict(config, model, task.name, dev[task.name], pad)
            values = score_logits(logits, task.dev.known_labels, task.sets.metrics)
            scores.append(values[task.sets.metrics[0]])
            kept = (*task.sets.metrics, "loss")
            found |= {f"{task.name}_{name}": values[name] for name in kept}
        return found | {"mean_score": float(np.mean(scores))}

    return fit(
        run=run,
        model=model,
        objective=build_objective(config, tasks),
        steps=steps,
        training=config.training,
        seed=config.seed,
        evaluate=evaluate,
        best_metric="mean_score",
        fingerprint=fingerprint(tokenizer),
        draw_curves=plot_curves,
    )
