"""Training tokens a second: nlpapp against transformers' BertForPreTraining on the same batches.

Both sides train the same weights with AdamW on the same masked rows, in turn, in one process. The
only difference is where the vocabulary is projected: at masked positions here, at every position
there.

    python benchmarks/pretraining_step.py [--turns 5] [--steps 6] [--threads 2]
"""

import argparse
import json
import statistics
import time

import torch
from transformers import BertForPreTraining

from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_size import SIZES, BertSizeConfig, bert_config
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer

ROWS, TOKENS, VOCABULARY, MASKED = 32, 128, 30522, 20


def make_batch(seed: int) -> dict[str, torch.Tensor]:
    """Return one padded batch of random ids with 20 masked positions a row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(999, VOCABULARY, (ROWS, TOKENS), generator=generator)
    draws = [torch.randperm(TOKENS, generator=generator)[:MASKED] for _ in range(ROWS)]
    columns = torch.stack(draws)
    positions = (columns.sort().values + torch.arange(ROWS)[:, None] * TOKENS).flatten()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (torch.arange(TOKENS) >= TOKENS // 2).long().expand(ROWS, TOKENS),
        "masked_positions": positions,
        "masked_labels": torch.randint(999, VOCABULARY, (len(positions),), generator=generator),
        "next_sentence_labels": torch.randint(0, 2, (ROWS,), generator=generator),
    }


def ours(model: BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return nlpapp's loss."""
    objective = BertPretrainingObjective()
    return objective(BertPretrainingModel(model), batch, objective.counts(batch)).loss


def theirs(model: BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss of transformers' own forward, with labels at every position."""
    labels = torch.full((ROWS, TOKENS), -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    output = model(**inputs, labels=labels, next_sentence_label=batch["next_sentence_labels"])
    return output.loss


def seconds(loss_of, model, optimizer, batches) -> tuple[float, list[float]]:
    """Return the time and the losses of one training step a batch."""
    losses = []
    start = time.perf_counter()
    for batch in batches:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.perf_counter() - start, losses


def compare(name: str, turns: int, steps: int) -> dict[str, object]:
    """Return medians over ``turns`` for the BERT called ``name``."""
    layers, hidden, heads = SIZES[name]
    size = BertSizeConfig(num_layers=layers, hidden_size=hidden, num_heads=heads, dropout=0.0)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = BertForPreTraining(bert_config(size, vocab_size=VOCABULARY)).train()
        models.append((model, build_optimizer(model, OptimizerConfig())))
    times: dict[str, list[float]] = {"nlpapp": [], "transformers": []}
    difference = 0.0
    for turn in range(turns + 1):
        batches = [make_batch(turn * steps + step) for step in range(steps)]
        results = [
            seconds(loss_of, *pair, batches)
            for loss_of, pair in zip((ours, theirs), models, strict=True)
        ]
        pairs = zip(results[0][1], results[1][1], strict=True)
        difference = max([difference, *(abs(mine - other) for mine, other in pairs)])
        if turn:  # the first turn warms up
            times["nlpapp"].append(results[0][0])
            times["transformers"].append(results[1][0])
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    return {"model": name, "speed_ratio": round(ratio, 2), "largest_loss_difference": difference}


def main() -> None:
    """Print one JSON line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ("tiny", "mini"):
        print(json.dumps(compare(name, options.turns, options.steps)), flush=True)


if __name__ == "__main__":
    main()
