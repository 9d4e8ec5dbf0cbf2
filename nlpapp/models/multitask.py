"""One encoder under a classifier for each task (MT-DNN, Liu et al. 2019, arXiv 1901.11504).

A task's classifier is an ordinary one of transformers, or ours, whose encoder is the one that all
share: saved by itself it is an ordinary model folder. Symbols: B rows, S positions, C outputs of
the task.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from nlpapp.errors import ConfigError


class MultiTaskConfig(PretrainedConfig):
    """The tasks in order, and the configuration of each one's classifier."""

    model_type = "multitask"

    def __init__(
        self,
        *,
        task_names: Sequence[str] = (),
        classifiers: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        """Describe a model.

        Args:
            task_names: the tasks in the order of their numbers.
            classifiers: configuration of each task's classifier, as a dictionary.
            **kwargs: what every Hugging Face configuration takes.
        """
        self.task_names = list(task_names)
        self.classifiers = list(classifiers)
        super().__init__(**kwargs)

    @property
    def type_vocab_size(self) -> int:
        """Kinds of token types that the encoder knows; 0: it takes none."""
        return int(self.classifiers[0].get("type_vocab_size") or 0)


class MultiTaskClassifier(PreTrainedModel):
    """Classifiers that share their encoder, one for each task."""

    config_class = MultiTaskConfig

    def __init__(
        self, config: MultiTaskConfig, classifiers: Sequence[PreTrainedModel] | None = None
    ) -> None:
        """Build the classifiers of ``config``, or take ``classifiers``, with the first's encoder.

        Raises:
            ConfigError: the encoder of such a model cannot be told from its head.
        """
        super().__init__(config)
        if classifiers is None:
            classifiers = [
                AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**options))
                for options in config.classifiers
            ]
        self.encoder = classifiers[0].base_model
        self.heads = nn.ModuleList()
        for classifier in classifiers:
            setattr(classifier, classifier.base_model_prefix, self.encoder)
            head = {
                name: module
                for name, module in classifier.named_children()
                if module is not self.encoder
            }
            self.heads.append(nn.ModuleDict(head))
            known = nn.ModuleList([self.encoder, self.heads[-1]])
            if self.encoder is classifier or _weights(classifier) != _weights(known):
                raise ConfigError(
                    f"the encoder of {type(classifier).__name__} cannot be shared: it is not a "
                    "part by itself. Use a model such as BERT, RoBERTa, DistilBERT or ELECTRA."
                )
        # Not modules of this one: its weights have one name each.
        self._classifiers = tuple(classifiers)
        self.post_init()

    @classmethod
    def of(cls, classifiers: Mapping[str, PreTrainedModel]) -> "MultiTaskClassifier":
        """Return a model of classifiers of one kind, by task; all get the encoder of the first."""
        options = [model.config.to_dict() for model in classifiers.values()]
        for of_task in options:
            of_task.pop("_name_or_path", None)  # where it was loaded from is of no use elsewhere
        config = MultiTaskConfig(task_names=list(classifiers), classifiers=options)
        return cls(config, list(classifiers.values()))

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks in order."""
        return tuple(self.config.task_names)

    def classifier(self, task: str | int) -> PreTrainedModel:
        """Return the classifier of a task, by name or number; its weights are those of this."""
        return self._classifiers[self.task_names.index(task) if isinstance(task, str) else task]

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self._classifiers[0].get_input_embeddings()

    def train(self, mode: bool = True) -> "MultiTaskClassifier":
        """Set training or evaluation, of the classifiers' own forward passes as well."""
        super().train(mode)
        for classifier in getattr(self, "_classifiers", ()):
            classifier.training = mode
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        input_ids_b: torch.Tensor | None = None,
        attention_mask_b: torch.Tensor | None = None,
        task: torch.Tensor | int = 0,
    ) -> SequenceClassifierOutput:
        """Score rows of token ids for one task.

        In training the other tasks' heads get gradients of 0: every weight then has a
        gradient in every step, which processes that exchange gradients rely on.

        Args:
            input_ids: (B, S) ids of the text, of a joined pair, or of a siamese pair's first text.
            attention_mask: (B, S), 1 at tokens and 0 at padding.
            token_type_ids: (B, S) of a joined pair; for encoders that know them.
            input_ids_b: (B, S') ids of a siamese pair's second text.
            attention_mask_b: (B, S'), as ``attention_mask``.
            task: its number.

        Returns:
            Logits (B, C).
        """
        inputs = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "input_ids_b": input_ids_b,
            "attention_mask_b": attention_mask_b,
        }
        given = {name: value for name, value in inputs.items() if value is not None}
        number = int(task)
        logits = self._classifiers[number](input_ids, **given).logits
        if self.training:
            others = [head for index, head in enumerate(self.heads) if index != number]
            for parameter in nn.ModuleList(others).parameters():
                logits = logits + 0 * parameter.sum()
        return SequenceClassifierOutput(logits=logits)


def _weights(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig)
AutoModel.register(MultiTaskConfig, MultiTaskClassifier)
