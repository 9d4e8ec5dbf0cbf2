"""Optimizers: AdamW and LAMB, with weight decay on matrices only and rates by depth."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nlpapp.errors import ConfigError, nearest
from nlpapp.training.lamb import Lamb

OPTIMIZERS = ("adamw", "lamb")
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}
"""Where torch has AdamW as one kernel."""
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
"""The number of the layer in a parameter's name: BERT and its kin, ModernBERT, DistilBERT, GPT."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) or LAMB (You et al. 2019)."""

    name: str = "adamw"
    """adamw; or lamb, for batches of thousands (NVIDIA's BERT: rate 6e-3, beta2 0.999)."""
    learning_rate: float = 1e-4
    """Peak learning rate, reached after warm-up."""
    layer_decay: float = 1.0
    """Each layer learns at this share of the rate of the one above it, the embeddings at that of
    the lowest once more, heads at the full rate (ELECTRA's fine-tuning: 0.8); 1: all alike."""
    weight_decay: float = 0.01
    """Decoupled decay, as a share of the learning rate; biases and norms are not decayed."""
    beta1: float = 0.9
    """Decay rate of the mean of gradients."""
    beta2: float = 0.999
    """Decay rate of the mean of squared gradients."""
    epsilon: float = 1e-6
    """Added to the denominator (1e-6 as in the original BERT)."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer.name is '{self.name}'; expected {' or '.join(OPTIMIZERS)}."
                + nearest(self.name, OPTIMIZERS)
            )
        for key in ("learning_rate", "weight_decay", "epsilon"):
            value = getattr(self, key)
            if not value >= 0:  # Also where it is not a number.
                raise ConfigError(f"optimizer.{key} is {value}; it must be 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"optimizer.layer_decay is {self.layer_decay}; it must be over 0 and at most 1"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(
                f"beta1 and beta2 are {self.beta1}, {self.beta2}; they must be in [0, 1)"
            )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split the trainable parameters by their rate, and into matrices, which decay, and the rest.

    Returns:
        Groups with "params", "lr" and "weight_decay", lowest rate first; none is empty. "adapt" is
        for LAMB: biases and norms are not scaled to their own norms.

    Raises:
        ConfigError: ``layer_decay`` is on and the names of ``model`` do not tell its layers.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    factors = [1.0] * len(trainable)
    if config.layer_decay < 1:
        factors = _layer_factors([name for name, _ in trainable], config.layer_decay, model)
    groups = []
    for factor in sorted(set(factors)):
        members = [p for (_, p), own in zip(trainable, factors, strict=True) if own == factor]
        for is_matrix in (True, False):
            groups.append(
                {
                    "params": [p for p in members if (p.ndim >= 2) == is_matrix],
                    "lr": factor * config.learning_rate,
                    "weight_decay": config.weight_decay if is_matrix else 0.0,
                    "adapt": is_matrix,
                }
            )
    return [group for group in groups if group["params"]]


def _layer_factors(names: list[str], decay: float, model: nn.Module) -> list[float]:
    """Return the share of the rate for each parameter (Clark et al. 2020, arXiv 2003.10555)."""
    layers = [int(found[1]) if (found := LAYER.search(name)) else None for name in names]
    # The depth of the whole model, also where its lowest layers are frozen.
    everything = (LAYER.search(name) for name, _ in model.named_parameters())
    depth = max((int(found[1]) + 1 for found in everything if found), default=0)
    if depth < 2:
        raise ConfigError(
            f"optimizer.layer_decay is {decay}, but {type(model).__name__} has no stack of layers "
            "that its parameters' names tell apart; set optimizer.layer_decay to 1"
        )
    factors = []
    for name, layer in zip(names, layers, strict=True):
        above = depth - layer if layer is not None else depth + 1 if "embedding" in name else 0
        factors.append(decay**above)
    return factors


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the trainable parameters of ``model``, which is on its device.

    Raises:
        ConfigError: see `parameter_groups`.
    """
    groups = parameter_groups(model, config)
    betas, eps = (config.beta1, config.beta2), config.epsilon
    if config.name == "lamb":
        return Lamb(groups, lr=config.learning_rate, betas=betas, eps=eps)
    fused = all(p.device.type in FUSED_DEVICES for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=eps, fused=fused)
