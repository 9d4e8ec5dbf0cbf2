"""Tokens a second and peak memory of Transformer-XL: nlpapp against its authors' code.

Both sides train (Adam, clipped gradients, dropout 0.1) and evaluate the same sizes on the same ids,
in turn, in one process; peak memory is that of a process of its own for each side, over what its
imports take. The authors' code (the folder pytorch of kimiyoung/transformer-xl) needs the two lines
mended that tests/golden/README.md names.

    python benchmarks/transformer_xl.py --original <folder pytorch> [--turns 7] [--steps 2]

CPU seconds stand beside the wall clock's: on a machine with other work they vary less.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

VOCABULARY = 10000
SIZES = {  # layers, segment and memory, lanes
    "4 layers, 64 + 64, batch 16": (4, 64, 16),
    "6 layers, 128 + 128, batch 8": (6, 128, 8),
}


class Ours:
    """nlpapp's model and optimizer; ``step`` goes through one segment."""

    def __init__(self, layers: int, length: int, folder: str) -> None:
        from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

        config = TransformerXLConfig(
            vocab_size=VOCABULARY, num_hidden_layers=layers, mem_len=length, dropout=0.1
        )
        self.model = TransformerXLLMHeadModel(config)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2.5e-4, fused=True)
        self.memory = None

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of ``ids`` (B, T + 1) after the memory so far."""
        output = self.model(ids[:, :-1], labels=ids[:, 1:], memory=self.memory)
        self.memory = output.memory
        return output.loss


class Theirs:
    """The authors' model as their train.py makes it."""

    def __init__(self, layers: int, length: int, folder: str) -> None:
        sys.path[:0] = [folder, f"{folder}/utils"]
        from mem_transformer import MemTransformerLM

        lengths = {"tgt_len": length, "ext_len": 0, "mem_len": length}
        self.model = MemTransformerLM(
            VOCABULARY, layers, 4, 256, 64, 1024, dropout=0.1, dropatt=0.0, **lengths
        )
        for parameter in self.model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2.5e-4)
        self.memory = ()

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of ``ids`` (B, T + 1) after the memory so far."""
        columns = ids.t().contiguous()
        loss, *self.memory = self.model(columns[:-1], columns[1:], *self.memory)
        return loss.mean()


def run(side: Ours | Theirs, ids: torch.Tensor, steps: int, training: bool) -> tuple[float, float]:
    """Return the wall clock's and the process's seconds of ``steps`` segments."""
    side.model.train(training)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        with torch.set_grad_enabled(training):
            loss = side.loss(ids)
        if training:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(side.model.parameters(), 0.25)
            side.optimizer.step()
            side.optimizer.zero_grad()
    return time.perf_counter() - start, time.process_time() - cpu


def peak(kind: str, name: str, folder: str) -> float:
    """Return the MB that three training steps need, in a process of its own."""
    command = [sys.executable, __file__, "--original", folder, "--peak", kind, name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(kind: str, name: str, folder: str) -> None:
    """Print the growth of this process's peak resident memory by three training steps, in MB."""
    layers, length, lanes = SIZES[name]
    import nlpapp.models  # noqa: F401 - for both sides, so that its imports do not count

    before = peak_mb()
    side = {"ours": Ours, "theirs": Theirs}[kind](layers, length, folder)
    run(side, torch.randint(0, VOCABULARY, (lanes, length + 1)), 3, True)
    print(peak_mb() - before)


def peak_mb() -> float:
    """Return this program's peak resident memory; getrusage would tell a parent's before it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Print a JSON line for each size, in training and in evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", required=True)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "SIZE"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(*options.peak, options.original)
        return
    for name, (layers, length, lanes) in SIZES.items():
        sides = [kind(layers, length, options.original) for kind in (Ours, Theirs)]
        ids = torch.randint(0, VOCABULARY, (lanes, length + 1))
        for training in (True, False):
            ratios = []
            for turn in range(options.turns + 1):
                ours, theirs = (run(side, ids, options.steps, training) for side in sides)
                if turn:  # the first turn warms up
                    ratios.append((theirs[0] / ours[0], theirs[1] / ours[1]))
            wall, cpu = (
                round(statistics.median(column), 2) for column in zip(*ratios, strict=True)
            )
            line = {"size": name, "training": training, "speed_ratio": wall, "cpu_ratio": cpu}
            print(json.dumps(line), flush=True)
        mine, other = (peak(kind, name, options.original) for kind in ("ours", "theirs"))
        line = {"size": name, "peak_mb": round(mine), "original_mb": round(other)}
        print(json.dumps(line | {"ratio": round(mine / other, 2)}), flush=True)


if __name__ == "__main__":
    main()
