"""LAMB against the paper's algorithm written out, another library's numbers, and its edges."""

import pytest
import torch
from torch import nn

from nlpapp.training.lamb import Lamb


def algorithm_2(weight, gradients, *, lr, beta1, beta2, epsilon, decay):
    """You et al. 2019 (arXiv 1904.00962v5), line by line, in float64."""
    x = weight.double()
    m = v = torch.zeros_like(x)
    for t, g in enumerate((gradient.double() for gradient in gradients), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        r = m_hat / (v_hat.sqrt() + epsilon)
        x = x - lr * x.norm() / (r + decay * x).norm() * (r + decay * x)
    return x


def test_updates_are_those_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (7, 5)]]
    expected = [weight.detach().clone() for weight in weights]
    gradients = [[torch.randn(w.shape, generator=generator) for _ in range(5)] for w in weights]
    optimizer = Lamb(weights, lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)
    for step in range(5):
        for weight, own in zip(weights, gradients, strict=True):
            weight.grad = own[step]
        optimizer.step()
    for weight, start, own in zip(weights, expected, gradients, strict=True):
        paper = algorithm_2(start, own, lr=0.03, beta1=0.8, beta2=0.95, epsilon=1e-3, decay=0.2)
        torch.testing.assert_close(weight.double(), paper, atol=1e-6, rtol=0)


def test_updates_are_those_of_timm():
    """Recorded from timm.optim.Lamb 1.0.31, always_adapt for the matrix, without clipping."""
    weight = nn.Parameter((torch.arange(6.0).reshape(2, 3) - 2) / 10)
    bias = nn.Parameter(torch.tensor([0.5, -0.25]))
    groups = [
        {"params": [weight], "weight_decay": 0.1},
        {"params": [bias], "weight_decay": 0.0, "adapt": False},
    ]
    optimizer = Lamb(groups, lr=0.02, betas=(0.9, 0.99), eps=1e-6)
    for step in (1, 2, 3):
        weight.grad = torch.sin(torch.arange(6.0).reshape(2, 3) * step)
        bias.grad = torch.tensor([0.3, -1.0]) * step
        optimizer.step()
    recorded = [[-0.19961056, -0.11782217, -0.00307274], [0.09497239, 0.20353460, 0.31213862]]
    torch.testing.assert_close(weight.detach(), torch.tensor(recorded), atol=1e-7, rtol=0)
    recorded = torch.tensor([0.44161198, -0.19161187])
    torch.testing.assert_close(bias.detach(), recorded, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("weight", "gradient", "decay", "expected"),
    [
        # A norm of 0: the ratio is 1, and Adam's first step is lr times the sign of the gradient.
        ([[0.0, 0.0]], [[3.0, -4.0]], 0.0, [[-0.1, 0.1]]),
        ([[3.0, 4.0]], [[0.0, 0.0]], 0.0, [[3.0, 4.0]]),
        # |x| = 5 and |r| = |(1, 1)|.
        ([[3.0, 4.0]], [[2.0, 2.0]], 0.0, [[3.0 - 0.5 / 2**0.5, 4.0 - 0.5 / 2**0.5]]),
    ],
)
def test_the_trust_ratio(weight, gradient, decay, expected):
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = Lamb([parameter], lr=0.1, eps=0.0 if any(gradient[0]) else 1e-6, weight_decay=decay)
    parameter.grad = torch.tensor(gradient)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor(expected), atol=1e-6, rtol=0)


def test_state_goes_through_a_checkpoint(tmp_path):
    """Saved after two steps and loaded into a new one, the third step is the same bit for bit."""

    def steps(parameter, optimizer, numbers):
        for number in numbers:
            parameter.grad = torch.tensor([[1.0, -2.0 * number]])
            optimizer.step()

    first = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    optimizer = Lamb([first], lr=0.1)
    steps(first, optimizer, [1, 2])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second = nn.Parameter(first.detach().clone())
    again = Lamb([second], lr=0.7)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    steps(first, optimizer, [3])
    steps(second, again, [3])
    assert torch.equal(first, second)


def test_a_parameter_without_a_gradient_stays_and_a_closure_is_called():
    used, unused = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))
    optimizer = Lamb([used, unused], lr=0.1)

    def closure():
        loss = used.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert torch.equal(unused, torch.ones(1, 2)) and not torch.equal(used, torch.ones(1, 2))
