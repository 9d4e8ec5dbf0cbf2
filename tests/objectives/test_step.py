"""Every objective of the package keeps the protocol."""

import inspect

import pytest
import torch

from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.objectives.classification import ClassificationObjective
from nlpapp.objectives.distillation import DistillationObjective
from nlpapp.objectives.language_modeling import LanguageModelingObjective
from nlpapp.objectives.step import Objective, StepOutput


@pytest.mark.parametrize(
    "kind",
    [
        BertPretrainingObjective,
        ClassificationObjective,
        DistillationObjective,
        LanguageModelingObjective,
    ],
)
def test_objectives_take_what_the_trainer_gives(kind):
    for method in ("counts", "__call__", "summary"):
        ours = list(inspect.signature(getattr(kind, method)).parameters)
        assert ours == list(inspect.signature(getattr(Objective, method)).parameters), method


def test_outputs_have_no_carry_or_metrics_unless_given():
    output = StepOutput(loss=torch.zeros(()))
    assert output.metrics == {} and output.carry is None
