"""Runs of the toy job, and what is compared between them."""

import os
import subprocess
import sys
from dataclasses import replace

import torch

from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.training.toy import ToyConfig

QUICK = TrainingConfig(
    max_steps=24, log_every=5, tensorboard=False, optimizer=OptimizerConfig(learning_rate=0.01)
)
STEPS_PER_EPOCH = 9  # 70 examples in batches of 8


def toy(folder, **changes) -> ToyConfig:
    training = replace(QUICK, **changes.pop("training", {}))
    return ToyConfig(output_dir=str(folder), training=training, **changes)


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_identical(first, second) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class StopAt:
    """An evaluation that interrupts the run, as a kill would, when it is called the n-th time."""

    def __init__(self, call: int, action) -> None:
        self.call, self.action, self.calls = call, action, 0

    def __call__(self, model) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return {"score": float(self.calls)}


def kill() -> None:
    raise KeyboardInterrupt


def run_processes(folder, processes: int, *options: str) -> dict:
    weights = folder.with_suffix(".pt")
    command = [sys.executable, "-m", "tests.training.toy", str(folder), str(weights), *options]
    if processes > 1:
        command[1:2] = [
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={processes}",
            "--standalone",
            "-m",
        ]
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"processes {processes}" in result.stdout
    return torch.load(weights, weights_only=True)
