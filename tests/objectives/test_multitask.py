from types import SimpleNamespace

import torch
from torch import nn

from nlpapp.objectives.classification import ClassificationObjective
from nlpapp.objectives.multitask import MultiTaskObjective


class TwoHeads(nn.Module):
    """Classifiers of vectors with three classes, and with one score."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 1)])

    def forward(self, input_ids, task):
        return SimpleNamespace(logits=self.heads[int(task)](input_ids))


def batches():
    rng = torch.Generator().manual_seed(1)
    return [
        {"labels": torch.tensor([0, 2, 1, 1, 0]), "task": torch.tensor(0)}
        | {"input_ids": torch.randn(5, 4, generator=rng)},
        {"labels": torch.tensor([0.5, 2.0, 1.0]), "task": torch.tensor(1)}
        | {"input_ids": torch.randn(3, 4, generator=rng)},
    ]


def test_the_loss_of_a_batch_is_that_of_its_task():
    model = TwoHeads()
    own = {"words": ClassificationObjective(3), "scores": ClassificationObjective(1)}
    objective = MultiTaskObjective(own)
    for batch, (name, plain) in zip(batches(), own.items(), strict=True):
        counts = objective.counts(batch)
        assert counts == {"classification": len(batch["labels"])} == plain.counts(batch)
        found, expected = objective(model, batch, counts), plain(model, batch, counts)
        assert torch.equal(found.loss, expected.loss)
        named = {f"{name}_{key}": value for key, value in expected.metrics.items()}
        assert found.metrics == named | {"loss": expected.metrics["loss"]}
        assert f"{name}_loss" in found.metrics


def test_micro_batches_of_a_step_add_up_to_its_mean():
    model = TwoHeads()
    objective = MultiTaskObjective(
        {"words": ClassificationObjective(3), "scores": ClassificationObjective(1)}
    )
    whole = batches()[0]
    parts = [
        {name: value if name == "task" else value[part] for name, value in whole.items()}
        for part in (slice(0, 1), slice(1, 5))
    ]
    counts = objective.counts(whole)
    losses = [objective(model, part, counts).loss for part in parts]
    torch.testing.assert_close(sum(losses), objective(model, whole, counts).loss)
    assert objective.summary({"loss": 1.0}) == {"loss": 1.0}
