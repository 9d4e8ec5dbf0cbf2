"""What each option of fine-tuning does to a figure: one line for each, over the same seeds.

Every option is tried alone, on top of the plain settings. A line has the figure of each seed (the
mean of the task's metrics on dev), the mean difference to the plain run of the same seed with its
95 % interval by Student's t, and the time beside that of the plain runs. The runs stay in
--output_dir, and are not repeated.

    python benchmarks/finetuning_options.py --model <folder> --data_dir <glue> \
        --output_dir <folder> [--task mrpc] [--seeds 5] [--dropout 0.1] [--options r_drop]
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from nlpapp.data.glue_tasks import get_task
from nlpapp.evaluation.metrics import mean_score
from nlpapp.models.classifier_heads import HeadConfig
from nlpapp.objectives.classification import ClassificationLossConfig
from nlpapp.recipes import finetune
from nlpapp.recipes.glue_workers import quiet
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig

PLAIN = "plain"
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "reinitialize_layers": {"head": HeadConfig(reinitialize_layers=1)},
    "multi_sample_dropout": {"head": HeadConfig(multi_sample_dropout=5)},
    "label_smoothing": {"loss": ClassificationLossConfig(label_smoothing=0.1)},
    "class_weights": {"loss": ClassificationLossConfig(class_weights="balanced")},
    "r_drop": {"loss": ClassificationLossConfig(r_drop=1.0)},
    "adversarial": {"loss": ClassificationLossConfig(adversarial=0.5)},
    "layer_decay": {"layer_decay": 0.9},
}
"""Option -> what it changes, each at a value of its source; layer_decay is the optimizer's."""
FIRST_SEED = 42


def main() -> None:
    """Print one JSON line for each option."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a pretrained model")
    parser.add_argument("--data_dir", required=True, help="folder that holds GLUE")
    parser.add_argument("--output_dir", type=Path, required=True, help="keeps finished runs")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--options", nargs="+", choices=[*OPTIONS][1:], default=[*OPTIONS][1:])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--dropout", type=float, help="of the model, in place of its own")
    options = parser.parse_args()
    plain: dict[str, np.ndarray] = {}
    for name in (PLAIN, *options.options):
        with quiet():
            found = measure(name, options)
        plain = plain or found
        print(json.dumps(line(name, found, plain)), flush=True)


def measure(name: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return (seeds,) of "score", "seconds" and "degenerate" of the runs with one option."""
    changed = dict(OPTIONS[name])
    optimizer = OptimizerConfig(
        learning_rate=options.rate, layer_decay=changed.pop("layer_decay", 1.0)
    )
    training = TrainingConfig(num_epochs=options.epochs, optimizer=optimizer)
    task = get_task(options.task)
    runs = [
        finetune.run(
            finetune.Config(
                output_dir=str(options.output_dir / task.name / name / f"seed-{seed}"),
                model=options.model,
                task=task.name,
                data_dir=options.data_dir,
                batch_size=options.batch_size,
                dropout=options.dropout,
                seed=seed,
                training=training,
                **changed,
            )
        )
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds)
    ]
    return {
        "score": np.array([mean_score(run, task.metrics) for run in runs]),
        "seconds": np.array([run["seconds"] for run in runs]),
        "degenerate": np.array([run.get("degenerate", 0.0) for run in runs]),
    }


def line(
    name: str, found: dict[str, np.ndarray], plain: dict[str, np.ndarray]
) -> dict[str, object]:
    """Return what is said of the option called ``name``."""
    scores, differences = found["score"], found["score"] - plain["score"]
    result: dict[str, object] = {
        "option": name,
        "mean": round(float(scores.mean()), 4),
        "scores": [round(float(score), 4) for score in scores],
        "degenerate": int(found["degenerate"].sum()),
    }
    if name != PLAIN:
        result["difference"] = round(float(differences.mean()), 4)
        if len(scores) > 1:
            error = statistics.stdev(differences) / len(scores) ** 0.5
            half = student.ppf(0.975, len(scores) - 1) * error
            ends = differences.mean() + half * np.array([-1, 1])
            result["interval"] = ends.round(4).tolist()
        result["time"] = round(float(np.median(found["seconds"] / plain["seconds"])), 2)
    return result


if __name__ == "__main__":
    main()
