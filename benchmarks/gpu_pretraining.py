"""Pretraining on one GPU: sequences a second and model FLOP utilization, beside transformers.

For each size (base, large) and length (128, 512), in one run and on the same batches: nlpapp's step
and that of transformers' BertForPreTraining (sdpa, labels at every position), both as they are and
compiled, nlpapp's with and without ``unpad``, in bf16 with fused AdamW and BERT's dropout. The
utilization is the FLOPs that the task needs over those of the fastest matrix multiplication that
was measured here. One JSON line a measurement, then one a size and length with the ratio of the two
sides' best.

    python scripts/bench_gpu_pretraining.py
    python scripts/bench_gpu_pretraining.py --sizes large --lengths 128 --rows 256 --steps 30
    python scripts/bench_gpu_pretraining.py --dropout 0 --shortest 0.25  # with padding
    python scripts/bench_gpu_pretraining.py --device cpu --sizes tiny  # tries the script itself
"""

import argparse
import gc
import json
import statistics
import time
from typing import Any

import torch
from transformers import BertConfig, BertForPreTraining

from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_cost import bert_training_flops
from nlpapp.models.bert_size import SIZES, BertSizeConfig, bert_config
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.training.device_speed import matmul_peak

VOCABULARY = 30528
"""30,522 filled up to a multiple of 64, as NVIDIA does, for both sides."""
MASKED_SHARE = 0.15
ROWS = {("base", 128): 256, ("base", 512): 64, ("large", 128): 128, ("large", 512): 32}
"""Rows a step; transformers' side, which needs more memory, fits on 80 GB with them."""
PUBLISHED = {("large", 128): 580, ("large", 512): 210}
"""NVIDIA's sequences a second of one A100 in DeepLearningExamples, PyTorch BERT, LAMB, fp16."""
WAYS = (("nlpapp", True), ("nlpapp", False), ("transformers", False))
"""Side, and whether it leaves padding out; nlpapp's else leaves out most of the last layer."""
WARM_UP = 3

Batch = dict[str, torch.Tensor]


def make_batch(rows: int, length: int, shortest: float, device: str) -> Batch:
    """Return rows of random ids, from ``shortest * length`` to ``length`` real tokens each."""
    generator = torch.Generator().manual_seed(rows * length)
    lengths = torch.randint(
        max(4, int(shortest * length)), length + 1, (rows,), generator=generator
    )
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(999, VOCABULARY, (rows, length), generator=generator) * mask
    draws = torch.rand(rows, length, generator=generator) * mask
    draws[:, 0] = 0  # [CLS] is never masked.
    count = max(1, round(MASKED_SHARE * int(lengths.sum())))
    positions = draws.flatten().topk(count).indices.sort().values
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) >= length // 2).long() * mask,
        "masked_positions": positions,
        "masked_labels": torch.randint(999, VOCABULARY, (count,), generator=generator),
        "next_sentence_labels": torch.randint(0, 2, (rows,), generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def make_loss(side: str, bert: BertForPreTraining, *, unpad: bool, compiled: bool) -> Any:
    """Return a function from a batch to the loss of ``side``."""
    if side == "nlpapp":
        model = BertPretrainingModel(bert, unpad=unpad)
        objective = BertPretrainingObjective()
        if compiled:
            model.compile(dynamic=True)
        return lambda batch: objective(model, batch, objective.counts(batch)).loss
    peer: Any = bert
    if compiled:
        peer.compile()

    def loss(batch: Batch) -> torch.Tensor:
        labels = torch.full_like(batch["input_ids"], -100)
        labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        pairs = batch["next_sentence_labels"]
        return peer(**inputs, labels=labels, next_sentence_label=pairs).loss

    return loss


def step_seconds(loss_of: Any, bert: BertForPreTraining, batch: Batch, steps: int) -> list[float]:
    """Return the seconds of each of ``steps`` training steps, those to warm up left out."""
    optimizer = torch.optim.AdamW(bert.parameters(), lr=1e-5, fused=True)
    device = batch["input_ids"].device
    seconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
    if not torch.isfinite(loss):
        raise SystemExit(f"the loss is {loss.item()}; the measurement is void")
    return seconds[WARM_UP:]


def measure(
    way: dict[str, Any], config: BertConfig, batch: Batch, *, steps: int, peak: float
) -> dict[str, Any]:
    """Return the figures of one way (see `make_loss`); the model is made anew and freed again."""
    torch.manual_seed(0)
    torch.compiler.reset()
    device = batch["input_ids"].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    bert = BertForPreTraining(config).train().to(device)
    try:
        median = statistics.median(step_seconds(make_loss(bert=bert, **way), bert, batch, steps))
    except torch.OutOfMemoryError:
        return {**way, "failed": "out of memory"}
    finally:
        del bert
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    rows, tokens = len(batch["input_ids"]), int(batch["attention_mask"].sum())
    flops = bert_training_flops(
        config,
        sequence_length=tokens / rows,
        predictions=batch["masked_labels"].numel() / rows,
    )
    figures = {
        **way,
        "milliseconds": round(1000 * median, 2),
        "sequences_per_second": round(rows / median, 1),
        "tokens_per_row": round(tokens / rows, 2),
        "tokens_per_second": round(tokens / median),
        "model_flops_utilization": round(flops * tokens / median / peak, 4),
    }
    if device.type == "cuda":
        figures["peak_gigabytes"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return figures


def compare(size: str, length: int, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Print the figures of each side, and return the comparison of their best."""
    rows = options.rows or ROWS.get((size, length), 8)
    shape = BertSizeConfig(name=size, dropout=options.dropout)
    config = bert_config(shape, vocab_size=VOCABULARY)
    batch = make_batch(rows, length, options.shortest, options.device)
    best: dict[str, float] = {}
    for side, unpad in WAYS:
        for compiled in (False, True) if options.compile else (False,):
            way = {"side": side, "unpad": unpad, "compiled": compiled}
            figures = measure(way, config, batch, steps=options.steps, peak=peak)
            print(json.dumps({"size": size, "length": length, "rows": rows, **figures}), flush=True)
            best[side] = max(best.get(side, 0.0), figures.get("sequences_per_second", 0.0))
    slower = best["transformers"]
    return {
        "size": size,
        "length": length,
        "best_sequences_per_second": best,
        "speed_ratio": round(best["nlpapp"] / slower, 2) if slower else None,
        "published_a100_sequences_per_second": PUBLISHED.get((size, length)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line for each measurement and each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--sizes", nargs="+", default=["base", "large"], choices=SIZES)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--rows", type=int, help="rows a step (default: by size and length)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--shortest", type=float, default=1.0, help="share of the longest row")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; --device cpu --sizes tiny tries the script")
    peak = matmul_peak(device, torch.bfloat16)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    machine = {"device": name, "torch": torch.__version__, "bf16_peak_teraflops": peak / 1e12}
    print(json.dumps(machine), flush=True)
    for size in options.sizes:
        for length in options.lengths:
            print(json.dumps(compare(size, length, options, peak)), flush=True)


if __name__ == "__main__":
    main()
