"""Pretraining on this CPU: nlpapp against transformers' BertForPreTraining on the same batches.

The other side is a plain PyTorch loop: transformers' own forward with labels at every position, and
torch.optim.AdamW as it comes, with the same rates. Both train the same weights on the same masked
rows, padded to 128 tokens, without dropout, in turn. For each size there is one JSON line with

- speed: tokens a second of both, their ratio (median over turns; by the clock, and by CPU seconds,
  which other work on the machine disturbs less), and the largest difference of their losses;
- peak: the share of the measured matrix-multiply peak that each side reaches with the FLOPs that
  the task needs, and where nlpapp's time goes by operator;
- memory: each side's peak resident memory in a process of its own, over what it had after imports
  and a first small step, and nlpapp's estimate beside it;
- loop: what fit() adds to the bare forward, backward, clipping and step: reading and masking data,
  scheduling, logging to files at the end; no checkpoint.

    python benchmarks/pretraining_step.py [--sizes tiny mini] [--parts speed loop] [--turns 5]
"""

import argparse
import dataclasses
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

from nlpapp.data.collate import PretrainingCollator
from nlpapp.data.pretraining_data import PretrainingExample
from nlpapp.data.sampling import ExampleSteps
from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_cost import bert_memory, bert_training_flops
from nlpapp.models.bert_size import SIZES, BertSizeConfig, bert_config
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.device_speed import matmul_peak
from nlpapp.training.fit import TrainingConfig, fit
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer
from nlpapp.training.run_folder import RunFolder

ROWS, TOKENS, VOCABULARY, MASKED = 32, 128, 30522, 20
OPTIMIZER = OptimizerConfig(learning_rate=1e-4)
SIDES = ("nlpapp", "transformers")
PARTS = ("speed", "peak", "memory", "loop")
LOOP_STEPS = {"tiny": 60, "mini": 20}
"""Steps of a turn of the part "loop": enough seconds that the machine's moods even out."""
OPERATORS = {
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "_linear_pointwise"),
    "attention": ("scaled_dot_product",),
    "optimizer": ("adam",),
    "vocabulary without products": ("softmax", "::max", "scatter", "::gather", "::log"),
    "activation": ("gelu", "tanh"),
    "norms": ("layer_norm",),
    "embeddings": ("embedding", "index"),
    "copies and fills": ("copy_", "fill_", "zero", "::cat"),
    "sums and scaling": ("::add", "::sum", "::mul", "::div"),
}
"""Group -> what the name of an operator of the group has in it; the first group that fits."""

Batch = dict[str, torch.Tensor]


def size_config(name: str) -> BertConfig:
    """Return the BERT called ``name``, without dropout."""
    return bert_config(BertSizeConfig(name=name, dropout=0.0), vocab_size=VOCABULARY)


def make_batch(seed: int, rows: int = ROWS) -> Batch:
    """Return one padded batch of random ids with 20 masked positions a row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(999, VOCABULARY, (rows, TOKENS), generator=generator)
    draws = [torch.randperm(TOKENS, generator=generator)[:MASKED] for _ in range(rows)]
    columns = torch.stack(draws)
    positions = (columns.sort().values + torch.arange(rows)[:, None] * TOKENS).flatten()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (torch.arange(TOKENS) >= TOKENS // 2).long().expand(rows, TOKENS),
        "masked_positions": positions,
        "masked_labels": torch.randint(999, VOCABULARY, (len(positions),), generator=generator),
        "next_sentence_labels": torch.randint(0, 2, (rows,), generator=generator),
    }


class Side:
    """One of the two ways to train, with its model and optimizer."""

    def __init__(self, name: str, size: str) -> None:
        """Make the model called ``size`` with the weights that both sides begin with."""
        torch.manual_seed(0)
        self.name = name
        bert = BertForPreTraining(size_config(size)).train()
        self.model: Any = bert
        if name == "nlpapp":
            self.model = BertPretrainingModel(bert)
            self.optimizer = build_optimizer(self.model, OPTIMIZER)
        else:
            rates = {"lr": OPTIMIZER.learning_rate, "eps": OPTIMIZER.epsilon}
            self.optimizer = torch.optim.AdamW(self.model.parameters(), **rates)
        self.objective = BertPretrainingObjective()

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch."""
        if self.name == "nlpapp":
            return self.objective(self.model, batch, self.objective.counts(batch)).loss
        labels = torch.full_like(batch["input_ids"], -100)
        labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        pairs = batch["next_sentence_labels"]
        return self.model(**inputs, labels=labels, next_sentence_label=pairs).loss

    def step(self, batch: Batch, *, clip: bool = False) -> float:
        """Train on a batch and return its loss."""
        loss = self.loss(batch)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def timed(side: Side, batches: list[Batch], *, clip: bool = False) -> tuple[float, float, list]:
    """Return the seconds by the clock, the CPU seconds, and the losses of a step a batch."""
    start, cpu = time.perf_counter(), time.process_time()
    losses = [side.step(batch, clip=clip) for batch in batches]
    return time.perf_counter() - start, time.process_time() - cpu, losses


