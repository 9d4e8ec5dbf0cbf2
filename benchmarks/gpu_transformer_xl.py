"""Training of a WikiText-103-sized Transformer-XL on one GPU: nlpapp beside its authors' code.

The model of their run_wt103_base.sh: 16 layers, 410 wide, 10 heads, 267,735 words in an adaptive
softmax, 150 + 150 tokens, 60 lanes; Adam, clipped gradients, dropout 0.1, random ids. nlpapp in
bf16 as it is and compiled, their code in float32 (TF32) and in bf16 where it can; one JSON line a
way, then the ratio of the best two. The authors' code (the folder pytorch of
kimiyoung/transformer-xl) needs the two lines mended that tests/golden/README.md names.

    python benchmarks/gpu_transformer_xl.py --original <folder pytorch> [--steps 20] [--lanes 60]
    python benchmarks/gpu_transformer_xl.py  # nlpapp alone

What 20 minutes of such a GPU give on WikiText-2 tells train-lm with configs/train-lm/wikitext2.yaml
and --training.max_hours 0.333 --training.num_epochs 1000 --size.dropout 0.2.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.transformer_xl import Ours, Size, Theirs

WIKITEXT_103 = Size(
    16, 150, 60, width=410, heads=10, inner=2100, vocabulary=267735, cutoffs=(20000, 40000, 200000)
)
PUBLISHED = 59961
"""NVIDIA's tokens a second of one A100 in DeepLearningExamples, Transformer-XL base, PyTorch."""
WARM_UP = 5
"""Steps before the clock starts: the memory fills, and what is compiled is compiled."""
WAYS = (
    ("nlpapp", "bf16", False),
    ("nlpapp", "bf16", True),
    ("original", "float32", False),
    ("original", "bf16", False),
)
"""Side, precision, compiled."""


def measure(
    way: tuple[str, str, bool], size: Size, folder: str, *, steps: int, device: str
) -> dict[str, Any]:
    """Return tokens a second of ``steps`` training steps, or why there are none."""
    name, precision, compiled = way
    line: dict[str, Any] = {"side": name, "precision": precision, "compiled": compiled}
    try:
        side = (Ours if name == "nlpapp" else Theirs)(size, folder, device)
        parameters = sum(parameter.numel() for parameter in side.model.parameters())
        if compiled:
            side.model = torch.compile(side.model)
        ids = size.draw().to(device)
        for number in range(WARM_UP + steps):
            if number == WARM_UP:
                wait(device)
                start = time.perf_counter()
            train_step(side, ids, precision, device)
        wait(device)
        speed = steps * size.lanes * size.length / (time.perf_counter() - start)
    except RuntimeError as error:  # of memory, or what autocast cannot do in their code
        return line | {"failed": str(error).splitlines()[0]}
    line |= {"parameters": parameters, "tokens_per_second": round(speed)}
    if device != "cpu":
        line["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        torch.cuda.reset_peak_memory_stats()
    return line


def train_step(side: Any, ids: torch.Tensor, precision: str, device: str) -> None:
    """Do one step; forward pass and loss in ``precision``."""
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        loss = side.loss(ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(side.model.parameters(), 0.25)
    side.optimizer.step()
    side.optimizer.zero_grad()


def wait(device: str) -> None:
    """Wait for all that the device has been told to do."""
    if device != "cpu":
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for the machine, each way, and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", help="folder pytorch of the authors' code")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lanes", type=int, default=WIKITEXT_103.lanes)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; --device cpu only tries the script")
    torch.set_float32_matmul_precision("high")
    cpu = options.device == "cpu"
    machine = "cpu" if cpu else torch.cuda.get_device_name()
    print(json.dumps({"device": machine, "torch": torch.__version__, "published": PUBLISHED}))
    size, best = replace(WIKITEXT_103, lanes=options.lanes), {"nlpapp": 0, "original": 0}
    for way in WAYS:
        name, _, compiled = way
        if (name == "original" and not options.original) or (compiled and options.no_compile):
            continue
        line = measure(way, size, str(options.original), steps=options.steps, device=options.device)
        best[name] = max(best[name], line.get("tokens_per_second", 0))
        print(json.dumps(line), flush=True)
    if best["original"]:
        ratio = round(best["nlpapp"] / best["original"], 2)
        print(json.dumps({"best_tokens_per_second": best, "speed_ratio": ratio}))


if __name__ == "__main__":
    main()
