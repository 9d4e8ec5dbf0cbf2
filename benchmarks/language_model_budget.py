"""What an equal time of training on WikiText-2 gives: nlpapp, without memory, the authors' code.

Each side is a process with one thread on a processor of its own, which trains for --hours by the
clock: reading the text and evaluations on the way are in that time, the last evaluation is not.

    ours             configs/train-lm/wikitext2.yaml, 64 + 64 tokens; an hour is many more passes
                     over the text than its three, so its dropout is 0.2
    without-memory   the same with size.mem_len 0
    original         the authors' model, data set and optimizer, 64 + 64 tokens, with the settings
                     of their train.py: Adam, 2.5e-4, cosine to 0, gradients clipped at 0.25,
                     weights of 0.02, all words in one softmax; as for PTB a dropout of 0.1
    characters, bytes   configs/train-lm/characters.yaml, and with bytes: bits per character

Learning rates follow the clock on all sides. Validation is by each side's own evaluation; theirs
leaves out the tokens that do not fill its ten lanes. The authors' code (the folder pytorch of
kimiyoung/transformer-xl) needs the two lines mended that tests/golden/README.md names.

    python benchmarks/language_model_budget.py --data <folder of wiki.*.tokens> \
        --original <folder pytorch> [--hours 1] [--cores 0 1] [--sides ours original]

Prints a JSON line for each side: a stopped run goes on where it was, but for the authors' side.
"""

import argparse
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

CONFIGS = Path(__file__).parents[1] / "configs" / "train-lm"
SPLITS = ("train", "valid", "test")
MORE_DROPOUT = ["--size.dropout", "0.2"]
OURS = {
    "ours": ("wikitext2", MORE_DROPOUT),
    "without-memory": ("wikitext2", [*MORE_DROPOUT, "--size.mem_len", "0"]),
    "characters": ("characters", []),
    "bytes": ("characters", ["--vocabulary", "bytes"]),
}
SIDES = ("ours", "original", "without-memory", "characters", "bytes")
LENGTH, LANES, EVALUATION_LANES = 64, 16, 10
MANY_EPOCHS = "1000"
"""So that the time ends the run, and not the text."""
SHOWN = (
    *("valid_loss", "valid_perplexity", "valid_perplexity_without_memory"),
    *("valid_bits_per_character", "valid_bits_per_byte", "valid_predicted_tokens"),
    *("steps", "tokens", "tokens_per_second", "best_step", "train_seconds"),
)


def train_original(folder: str, data: str, hours: float, output: Path) -> None:
    """Train the authors' model; write its figures to metrics.json in ``output``."""
    start = time.perf_counter()
    sys.path[:0] = [folder, f"{folder}/utils"]
    from data_utils import Corpus
    from mem_transformer import MemTransformerLM

    torch.manual_seed(1111)
    with tempfile.TemporaryDirectory() as texts:
        for split in SPLITS:
            (Path(texts) / f"{split}.txt").symlink_to(Path(data) / f"wiki.{split}.tokens")
        corpus = Corpus(texts, "wt2", special=["<eos>"], lower_case=False)
    lengths = {"tgt_len": LENGTH, "ext_len": 0, "mem_len": LENGTH}
    model = MemTransformerLM(
        *(len(corpus.vocab), 4, 4, 256, 64, 1024), dropout=0.1, dropatt=0.0, **lengths
    )
    initialise(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    scored = []
    steps = tokens = epoch = 0
    memory: Any = ()

    def share_of_time() -> float:
        return (time.perf_counter() - start) / (3600 * hours)

    while (share := share_of_time()) < 1:
        for inputs, targets, _ in corpus.get_iterator("train", LANES, LENGTH):
            optimizer.param_groups[0]["lr"] = 2.5e-4 * 0.5 * (1 + math.cos(math.pi * share))
            model.zero_grad()
            loss, *memory = model(inputs, targets, *memory)
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            steps, tokens = steps + 1, tokens + targets.numel()
            if (share := share_of_time()) >= 1:
                break
        memory, epoch = (), epoch + 1
        seconds = time.perf_counter() - start
        scored.append(evaluate_original(model, corpus))
    metrics = {"valid_loss": min(scored), "valid_perplexity": math.exp(min(scored))}
    metrics |= {"steps": steps, "tokens": tokens, "epochs": epoch, "train_seconds": seconds}
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").write_text(json.dumps(metrics))


def initialise(model: torch.nn.Module) -> None:
    """Draw the weights as the authors' train.py does."""
    for name, parameter in model.named_parameters():
        is_norm = "layer_norm" in name and name.endswith("weight")
        if parameter.dim() > 1 or is_norm:
            torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.02)
        else:
            torch.nn.init.zeros_(parameter)


