"""Optimizers: AdamW with decoupled weight decay on weight matrices only."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    learning_rate: float = 1e-4
    """Peak learning rate, reached after warm-up."""
    weight_decay: float = 0.01
    """Decoupled decay, as a share of the learning rate; biases and norms are not decayed."""
    beta1: float = 0.9
    """Decay rate of the mean of gradients."""
    beta2: float = 0.999
    """Decay rate of the mean of squared gradients."""
    epsilon: float = 1e-6
    """Added to the denominator (1e-6 as in the original BERT)."""

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be 0 or more")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(
                f"beta1 and beta2 are {self.beta1}, {self.beta2}; they must be in [0, 1)"
            )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices decay, biases and norms do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trainable parameters of ``model``."""
    groups = [group for group in parameter_groups(model, config.weight_decay) if group["params"]]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=all(p.device.type in ("cpu", "cuda") for g in groups for p in g["params"]),
    )
