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
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Size:
    """A model, and the segments it reads."""

    layers: int
    length: int
    """Tokens of a segment, and positions of memory."""
    lanes: int
    width: int = 256
    heads: int = 4
    inner: int = 1024
    vocabulary: int = 10000
    cutoffs: tuple[int, ...] = ()

    def draw(self) -> torch.Tensor:
        """Return random ids (B, T + 1)."""
        return torch.randint(0, self.vocabulary, (self.lanes, self.length + 1))


SIZES = {
    "4 layers, 64 + 64, batch 16": Size(4, 64, 16),
    "6 layers, 128 + 128, batch 8": Size(6, 128, 8),
}


class Ours:
    """nlpapp's model and optimizer; ``loss`` goes through one segment."""

    def __init__(self, size: Size, folder: str, device: str = "cpu") -> None:
        from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

        config = TransformerXLConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.inner,
            mem_len=size.length,
            cutoffs=list(size.cutoffs),
            dropout=0.1,
        )
        self.model = TransformerXLLMHeadModel(config).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2.5e-4, fused=True)
        self.memory = None

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of ``ids`` (B, T + 1) after the memory so far."""
        output = self.model(ids[:, :-1], labels=ids[:, 1:], memory=self.memory)
        self.memory = output.memory
        return output.loss


class Theirs:
    """The authors' model as their train.py makes it."""

    def __init__(self, size: Size, folder: str, device: str = "cpu") -> None:
        sys.path[:0] = [folder, f"{folder}/utils"]
        from mem_transformer import MemTransformerLM

        options = {"tgt_len": size.length, "ext_len": 0, "mem_len": size.length}
        if size.cutoffs:
            tied = [False] + [True] * len(size.cutoffs)  # as train.py has it
            options |= {"adapt_inp": True, "cutoffs": list(size.cutoffs), "tie_projs": tied}
        shape = (size.heads, size.width, size.width // size.heads, size.inner)
        self.model = MemTransformerLM(
            size.vocabulary, size.layers, *shape, dropout=0.1, dropatt=0.0, **options
        ).to(device)
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
    size = SIZES[name]
    import nlpapp.models  # noqa: F401 - for both sides, so that its imports do not count

    before = peak_mb()
    side = {"ours": Ours, "theirs": Theirs}[kind](size, folder)
    run(side, size.draw(), 3, True)
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
    for name, size in SIZES.items():
        sides = [kind(size, options.original) for kind in (Ours, Theirs)]
        ids = size.draw()
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
