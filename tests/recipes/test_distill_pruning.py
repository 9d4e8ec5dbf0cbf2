import dataclasses

import torch
from torch import nn

from nlpapp.models.pruning import PruningConfig
from nlpapp.recipes.distill_pruning import prune_student
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.run_folder import RunFolder


def test_what_is_left_is_trained_in_a_folder_of_its_own(tmp_path):
    torch.manual_seed(0)
    model, training, asked = nn.Linear(10, 4), TrainingConfig(num_epochs=2), []

    def train(run, options):
        assert (model.weight == 0).sum() == 30
        asked.append((run.path, options))
        model.weight.sum().backward()
        assert torch.equal(model.weight.grad == 0, model.weight == 0)
        return {"accuracy": 0.5}

    run = RunFolder(tmp_path, is_main=True)
    pruning = PruningConfig(sparsity=0.75, max_steps=7)
    prune_student(run, pruning, training, model, train)
    assert asked == [(tmp_path / "pruned", dataclasses.replace(training, max_steps=7))]
    # A checkpoint of the steps before, which holds all weights, is not gone on from.
    named = dataclasses.replace(training, resume="checkpoints/step-3")
    prune_student(run, pruning, named, model, train)
    assert asked[1][1].resume == "auto"
    prune_student(run, pruning, dataclasses.replace(training, resume="never"), model, train)
    assert asked[2][1].resume == "never"


def test_without_steps_nothing_is_trained(tmp_path):
    model = nn.Linear(10, 4)
    run = RunFolder(tmp_path, is_main=True)
    prune_student(run, PruningConfig(sparsity=0.5), TrainingConfig(), model, None)
    assert (model.weight == 0).sum() == 20 and not (tmp_path / "pruned").exists()