def compare_speed(size: str, turns: int, steps: int) -> dict[str, Any]:
    """Return medians over ``turns``; the first turn warms up."""
    sides = {name: Side(name, size) for name in SIDES}
    clock: dict[str, list[float]] = {name: [] for name in SIDES}
    cpu: dict[str, list[float]] = {name: [] for name in SIDES}
    difference = 0.0
    for turn in range(turns + 1):
        batches = [make_batch(turn * steps + step) for step in range(steps)]
        results = {name: timed(side, batches) for name, side in sides.items()}
        pairs = zip(results["nlpapp"][2], results["transformers"][2], strict=True)
        difference = max([difference, *(abs(mine - other) for mine, other in pairs)])
        if turn:
            for name, (seconds, cpu_seconds, _) in results.items():
                clock[name].append(seconds)
                cpu[name].append(cpu_seconds)
    tokens = ROWS * TOKENS * steps
    return {
        "speed_ratio": round(_median_ratio(clock["transformers"], clock["nlpapp"]), 2),
        "cpu_ratio": round(_median_ratio(cpu["transformers"], cpu["nlpapp"]), 2),
        "tokens_per_second": {
            name: round(tokens / statistics.median(clock[name])) for name in SIDES
        },
        "largest_loss_difference": difference,
    }


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_share(size: str, steps: int) -> dict[str, Any]:
    """Return the share of the matrix-multiply peak, and nlpapp's time by group of operators."""
    flops = bert_training_flops(size_config(size), sequence_length=TOKENS, predictions=MASKED)
    batches = [make_batch(step) for step in range(steps)]
    shares = {}
    for name in SIDES:
        side = Side(name, size)
        side.step(batches[0])
        peak = matmul_peak("cpu", torch.float32)
        seconds = min(timed(side, [batch])[0] for batch in batches)
        shares[name] = round(flops * ROWS * TOKENS / seconds / peak, 3)
    side = Side("nlpapp", size)
    side.step(batches[0])
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        timed(side, batches)
    times: dict[str, float] = {}
    for event in profile.key_averages():
        fits = [g for g, names in OPERATORS.items() if any(name in event.key for name in names)]
        group = fits[0] if fits else "all else"
        times[group] = times.get(group, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {
        "flops_per_token": flops,
        "peak_share": shares,
        "time_shares": {group: round(spent / total, 3) for group, spent in ordered},
    }


def compare_memory(size: str) -> dict[str, Any]:
    """Return megabytes of both sides, each measured in a process of its own."""
    peaks = {}
    for name in SIDES:
        command = [sys.executable, __file__, "--measure", name, "--sizes", size]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = json.loads(result.stdout.splitlines()[-1])
    estimate = bert_memory(
        size_config(size),
        rows=ROWS,
        sequence_length=TOKENS,
        predictions=MASKED,
        optimizer="adamw",
        precision="float32",
        gradient_checkpointing=False,
    )
    return {
        "peak_megabytes": {name: round(peak / 1e6) for name, peak in peaks.items()},
        "memory_share": round(peaks["nlpapp"] / peaks["transformers"], 3),
        "estimated_megabytes": round(estimate.total / 1e6),
    }


def peak_memory(name: str, size: str) -> float:
    """Return the peak resident bytes of three steps, over those before the model was made (Linux).

    A step of a small model comes first: libraries that load at first use belong to neither side.
    """
    small = make_batch(0, rows=1)
    Side(name, "tiny").step(small)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far.
    side = Side(name, size)
    for step in range(3):
        side.step(make_batch(step))
    return _status("VmHWM") - before


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; this measurement needs Linux")


class RandomPairs:
    """Pretraining data of random words: what PretrainingData is to the collator."""

    has_next_sentence, has_sentence_order = True, False

    def __init__(self, examples: int) -> None:
        """Draw ``examples`` rows of 128 tokens."""
        self.ids = np.random.default_rng(0).integers(999, VOCABULARY, (examples, TOKENS))
        self.types = np.arange(TOKENS) >= TOKENS // 2
        self.manifest = {
            "options": {
                "masked_lm_prob": 0.15,
                "max_predictions_per_seq": MASKED,
                "max_seq_length": TOKENS,
                "masking_unit": "token",
            }
        }

    def __getitem__(self, index: int) -> PretrainingExample:
        """Return a row whose masks are drawn when the batch is made."""
        return PretrainingExample(self.ids[index], self.types.astype(int), None, None, index % 2)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """What the run folder of the loop keeps as its configuration."""

    size: str


def loop_overhead(size: str, turns: int, steps: int) -> dict[str, Any]:
    """Return what fit() adds to the bare step, as a share of it: by the clock and in CPU time.

    Medians over ``turns``, filled up to an even number, and the least and most by the clock. Each
    of the two goes first in every other turn; a turn before them warms up.
    """
    logging.getLogger("nlpapp").setLevel(logging.ERROR)
    clock, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = _random_steps(Path(folder), steps)
        batches = [part for _, part in zip(range(steps), _batches(data), strict=False)]
        for turn in range(turns + turns % 2 + 1):
            found = {}
            for way in ("bare", "fit") if turn % 2 else ("fit", "bare"):
                side = Side("nlpapp", size)
                side.step(batches[0], clip=True)
                if way == "bare":
                    found[way] = timed(side, batches, clip=True)[:2]
                else:
                    found[way] = _timed_fit(side, size, data, steps, Path(folder, str(turn)))
            if turn:
                clock.append(found["fit"][0] / found["bare"][0] - 1)
                cpu.append(found["fit"][1] / found["bare"][1] - 1)
    return {
        "loop_overhead": round(statistics.median(clock), 3),
        "loop_overhead_spread": [round(min(clock), 3), round(max(clock), 3)],
        "loop_overhead_cpu_with_start_and_end": round(statistics.median(cpu), 3),
    }


def _random_steps(folder: Path, steps: int) -> ExampleSteps:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    collate: Any = PretrainingCollator(
        RandomPairs(ROWS * steps),  # type: ignore[arg-type]
        load_tokenizer(Path(folder, "vocab.txt")),
        seed=0,
    )
    return ExampleSteps(ROWS * steps, collate, batch_size=ROWS, seed=0)


def _timed_fit(
    side: Side, size: str, data: ExampleSteps, steps: int, folder: Path
) -> tuple[float, float]:
    """Return the seconds of the steps by the clock, and the CPU seconds of all that fit() does."""
    training = TrainingConfig(
        max_steps=steps, checkpoint_every=10**9, tensorboard=False, optimizer=OPTIMIZER
    )
    run = RunFolder.open(folder, config=LoopConfig(size), command="loop", seed=0)
    start = time.process_time()
    metrics = fit(
        run=run,
        model=side.model,
        objective=side.objective,
        steps=data,
        training=training,
        seed=0,
    )
    cpu_seconds = time.process_time() - start
    return metrics["tokens"] / metrics["tokens_per_second"], cpu_seconds


def _batches(data: ExampleSteps) -> Any:
    for step in range(data.num_steps(0)):
        yield data.collate(np.arange(step * ROWS, (step + 1) * ROWS), 0)


def main() -> None:
    """Print one JSON line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini"], choices=SIZES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", choices=SIDES, help="print the peak memory of one side")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(peak_memory(options.measure, options.sizes[0]))
        return
    for size in options.sizes:
        figures: dict[str, Any] = {"model": size, "threads": options.threads}
        if "speed" in options.parts:
            figures |= compare_speed(size, options.turns, options.steps)
        if "peak" in options.parts:
            figures |= peak_share(size, options.steps)
        if "memory" in options.parts:
            figures |= compare_memory(size)
        if "loop" in options.parts:
            figures |= loop_overhead(size, options.turns, LOOP_STEPS.get(size, 20))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
