"""Run under torchrun on two processes: a BERT that FSDP2 cuts in pieces, beside a whole one.

Accelerate turns FSDP on for GPUs only; here its state says so by hand, and all that follows
(wrapping, the optimizer's parameters, clipping, gathering) is what it does on GPUs, over gloo.
"""

import copy
import json
import os
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import BertConfig, BertForPreTraining

from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import CheckpointError
from nlpapp.models.bert import BertPretrainingModel
from nlpapp.objectives.step import StepOutput
from nlpapp.training import fit, sharding
from nlpapp.training.evaluate import evaluate_means, predict_rows
from tests.training.toy import ToyObjective, make_steps
from tests.training.toy import train as run_toy
from tests.training.toy_runs import toy

LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What ``accelerate launch --config_file configs/accelerate/fsdp.yaml`` sets."""
CONFIG = BertConfig(
    vocab_size=51,  # Odd sizes: the pieces of two processes are not alike.
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=17,
    max_position_embeddings=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
ROWS = torch.randint(0, 51, (40, 8, 8), generator=torch.Generator().manual_seed(1))
"""(steps, B, S) token ids."""
CLIP = 0.5
"""Largest norm of the gradients; theirs is larger."""


class Bert(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.bert = BertForPreTraining(CONFIG)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return a loss for each row: predict the first token from the others, and a pair."""
        outputs = self.bert(input_ids)
        loss = nn.functional.cross_entropy(
            outputs.prediction_logits[:, 1], input_ids[:, 0], reduction="none"
        )
        return loss + outputs.seq_relationship_logits.logsumexp(-1)


class RowLoss:
    def counts(self, batch):
        return {"rows": float(len(batch["input_ids"]))}

    def __call__(self, model, batch, counts, carry=None):
        losses = model(batch["input_ids"])
        return StepOutput(loss=losses.sum(), metrics={"loss": (losses.sum(), len(losses))})

    def summary(self, means):
        return means


def sharding_accelerator(**options) -> Accelerator:
    accelerator = Accelerator(cpu=True, mixed_precision=options.get("mixed_precision"))
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = sharding.sharding_plugin("float32")
    return accelerator


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    # The gradient of a key's bias is zero but for rounding, which a tiny eps would blow up.
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, eps=1e-6)