@torch.no_grad()
def evaluate_original(model: Any, corpus: Any) -> float:
    """Return the mean loss of the validation text, in nats."""
    model.eval()
    total, count, memory = 0.0, 0, ()
    for inputs, targets, length in corpus.get_iterator("valid", EVALUATION_LANES, LENGTH):
        loss, *memory = model(inputs, targets, *memory)
        total, count = total + length * loss.mean().item(), count + length
    model.train()
    return total / count


def command_of(side: str, options: argparse.Namespace, output: Path) -> list[str]:
    """Return the command that trains ``side`` and leaves metrics.json in ``output``."""
    if side == "original":
        if options.original is None:
            raise SystemExit("--sides original needs --original, the folder of the authors' code.")
        given = [*("--data", options.data), *("--original", options.original)]
        given += [*("--hours", str(options.hours)), *("--train-original", str(output))]
        return [sys.executable, __file__, *given]
    config, changes = OURS[side]
    words = ["--config", str(CONFIGS / f"{config}.yaml"), "--output_dir", str(output), *changes]
    for split in ("train", "valid"):
        words += [f"--{split}_file", str(Path(options.data) / f"wiki.{split}.tokens")]
    words += ["--test_file", "null", "--training.num_epochs", MANY_EPOCHS]
    words += ["--training.max_hours", str(options.hours), *options.set]
    return [sys.executable, "-m", "nlpapp", "train-lm", *words]


def measure(side: str, core: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train ``side`` on processor ``core``; return its figures."""
    output, console = (Path(options.output) / name for name in (side, f"{side}.log"))
    console.parent.mkdir(parents=True, exist_ok=True)
    with open(console, "ab") as log:
        process = subprocess.Popen(
            command_of(side, options, output),
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=log,
            stderr=log,
        )
        os.sched_setaffinity(process.pid, {core})
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return {"side": side, "failed": f"see {console}"}
    metrics = json.loads((output / "metrics.json").read_text())
    figures = {name: metrics[name] for name in SHOWN if name in metrics}
    return {"side": side, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), **figures}


def results(
    sides: list[str], cores: list[int], one: Callable[[str, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of ``sides`` in their order; at most one runs on each of ``cores``."""
    free: queue.Queue[int] = queue.Queue()
    for core in cores:
        free.put(core)

    def on_a_free_core(side: str) -> dict[str, Any]:
        core = free.get()
        try:
            return one(side, core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        yield from pool.map(on_a_free_core, sides)


def main() -> None:
    """Print one JSON line for each side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of wiki.{train,valid,test}.tokens")
    parser.add_argument("--original", help="folder pytorch of the authors' code")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--cores", type=int, nargs="+", default=[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES[:-1]))
    parser.add_argument("--output", default="runs/language-model-budget")
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="options of train-lm")
    parser.add_argument("--train-original", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_original:
        output = Path(options.train_original)
        train_original(options.original, options.data, options.hours, output)
        return
    for figures in results(
        options.sides, options.cores, lambda side, core: measure(side, core, options)
    ):
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
