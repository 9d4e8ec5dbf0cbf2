"""A small BERT made of chosen layers of its teacher.

It keeps the teacher's width, embeddings and head. Taking every other layer is how DistilBERT
starts (Sanh et al. 2019, arXiv 1910.01108); learning from layers spread over the whole teacher is
the uniform layer map of TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 4.1).

Legend: L layers of the teacher, M layers of the student.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nlpapp.errors import ConfigError
from nlpapp.models.classifiers import label_options

SUPPORTED = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Model types whose layers are all alike and stand in one list."""


@dataclass(frozen=True, kw_only=True)
class StudentBertConfig:
    """Which of its teacher's layers a BERT student has, and which it learns from."""

    layers: list[int] = field(default_factory=list)
    """Layers of the teacher, counted from 1, that the student starts as."""
    layer_map: list[int] = field(default_factory=list)
    """For each layer of the student the one of the teacher that hidden and attention losses compare
    it with; absent: spread evenly, the last with the last."""


def transformer_layers(model: Any) -> nn.ModuleList:
    """Return the list of layers of a BERT-like model.

    Raises:
        ConfigError: the model is of a type that is not `SUPPORTED`.
    """
    kind = model.config.model_type
    if kind in SUPPORTED:
        number = model.config.num_hidden_layers
        for module in model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == number:
                return module
    raise ConfigError(
        f"a student cannot be made of the layers of a '{kind}'; the teacher must be one of "
        f"{', '.join(SUPPORTED)}."
    )


def build_student_bert(
    teacher: Any, layers: Sequence[int], *, label_names: Sequence[str], outputs: Sequence[int]
) -> Any:
    """Return a classifier with the teacher's embeddings, chosen layers and head.

    Args:
        teacher: a classifier of a `SUPPORTED` type.
        layers: the teacher's layers to copy, from 1, in the order of the student.
        label_names: the student's classes in order; none: one score.
        outputs: the teacher's output for each of the student's.

    Raises:
        ConfigError: a layer that the teacher does not have, none, or an unsupported teacher.
    """
    depth = len(transformer_layers(teacher))
    _check_layers("bert.layers", layers, depth)
    student = copy.deepcopy(teacher)
    kept = transformer_layers(student)
    # A layer may be chosen twice; all of them look at the one configuration of the student.
    config = student.config
    chosen = [copy.deepcopy(kept[layer - 1], {id(config): config}) for layer in layers]
    del kept[:]
    kept.extend(chosen)
    student.config.num_hidden_layers = len(chosen)
    for name, value in label_options(label_names).items():
        setattr(student.config, name, value)
    inside = set(student.base_model.modules())
    linear = [module for module in student.modules() if isinstance(module, nn.Linear)]
    head = [module for module in linear if module not in inside][-1]
    with torch.no_grad():
        head.weight.copy_(head.weight[list(outputs)].clone())
        head.bias.copy_(head.bias[list(outputs)].clone())
    return student.train().requires_grad_(True)


def keep_tokens(model: Any, tokens: Sequence[int], *, pad_token_id: int) -> None:
    """Keep the word embeddings of ``tokens`` alone, which get the ids 0, 1 ... in this order.

    Embeddings are most of a BERT of few layers. ``pad_token_id`` is the new one of padding.
    """
    old = model.get_input_embeddings()
    new = nn.Embedding(len(tokens), old.embedding_dim, padding_idx=pad_token_id)
    with torch.no_grad():
        new.weight.copy_(old.weight[list(tokens)])
    model.set_input_embeddings(new)
    model.config.vocab_size = len(tokens)
    model.config.pad_token_id = pad_token_id


def leave_attention_whole(model: Any) -> None:
    """Take the dropout of the attention maps away: transformers shows them after it.

    Maps with holes have no finite divergence from the teacher's, and no mean square without bias.

    Raises:
        ConfigError: the model is of a type that is not `SUPPORTED`.
    """
    of_maps = ("attention.self.dropout", "attention.dropout")
    for name, module in transformer_layers(model).named_modules():
        if isinstance(module, nn.Dropout) and name.endswith(of_maps):
            module.p = 0.0


def layer_map(wanted: Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    """Return for each student layer m of M the teacher's layer it learns from, both from 1.

    Without ``wanted`` it is m L / M, rounded up: TinyBERT's map where M divides L.

    Raises:
        ConfigError: ``wanted`` has another length than the student, or names no layer.
    """
    if not wanted:
        return [-(-m * teacher_layers // student_layers) for m in range(1, student_layers + 1)]
    _check_layers("bert.layer_map", wanted, teacher_layers)
    if len(wanted) != student_layers:
        raise ConfigError(
            f"bert.layer_map has {len(wanted)} layers and the student {student_layers}; "
            "give one of the teacher's for each of the student's."
        )
    return list(wanted)


def _check_layers(name: str, layers: Sequence[int], depth: int) -> None:
    wrong = [layer for layer in layers if not 1 <= layer <= depth]
    if wrong or not layers:
        said = f"names layer {wrong[0]}" if wrong else "is empty"
        raise ConfigError(
            f"{name} {said}; the teacher's layers are 1 to {depth}: give some of them, such as "
            f"[1, {depth}]."
        )
