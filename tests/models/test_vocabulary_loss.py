"""The blockwise loss against torch's linear, cross_entropy and argmax."""

import pytest
import torch
import torch.nn.functional as F

from nlpapp.models import vocabulary_loss as module
from nlpapp.models.vocabulary_loss import vocabulary_loss


def make_inputs(predictions: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(predictions)
    shapes = ((predictions, 6), (11, 6), (11,))
    inputs = [torch.randn(*s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    return inputs, torch.randint(11, (predictions,), generator=generator)


def plain_loss(inputs, labels):
    scores = F.linear(*inputs)
    loss = F.cross_entropy(
        scores.float() if scores.dtype == torch.bfloat16 else scores, labels, reduction="sum"
    )
    return loss, (scores.argmax(1) == labels).sum()


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
@pytest.mark.parametrize("predictions", [0, 1, 9])
def test_any_blocks_give_the_plain_loss_and_gradients(monkeypatch, rows, predictions):
    monkeypatch.setattr(module, "ROWS", rows)
    inputs, labels = make_inputs(predictions)
    labels[:2] = F.linear(*inputs).argmax(1)[:2]  # Some are right.
    expected, expected_right = plain_loss(inputs, labels)
    loss, right = vocabulary_loss(*inputs, labels)
    torch.testing.assert_close(loss, expected)
    assert right == expected_right and right >= min(2, predictions)
    ours = torch.autograd.grad(3 * loss, inputs)
    for mine, other in zip(ours, torch.autograd.grad(3 * expected, inputs), strict=True):
        torch.testing.assert_close(mine, other)


def test_hopeless_labels_have_a_finite_loss():
    """exp(-1000) is 0 in any float: the loss must not be minus the logarithm of it."""
    hidden = torch.tensor([[1.0]])
    weight, bias = torch.tensor([[1000.0], [0.0]]), torch.zeros(2)
    loss, right = vocabulary_loss(hidden, weight, bias, torch.tensor([1]))
    assert loss == 1000 and right == 0


def test_of_equal_scores_the_first_counts():
    inputs = torch.zeros(2, 1), torch.zeros(4, 1), torch.zeros(4)
    assert vocabulary_loss(*inputs, torch.tensor([0, 3]))[1] == 1


def test_nothing_is_kept_without_gradients():
    inputs, labels = make_inputs(9)
    with torch.no_grad():
        assert not vocabulary_loss(*inputs, labels)[0].requires_grad
    frozen = [x.detach() for x in inputs]
    assert not vocabulary_loss(*frozen, labels)[0].requires_grad


def test_under_autocast_gradients_stay_float32(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 4)
    inputs, labels = make_inputs(9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_right = plain_loss(inputs, labels)
        loss, right = vocabulary_loss(*inputs, labels)
    assert loss.dtype == torch.float32 and right == expected_right
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, inputs)
    for mine, other in zip(ours, torch.autograd.grad(expected, inputs), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.02)
