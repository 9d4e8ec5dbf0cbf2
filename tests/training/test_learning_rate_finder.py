import numpy as np
import pytest
import torch

from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import TrainingError
from nlpapp.objectives.step import StepOutput
from nlpapp.training.learning_rate_finder import find_learning_rate
from nlpapp.training.optimizers import OptimizerConfig

PLAIN = OptimizerConfig(weight_decay=0.0)


class Distance:
    """The squared distance of a weight from 1."""

    def counts(self, batch):
        return {"rows": float(len(batch["input_ids"]))}

    def __call__(self, model, batch, counts, carry=None):
        return StepOutput(loss=(model.weight - 1).square().sum() * batch["input_ids"].mean())

    def summary(self, means):
        return means


def steps_of(value=1.0, rows=6):
    return ExampleSteps(
        rows, lambda indices, epoch: {"input_ids": torch.full((2,), value)}, batch_size=2
    )


def weight(start):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, start)
    return model


def test_rates_grow_and_the_losses_are_those_of_adamw_by_hand():
    found = find_learning_rate(
        weight(0.0), Distance(), steps_of(), PLAIN, lowest=1e-3, highest=0.1, num_steps=5
    )
    assert found.rates == pytest.approx(np.geomspace(1e-3, 0.1, 5))
    by_hand = weight(0.0)
    optimizer = torch.optim.AdamW(by_hand.parameters(), weight_decay=0.0, eps=1e-6)
    losses = []
    for rate in found.rates:
        optimizer.param_groups[0]["lr"] = rate
        loss = (by_hand.weight - 1).square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    assert found.losses == pytest.approx(np.array(losses), rel=1e-5)
    # The moving mean with its start corrected, as in Adam.
    mean = sum(0.1 * 0.9 ** (4 - i) * loss for i, loss in enumerate(losses)) / (1 - 0.9**5)
    assert found.smoothed[-1] == pytest.approx(mean)


def test_the_search_ends_where_the_loss_grows_and_suggests_less_than_its_lowest():
    found = find_learning_rate(
        weight(0.0), Distance(), steps_of(), PLAIN, lowest=1e-4, highest=1e4, num_steps=60
    )
    assert len(found.losses) < 60
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.suggestion == found.rates[found.smoothed.argmin()] / 10
    assert 1e-3 < found.suggestion < 1


def test_the_model_has_its_weights_again_and_no_gradient():
    model = weight(0.25)
    find_learning_rate(model, Distance(), steps_of(), PLAIN, num_steps=10)
    assert model.weight.item() == 0.25
    assert model.weight.grad is None


def test_a_loss_that_is_not_finite():
    with pytest.raises(TrainingError, match="first loss is not finite"):
        find_learning_rate(weight(0.0), Distance(), steps_of(float("nan")), PLAIN)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_forward_pass_has_the_precision_of_the_training(precision):
    seen = set()

    class Noted(Distance):
        def __call__(self, model, batch, counts, carry=None):
            seen.add(model(torch.ones(2, 1, device=model.weight.device)).dtype)
            return super().__call__(model, batch, counts)

    find_learning_rate(weight(0.0), Noted(), steps_of(), PLAIN, num_steps=2, precision=precision)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
