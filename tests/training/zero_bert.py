"""Run under torchrun on two processes: a BERT that DeepSpeed's ZeRO cuts, beside a whole one.

Accelerate turns DeepSpeed on for GPUs only; here its state says so by hand, and the engine, its
optimizers and their exchanges are DeepSpeed's own, over gloo.
"""

import copy
import json
import os
import sys

import deepspeed
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from nlpapp.errors import CheckpointError, TrainingError
from nlpapp.training import fit, sharding, zero
from nlpapp.training.evaluate import evaluate_means
from tests.training.sharded_bert import (
    CLIP,
    Bert,
    RowLoss,
    check_pretraining_model,
    compare,
    difference,
    evaluation_rows,
    evaluation_steps,
    optimizer_of,
    train,
    train_whole,
    whole_run,
)
from tests.training.toy import train as run_toy
from tests.training.toy_runs import toy

# A kernel for processes of one machine that it would compile at its first use.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def zero_accelerator(*, deepspeed_plugin, **options) -> Accelerator:
    # Weights as small as these would all stay whole.
    deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    accelerator = Accelerator(cpu=True, deepspeed_plugin=deepspeed_plugin)
    state = accelerator.state
    state.distributed_type, state.deepspeed_plugins = DistributedType.DEEPSPEED, deepspeed_plugin
    deepspeed_plugin.set_mixed_precision(options.get("mixed_precision", "no"))
    deepspeed_plugin.select(_from_accelerator_state=True)
    return accelerator


def strategy_of(model, precision: str = "float32") -> zero.ZeroStrategy:
    AcceleratorState._reset_state()
    accelerator = zero_accelerator(deepspeed_plugin=zero.zero_plugin(CLIP))
    copied = sharding.model_to_train(accelerator, model)
    return zero.ZeroStrategy(accelerator, copied, optimizer_of(copied), precision)


def check_stage(folder: str) -> dict:
    model = Bert(0)
    plain = copy.deepcopy(model)
    plain_optimizer = optimizer_of(plain)
    strategy = strategy_of(model)
    found: dict = {"loads_whole": transformers_loads_whole(), "whole": size(plain.parameters())}
    train_whole(plain, plain_optimizer, range(10))
    train(strategy, range(10))
    with strategy.evaluating() as module:
        found["evaluation"] = [
            evaluate_means(m, RowLoss(), evaluation_steps(5, 2))["loss"] for m in (plain, module)
        ]
    train_whole(plain, plain_optimizer, range(10, 20))
    train(strategy, range(10, 20))
    found["held"] = size(getattr(p, "ds_tensor", p) for p in strategy.model.parameters())
    found |= compare(strategy, plain, plain_optimizer, f"{folder}/saved.pt")

    saved = torch.load(f"{folder}/saved.pt", weights_only=True)
    other = Bert(1)
    resumed = strategy_of(other)
    resumed.load_full_weights(saved["weights"])
    resumed.load_full_optimizer(saved["optimizer"])
    train_whole(plain, plain_optimizer, range(20, 24))
    for going_on in (strategy, resumed):
        train(going_on, range(20, 24))
    strategy.copy_weights(model)
    resumed.copy_weights(other)
    found["resumed"] = difference(other.state_dict(), plain.state_dict())
    found["is_bit_equal"] = difference(other.state_dict(), model.state_dict()) == 0
    try:
        resumed.load_full_weights({"bert.x": torch.zeros(1)})
    except CheckpointError as error:
        found["refusal"] = str(error)
    return found


def transformers_loads_whole() -> bool:
    from transformers.integrations import is_deepspeed_zero3_enabled

    return not is_deepspeed_zero3_enabled()


def size(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


def check_bf16() -> float:
    """Return the largest difference of the losses of bf16 here and under torch's autocast."""
    model, losses = Bert(0), []
    plain = copy.deepcopy(model)
    strategy = strategy_of(model, "bf16")
    with torch.no_grad():
        losses.append(strategy.model(evaluation_rows()))
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(plain(evaluation_rows()))
    assert losses[0].dtype == torch.float32
    assert not torch.equal(losses[1], plain(evaluation_rows()))
    return float((losses[0] - losses[1]).abs().max())


def not_finite(folder: str) -> str:
    config = toy(folder, explode_at=3, training={"max_steps": 4, "checkpoint_every": 2})
    try:
        run_toy(config)
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: str, *stages: str) -> None:
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    found = {}
    for stage in stages:
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
        found[stage] = check_stage(folder)
    found["bf16"] = check_bf16()
    found["pretraining"] = check_pretraining_model(strategy_of)
    fit.Accelerator = zero_accelerator
    found["not finite"] = not_finite(f"{folder}/broken")
    trained = whole_run(f"{folder}/run")
    rank = os.environ["RANK"]
    torch.save(trained.state_dict(), f"{folder}/trained-{rank}.pt")
    # It is complete; without its end the same command goes on from what is before it.
    torch.distributed.barrier()
    if rank == "0":
        os.rename(f"{folder}/run/checkpoints/step-12", f"{folder}/step-12")
        os.rename(f"{folder}/run/checkpoints/step-8", f"{folder}/step-8")
    torch.distributed.barrier()
    again = whole_run(f"{folder}/run")
    found["resumed run"] = difference(again.state_dict(), trained.state_dict())
    with open(f"{folder}/found-{rank}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