def train(strategy: sharding.Strategy, steps) -> None:
    """Take two micro-batches a step, of this process's share of the rows."""
    processes, rank = strategy.accelerator.num_processes, strategy.accelerator.process_index
    for rows in ROWS[list(steps)]:
        own = rows[rank::processes]
        for index, part in enumerate(own.split(len(own) // 2)):
            with strategy.micro_batch(last=index == 1):
                strategy.backward(strategy.model(part).sum() / len(rows) * processes)
        strategy.clip(CLIP)
        strategy.update()


def train_whole(model, optimizer, steps) -> None:
    """Do the same in plain torch, the whole step at once."""
    for rows in ROWS[list(steps)]:
        (model(rows).sum() / len(rows)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()


def difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def states(optimizer_state: dict) -> dict:
    """Return the tensors of a state_dict by index and name."""
    return {
        f"{index} {name}": value
        for index, entry in optimizer_state["state"].items()
        for name, value in entry.items()
    }


def evaluation_steps(size: int, batch_size: int) -> ExampleSteps:
    def collate(indices, epoch):
        return {"input_ids": ROWS[0][torch.as_tensor(indices)]}

    return ExampleSteps(size, collate, batch_size=batch_size, shuffle=False)


def whole_run(folder: str, **changes) -> nn.Module:
    """Train the toy job through the engine, with evaluations, the best weights and checkpoints."""

    def evaluate(model):
        return evaluate_means(model, ToyObjective(), make_steps(9, shuffle=False))

    training = {"evaluate_every": 4, "max_steps": 12, "keep_checkpoints": 9} | changes
    config = toy(folder, training=training)
    return run_toy(config, evaluate, best_metric="loss", greater_is_better=False)[0]


def compare(strategy, plain, plain_optimizer, path: str) -> dict:
    """Gather what ``strategy`` holds, save it, and return how far it is from the plain training."""
    weights, state = strategy.full_weights(), strategy.full_optimizer()
    found: dict = {"elsewhere": [len(weights), len(state)]}
    if strategy.accelerator.is_main_process:
        plain_state = plain_optimizer.state_dict()
        whole = {name: value.detach() for name, value in sharding.named_weights(plain).items()}
        found["weights"] = difference(weights, whole)
        found["optimizer"] = difference(states(state), states(plain_state))
        found["groups"] = state["param_groups"] == plain_state["param_groups"]
        torch.save({"weights": weights, "optimizer": state}, path)
    strategy.accelerator.wait_for_everyone()
    return found


def check_pretraining_model(strategy_of) -> float:
    """Train the model of ``nlpapp pretrain``, whose loss reads weights outside their modules.

    Return how far losses and weights come from those of a whole model, at most.
    """
    model = BertPretrainingModel(Bert(0).bert)
    plain = copy.deepcopy(model)
    plain_optimizer = optimizer_of(plain)
    strategy = strategy_of(model)
    found = []
    for _ in range(3):
        with strategy.micro_batch(last=True):
            loss = pretraining_loss(strategy.model)
            strategy.backward(loss)
        strategy.clip(CLIP)
        strategy.update()
        plain_loss = pretraining_loss(plain)
        plain_loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), CLIP)
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        found.append(abs(loss.item() - plain_loss.item()))
    strategy.copy_weights(model)
    return max(*found, difference(model.state_dict(), plain.state_dict()))


def pretraining_loss(model) -> torch.Tensor:
    ids = evaluation_rows()
    places = torch.arange(3, ids.numel(), 5)
    loss, _, pairs = model(
        ids, torch.ones_like(ids), torch.zeros_like(ids), places, ids.flatten()[places]
    )
    return loss / len(places) + pairs.logsumexp(-1).mean()


def evaluation_rows() -> torch.Tensor:
    (batch,) = evaluation_steps(8, 8).micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    return batch["input_ids"]


def main(folder: str) -> None:
    os.environ.update(LAUNCHED)
    accelerator = sharding_accelerator()
    rank = accelerator.process_index
    model = Bert(0)
    plain = copy.deepcopy(model)
    plain_optimizer = optimizer_of(plain)
    copied = sharding.model_to_train(accelerator, model)
    sharded = sharding.Strategy(accelerator, copied, optimizer_of(copied))
    found = {"is_sharded": sharding.is_sharded(sharded.model), "kept_whole": copied is not model}
    heads = sharded.model.bert
    found["tied"] = heads.cls.predictions.decoder.weight is heads.get_input_embeddings().weight
    found["held"] = sum(p.to_local().numel() for p in sharded.model.parameters())
    found["whole"] = sum(p.numel() for p in plain.parameters())

    train_whole(plain, plain_optimizer, range(20))
    train(sharded, range(20))
    # Five examples in batches of two: the second process has no share of the last one.
    models = (plain, sharded.model)
    found["evaluation"] = [
        evaluate_means(m, RowLoss(), evaluation_steps(5, 2))["loss"] for m in models
    ]
    rows = [predict_rows(m, lambda m, b: m(b["input_ids"]), evaluation_steps(5, 2)) for m in models]
    found["rows"] = float(abs(rows[0] - rows[1]).max())
    # After an evaluation the whole weights of the root are still there.
    found |= compare(sharded, plain, plain_optimizer, f"{folder}/saved.pt")

    saved = torch.load(f"{folder}/saved.pt", weights_only=True, mmap=True)
    other = sharding.model_to_train(accelerator, Bert(1))
    resumed = sharding.Strategy(accelerator, other, optimizer_of(other))
    resumed.load_full_weights(saved["weights"])
    resumed.load_full_optimizer(saved["optimizer"])
    train_whole(plain, plain_optimizer, range(20, 30))
    train(resumed, range(20, 30))
    resumed.copy_weights(model)
    found["resumed"] = difference(model.state_dict(), plain.state_dict())
    try:
        resumed.load_full_weights({"bert.x": torch.zeros(1)})
    except CheckpointError as error:
        found["refusal"] = str(error)

    def strategy_of(model):
        copied = sharding.model_to_train(accelerator, model)
        return sharding.Strategy(accelerator, copied, optimizer_of(copied))

    found["pretraining"] = check_pretraining_model(strategy_of)
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"
    fit.Accelerator = sharding_accelerator
    trained = whole_run(f"{folder}/run")
    found["plain_result"] = [type(p).__name__ for p in trained.parameters()]
    torch.save(trained.state_dict(), f"{folder}/trained-{rank}.pt")
    with open(f"{folder}/found-{rank}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
