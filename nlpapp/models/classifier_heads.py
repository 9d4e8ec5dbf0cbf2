"""Changes to a pretrained classifier before it is fine-tuned: new top layers, sampled dropout."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nlpapp.errors import ConfigError

LAYER_LISTS = {"layer", "layers", "h", "blocks"}
"""What models call the list of their layers."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How the classifier differs from the pretrained model at its top; off by default."""

    multi_sample_dropout: int = 0
    """Dropout masks of the head for each example, whose losses are averaged (Inoue 2019, arXiv
    1905.09788; 4 to 8); 0: one, as usual."""
    reinitialize_layers: int = 0
    """Top layers that start from random weights, with the pooler (Zhang et al. 2021, arXiv
    2006.05987; 1 to 6 of 24, for small sets)."""


def change_head(model: PreTrainedModel, config: HeadConfig) -> None:
    """Change ``model`` as ``config`` says.

    Raises:
        ConfigError: the model has not the layers or the dropout for it.
    """
    reinitialize_top_layers(model, config.reinitialize_layers)
    sample_dropout(model, config.multi_sample_dropout)


def reinitialize_top_layers(model: PreTrainedModel, count: int) -> None:
    """Give the top ``count`` layers, and the pooler, random weights again.

    The top of a pretrained model is bound to what it was pretrained for; starting it anew makes
    fine-tuning on small sets steadier (Zhang et al. 2021, arXiv 2006.05987).

    Args:
        model: a classifier of transformers; what is random comes from torch's generator.
        count: layers; 0 changes nothing.

    Raises:
        ConfigError: the model has fewer layers, or none of its own for each depth (ALBERT).
    """
    if count == 0:
        return
    base: Any = model.base_model
    lists = [
        module
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in LAYER_LISTS
    ]
    layers = max(lists, key=len, default=nn.ModuleList())
    if not 0 < count <= len(layers):
        raise ConfigError(
            f"head.reinitialize_layers is {count}; {type(model).__name__} has {len(layers)} layers "
            "that can start anew."
        )
    pooler = getattr(base, "pooler", None)
    for part in [*layers[len(layers) - count :], *([pooler] if pooler is not None else [])]:
        for module in part.modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # Loading marks what must not change.
            model._init_weights(module)


class MultiSampleLinear(nn.Linear):
    """A classifier's last layer that, in training, answers for K dropout masks at once.

    Multi-sample dropout (Inoue 2019, arXiv 1905.09788): (B, H) -> (B, K, C) while training, whose K
    losses are averaged; (B, C) otherwise. Its weights are those of the plain layer.
    """

    def __init__(self, linear: nn.Linear, *, samples: int, probability: float) -> None:
        super().__init__(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.samples = samples
        self.dropout = nn.Dropout(probability)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits of (B, H) features."""
        if not self.training:
            return super().forward(features)
        repeated = features[:, None].expand(-1, self.samples, -1)  # (B, K, H)
        return super().forward(self.dropout(repeated))


def sample_dropout(model: PreTrainedModel, samples: int) -> None:
    """Let the head of ``model`` draw ``samples`` dropout masks for each example; 0: leave it.

    The rate is that of the head's own dropout, which is turned off in exchange.

    Raises:
        ConfigError: the model has no head with dropout that ends in a linear layer.
    """
    if samples == 0:
        return
    base = {id(module) for module in model.base_model.modules()}
    head = {name: module for name, module in model.named_modules() if id(module) not in base}
    dropouts = [module for module in head.values() if isinstance(module, nn.Dropout)]
    linears = [name for name, module in head.items() if isinstance(module, nn.Linear)]
    probability = max((module.p for module in dropouts), default=0.0)
    if samples < 0 or not linears or not probability:
        raise ConfigError(
            f"head.multi_sample_dropout is {samples}; it must be 0 or more, and needs a model with "
            f"dropout in its head. {type(model).__name__} has {probability:g}; --dropout sets it."
        )
    for module in dropouts:
        module.p = 0.0
    parent, _, name = linears[-1].rpartition(".")
    last = MultiSampleLinear(head[linears[-1]], samples=samples, probability=probability)
    setattr(model.get_submodule(parent), name, last.train(model.training))
