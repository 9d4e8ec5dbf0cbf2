"""Linear layers by oneDNN, against torch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertForPreTraining

from nlpapp.models import fast_linear
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.fast_linear import (
    _Linear,
    linear,
    product,
    transposed_product,
    use_fast_linear,
)

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)
SIZE = BertSizeConfig(
    num_layers=2, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0
)


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch):
    monkeypatch.setattr(fast_linear, "FEWEST", 0)


class Products(TorchDispatchMode):
    """Counts the products that oneDNN makes."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function is torch.ops.mkldnn._linear_pointwise.default
        return function(*arguments, **(options or {}))


def make_inputs(shape, outputs, dtype=torch.float32):
    generator = torch.Generator().manual_seed(outputs)
    shapes = (shape, (outputs, shape[-1]), (outputs,))
    return [torch.randn(*s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("outputs", [2, 3, 5])
@pytest.mark.parametrize("shape", [(4, 3), (1, 3)])
def test_the_gradients_are_the_derivatives(shape, outputs):
    inputs, weight, bias = make_inputs(shape, outputs, torch.float64)
    assert torch.autograd.gradcheck(_Linear.apply, (inputs, weight, bias))
    assert torch.autograd.gradcheck(lambda x, w: _Linear.apply(x, w, None), (inputs, weight))


@needs_onednn
@pytest.mark.parametrize("outputs", [5, 16, 40])
@pytest.mark.parametrize("shape", [(24, 16), (3, 8, 16), (1, 16)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_outputs_and_gradients_are_those_of_torch(shape, outputs, has_bias):
    inputs = make_inputs(shape, outputs)[: 2 + has_bias]
    weights = torch.randn(*shape[:-1], outputs, generator=torch.Generator().manual_seed(0))
    expected = F.linear(*inputs)
    with Products() as products:
        ours = linear(*inputs)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    assert products.count == 3
    others = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(gradients, others, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_any_place_in_memory_will_do():
    x, w, b = (x.detach() for x in make_inputs((12, 8), 6))
    layouts = (x, x.t().contiguous().t(), x.repeat(1, 2)[:, :8], x.repeat(2, 1)[::2], x[:1])
    for left in (*layouts, x[:1].expand(12, 8), x[:, :1].expand(12, 8)):
        torch.testing.assert_close(product(left, w, b), F.linear(left, w, b))
        torch.testing.assert_close(product(w, left), F.linear(w, left))
        torch.testing.assert_close(transposed_product(left, left), left.t() @ left)
    # The gradient of a sum is one number that stands everywhere.
    inputs = make_inputs((12, 8), 6)
    ours = torch.autograd.grad(linear(*inputs).sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad(F.linear(*inputs).sum(), inputs))


@pytest.mark.parametrize("outputs", [5, 40])
def test_a_gradient_of_weights_lies_as_the_weights_do(outputs):
    inputs, weight, bias = make_inputs((6, 16), outputs)
    (of_weight,) = torch.autograd.grad(linear(inputs, weight, bias).sum(), [weight])
    assert of_weight.shape == (outputs, 16) and of_weight.is_contiguous()


def test_no_more_gradients_than_are_needed():
    inputs, weight, bias = make_inputs((24, 16), 5)
    with Products() as products:
        linear(inputs.detach(), weight.detach(), bias).sum().backward()
    assert products.count <= 1 and torch.equal(bias.grad, torch.full((5,), 24.0))
    with torch.no_grad():
        assert not linear(inputs, weight, bias).requires_grad


@pytest.mark.filterwarnings("ignore:TF32")  # What torch says of its own switch.
@pytest.mark.parametrize("case", ["double", "autocast", "small", "empty", "switched off"])
def test_what_onednn_does_not_serve_is_torchs(case, monkeypatch):
    inputs = make_inputs((0 if case == "empty" else 6, 4), 3)
    if case == "double":
        inputs = make_inputs((6, 4), 3, torch.float64)
    if case in ("small", "empty"):
        monkeypatch.setattr(fast_linear, "FEWEST", 6 * 4 * 3 + 1)
    switch = torch.backends.mkldnn.flags(enabled=case != "switched off")
    with switch, torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        with Products() as products:
            ours = linear(*inputs)
        assert products.count == 0
        assert torch.equal(ours, F.linear(*inputs))


def test_a_compiled_model_has_torchs_products():
    inputs = make_inputs((6, 4), 3)
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs), F.linear(*inputs))


class Doubling(nn.Linear):
    """A kind of linear layer with another product."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_the_model_stays_what_it_is():
    model = nn.Sequential(nn.Linear(4, 3), Doubling(3, 2))
    plain = copy.deepcopy(model)
    assert use_fast_linear(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(model(inputs), plain(inputs))
    again = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.zero_()
    torch.testing.assert_close(again(inputs), plain(inputs))  # A copy has weights of its own.


@needs_onednn
def test_outputs_may_be_changed_in_place():
    inputs, weight, bias = make_inputs((2, 3, 4), 5)
    gradients = []
    for product_of in (linear, F.linear):
        outputs = product_of(inputs, weight, bias)
        outputs /= 2
        gradients.append(torch.autograd.grad(outputs.relu_().sum(), (inputs, weight, bias)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_one_vector_is_multiplied_as_well():
    inputs, weight, bias = make_inputs((4,), 5)
    torch.testing.assert_close(linear(inputs, weight, bias), F.linear(inputs, weight, bias))


@needs_onednn
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_bert_learns_as_with_torchs_products(checkpointing):
    torch.manual_seed(0)
    bert = BertForPreTraining(bert_config(SIZE, vocab_size=50)).train()
    fast = use_fast_linear(copy.deepcopy(bert))
    if checkpointing:
        fast.gradient_checkpointing_enable({"use_reentrant": False})
    losses = []
    for model in (bert, fast):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            ids = torch.randint(5, 50, (3, 9), generator=generator)
            with Products() as products:
                loss = model(input_ids=ids, labels=ids, next_sentence_label=ids[:, 0] % 2).loss
                loss.backward()
            assert (products.count > 0) == (model is fast)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[5:] == pytest.approx(losses[:5], abs=1e-5)
    assert losses[4] < losses[0]
