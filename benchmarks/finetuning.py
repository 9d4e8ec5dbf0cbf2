"""Fine-tuning on GLUE: nlpapp against the plain ways, in speed and in figures on dev.

Three sides train the same checkpoint on the same rows with AdamW, one after the other in each turn:

- padded: every batch padded to --max_seq_length, as run_glue.py does by default;
- dynamic: every batch padded to its longest row, rows in random order;
- nlpapp: batches of similar length, as `nlpapp finetune` makes them, through its objective and
  optimizer; with --tokens_per_batch also under a token budget.

Real tokens are those of the texts and their special tokens, without padding. The figures are
medians over the turns, by the clock and by CPU seconds, which other work disturbs less.

With --output_dir the figures are compared as well (`finetuning_figures`).

    python benchmarks/finetuning.py --model <folder> --data_dir <glue> [--tasks sst2] [--turns 5] \
        [--output_dir <folder> --figures mrpc --seeds 3]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finetuning_figures
import numpy as np
import torch

from nlpapp.data.classification import (
    ClassificationCollator,
    EncodedExamples,
    training_steps,
)
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.data.sampling import ExampleSteps, padding_share
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import build_classifier
from nlpapp.objectives.classification import ClassificationObjective
from nlpapp.recipes.glue_workers import quiet
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer

Step = Callable[[dict[str, torch.Tensor]], None]


def main() -> None:
    """Print one JSON line for each task and comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a pretrained model")
    parser.add_argument("--data_dir", required=True, help="folder that holds GLUE")
    parser.add_argument("--tasks", nargs="*", default=["sst2", "mrpc"], help="tasks of the speed")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rows", type=int, default=640, help="rows that a side trains on a turn")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--tokens_per_batch", type=int, help="adds a side with this token budget")
    parser.add_argument("--max_seq_length", type=int, default=128)
    finetuning_figures.add_options(parser)
    options = parser.parse_args()
    for name in options.tasks:
        print(json.dumps(compare(name, options)), flush=True)
    if options.output_dir is not None:
        for name in options.figures:
            with quiet():
                result = finetuning_figures.compare(name, options)
            print(json.dumps(result), flush=True)


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the speeds of the sides on the task called ``name``, and their ratios."""
    task = get_task(name)
    examples = read_task(task, options.data_dir, "train")
    tokenizer = load_tokenizer(options.model)
    encoded = EncodedExamples(examples, tokenizer, max_seq_length=options.max_seq_length)
    pad = tokenizer.pad_token_id
    collate = ClassificationCollator(encoded, pad)

    def padded(indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        batch = collate(indices, epoch)
        missing = options.max_seq_length - batch["input_ids"].shape[1]
        fill = {"input_ids": pad}
        return {
            key: value
            if key == "labels"
            else torch.nn.functional.pad(value, (0, missing), value=fill.get(key, 0))
            for key, value in batch.items()
        }

    size, budget = options.batch_size, options.tokens_per_batch
    plain = {"batch_size": size, "seed": 0}
    sides = {
        "padded": ExampleSteps(len(encoded), padded, **plain),
        "dynamic": ExampleSteps(len(encoded), collate, **plain),
        "nlpapp": training_steps(encoded, pad, size, None, seed=0),
    }
    if budget is not None:
        sides["nlpapp_budget"] = training_steps(encoded, pad, size, budget, seed=0)
    trainers: dict[str, Step] = {}
    for side in sides:
        torch.manual_seed(0)  # All heads start alike.
        if side.startswith("nlpapp"):
            ours = our_classifier(options.model, task.labels, tokenizer).train()
            trainers[side] = our_step(ours, examples.num_labels, options.rate)
        else:
            plain_model = finetuning_figures.plain_classifier(options.model, task.labels).train()
            trainers[side] = plain_step(plain_model, options.rate)
    speeds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(options.turns + 1):  # The first warms up.
        for side, steps in sides.items():
            speed = measure(trainers[side], steps, turn, options.rows)
            speeds[side] += [speed] if turn else []
    result: dict[str, Any] = {"task": task.name, "threads": torch.get_num_threads()}
    for side in sides:
        clock, cpu = (statistics.median(found) for found in zip(*speeds[side], strict=True))
        padding = padding_share(encoded.lengths, sides[side].plan(1)) if side != "padded" else None
        result[side] = {"tokens_per_second": round(clock), "tokens_per_cpu_second": round(cpu)}
        result[side]["padding_share"] = padding if padding is None else round(padding, 4)
    for other in ("padded", "dynamic"):
        for index, unit in enumerate(("clock", "cpu")):
            pairs = zip(speeds["nlpapp"], speeds[other], strict=True)
            ratio = statistics.median(ours[index] / theirs[index] for ours, theirs in pairs)
            result[f"nlpapp_over_{other}_{unit}"] = round(ratio, 2)
    return result


def our_classifier(folder: Path, labels: tuple[str, ...], tokenizer: Any) -> Any:
    """Return nlpapp's classifier to train; its new head comes from torch's generator."""
    return build_classifier(
        folder,
        label_names=labels,
        size=BertSizeConfig(),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def plain_step(model: Any, rate: float) -> Step:
    """Return a step of a plain loop: transformers' loss, clipping, torch's AdamW as it comes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)

    def step(batch: dict[str, torch.Tensor]) -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(model: Any, num_labels: int, rate: float) -> Step:
    """Return a step of nlpapp's objective and optimizer."""
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=rate))
    objective = ClassificationObjective(num_labels)

    def step(batch: dict[str, torch.Tensor]) -> None:
        objective(model, batch, objective.counts(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(step: Step, steps: ExampleSteps, epoch: int, rows: int) -> tuple[float, float]:
    """Return real tokens a second and a CPU second over steps of at least ``rows`` rows."""
    tokens = done = position = 0
    start, cpu = time.perf_counter(), time.process_time()
    while done < rows and position < steps.num_steps(epoch):
        (batch,) = steps.micro_batches(epoch, position, rank=0, world_size=1, accumulation=1)
        tokens += int(batch["attention_mask"].sum())
        step(batch)
        done += len(batch["labels"])
        position += 1
    return tokens / (time.perf_counter() - start), tokens / (time.process_time() - cpu)


if __name__ == "__main__":
    main()
