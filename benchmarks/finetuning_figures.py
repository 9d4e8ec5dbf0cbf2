"""Figures on GLUE's official dev sets: nlpapp against the plain Hugging Face way, seed by seed.

Both sides train the same checkpoint on the same rows with the same rate, schedule, weight decay,
epochs and batch size, and keep the epoch that is best on dev:

- plain: transformers' Trainer, as run_glue.py calls it: rows in random order, padded to the longest
  of the batch, with a seed for the head, the order and dropout;
- nlpapp: `nlpapp finetune`, with batches of similar length.

A task's figure is the mean of its metrics. The sides agree where their means differ by no more than
the seeds of one side do among themselves. Every run is kept in --output_dir, and is not repeated.
`benchmarks/finetuning.py` is the command.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from nlpapp.data.classification import Examples
from nlpapp.data.glue_tasks import GlueTask, get_task, read_task
from nlpapp.disk import write_json
from nlpapp.evaluation.metrics import compute_metrics, decide, mean_score
from nlpapp.models.classifiers import label_options
from nlpapp.recipes import finetune
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.schedules import ScheduleConfig

TASKS = ("cola", "mrpc", "stsb", "wnli", "sst2")
FIRST_SEED = 42


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides on the figures."""
    parser.add_argument("--output_dir", type=Path, help="measures figures, and keeps their runs")
    parser.add_argument("--figures", nargs="*", default=TASKS, help="tasks of the figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train_rows", type=int, default=10_000, help="most rows of the figures")


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of both sides on the task called ``name``, and whether they agree."""
    task = get_task(name)
    data = limited(task, options)
    sides: dict[str, list[float]] = {"nlpapp": [], "plain": []}
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        sides["nlpapp"].append(our_score(task, data, seed, options))
        sides["plain"].append(plain_score(task, data, seed, options))
    means = {side: statistics.mean(scores) for side, scores in sides.items()}
    difference = means["nlpapp"] - means["plain"]
    spread = max(max(scores) - min(scores) for scores in sides.values())
    return {
        "task": task.name,
        "metrics": task.metrics,
        **{side: [round(score, 4) for score in scores] for side, scores in sides.items()},
        "difference_of_means": round(difference, 4),
        "spread_of_seeds": round(spread, 4),
        "agree": abs(difference) <= spread,
    }


def limited(task: GlueTask, options: argparse.Namespace) -> Path:
    """Return a GLUE folder with the first ``train_rows`` rows of train, and the whole dev set."""
    root = options.output_dir / f"data-{options.train_rows}"
    folder = root / task.folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", *task.dev_splits):
        name = task.files.get(split, f"{split}.tsv")
        lines = Path(options.data_dir, task.folders[0], name).read_bytes().splitlines(True)
        header = 0 if split in task.headerless else 1
        most = header + options.train_rows if split == "train" else len(lines)
        (folder / name).write_bytes(b"".join(lines[:most]))
    return root


def our_score(task: GlueTask, data: Path, seed: int, options: argparse.Namespace) -> float:
    """Return the figure of `nlpapp finetune`."""
    figures = finetune.run(
        finetune.Config(
            output_dir=str(options.output_dir / "nlpapp" / task.name / f"seed-{seed}"),
            model=str(options.model),
            task=task.name,
            data_dir=str(data),
            batch_size=options.batch_size,
            max_seq_length=options.max_seq_length,
            seed=seed,
            training=TrainingConfig(
                num_epochs=options.epochs, optimizer=OptimizerConfig(learning_rate=options.rate)
            ),
        )
    )
    return mean_score(figures, task.metrics)


def plain_score(task: GlueTask, data: Path, seed: int, options: argparse.Namespace) -> float:
    """Return the figure of transformers' Trainer; its folder of checkpoints is removed."""
    folder = options.output_dir / "plain" / task.name / f"seed-{seed}"
    done = folder / "figures.json"
    if not done.is_file():
        write_json(done, train_plainly(task, data, seed, folder, options))
    return mean_score(json.loads(done.read_text()), task.metrics)


def train_plainly(
    task: GlueTask, data: Path, seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Return the dev metrics of the best epoch."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = plain_classifier(options.model, task.labels)
    optimizer, schedule = OptimizerConfig(), ScheduleConfig()
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            seed=seed,
            learning_rate=options.rate,
            weight_decay=optimizer.weight_decay,
            warmup_steps=schedule.warmup_ratio,  # below 1: a share of all steps
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=task.metrics[0],
            greater_is_better=True,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=encoded(read_task(task, data, "train"), tokenizer, options),
        eval_dataset=encoded(read_task(task, data, task.dev_splits[0]), tokenizer, options),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: compute_metrics(
            task.metrics, decide(np.asarray(found.predictions)), np.asarray(found.label_ids)
        ),
    )
    trainer.remove_callback(transformers.PrinterCallback)  # Standard output is for the results.
    trainer.train()
    figures = trainer.evaluate()
    return {name: float(figures[f"eval_{name}"]) for name in task.metrics}


def plain_classifier(folder: Path, labels: tuple[str, ...]) -> Any:
    """Return transformers' own classifier to train; its new head comes from torch's generator.

    Nothing of nlpapp's is in it, such as other matrix products (`nlpapp.models.fast_linear`).
    """
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, ignore_mismatched_sizes=True, **label_options(labels)
    )


def encoded(
    examples: Examples, tokenizer: Any, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the rows as Trainer takes them."""
    sides = (examples.texts_a, *([examples.texts_b] if examples.texts_b is not None else []))
    columns = dict(tokenizer(*sides, truncation=True, max_length=options.max_seq_length))
    columns["label"] = examples.known_labels.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
