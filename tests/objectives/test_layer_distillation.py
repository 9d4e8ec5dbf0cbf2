import pytest
import torch
from torch.nn import functional

from nlpapp.models.student_bert import build_student_bert
from nlpapp.objectives.distillation import TERM, DistillationObjective
from nlpapp.objectives.layer_distillation import LayerLoss, read_layers
from tests.deployment.models import build_model

NAMES = {"label_names": ("bad", "fine", "good"), "outputs": [0, 1, 2]}
LENGTHS = [5, 2, 3]


@pytest.fixture
def models():
    teacher = build_model("bert", num_hidden_layers=4)
    teacher.set_attn_implementation("eager")
    student = build_student_bert(teacher, [1, 2], **NAMES).eval()
    student.set_attn_implementation("eager")
    return teacher, student


def batch_of_three():
    torch.manual_seed(5)
    mask = torch.tensor([[1] * length + [0] * (5 - length) for length in LENGTHS])
    return {
        "input_ids": torch.randint(5, 80, (3, 5)) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(3, 5, dtype=torch.long),
        "labels": torch.tensor([0, 2, -100]),
        "teacher_logits": torch.randn(3, 3),
    }


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_hidden_losses_are_means_over_real_tokens_and_layers(models, kind):
    teacher, student = models
    batch = batch_of_three()
    loss = LayerLoss(teacher, [2, 4], hidden_weight=3.0, hidden_loss=kind)
    own = read_layers(student, batch, attentions=False)
    theirs = read_layers(teacher, batch, attentions=False)
    expected = []
    for row, length in enumerate(LENGTHS):
        found = []
        for mine, other in ((0, 0), (1, 2), (2, 4)):
            a, b = own.hidden[mine][row, :length], theirs.hidden[other][row, :length]
            if kind == "mse":
                found.append(functional.mse_loss(a, b))
            else:
                found.append(1 - ((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean())
        expected.append(3 * torch.stack(found).mean())
    torch.testing.assert_close(loss(own, batch), torch.stack(expected))


def test_attention_losses_are_torchs_divergence_of_the_real_part_of_the_maps(models):
    teacher, student = models
    batch = batch_of_three()
    loss = LayerLoss(teacher, [1, 4], attention_weight=2.0)
    own = read_layers(student, batch, attentions=True)
    theirs = read_layers(teacher, batch, attentions=True)
    expected = []
    for row, n in enumerate(LENGTHS):
        found = [
            functional.kl_div(
                own.attentions[mine][row, :, :n, :n].log(),
                theirs.attentions[other][row, :, :n, :n],
                reduction="sum",
            )
            / (n * 2)  # tokens and heads
            for mine, other in ((0, 0), (1, 3))
        ]
        expected.append(2 * torch.stack(found).mean())
    torch.testing.assert_close(loss(own, batch), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_attention_maps_differ_by_their_mean_square_over_heads_and_real_tokens(models):
    teacher, student = models
    batch = batch_of_three()
    loss = LayerLoss(teacher, [1, 4], attention_weight=2.0, attention_loss="mse")
    own = read_layers(student, batch, attentions=True)
    theirs = read_layers(teacher, batch, attentions=True)
    expected = []
    for row, n in enumerate(LENGTHS):
        pairs = [
            (own.attentions[mine][row, :, :n, :n], theirs.attentions[other][row, :, :n, :n])
            for mine, other in ((0, 0), (1, 3))
        ]
        expected.append(2 * torch.stack([functional.mse_loss(*pair) for pair in pairs]).mean())
    torch.testing.assert_close(loss(own, batch), torch.stack(expected), rtol=1e-4, atol=1e-8)


def test_a_copy_of_the_teacher_has_no_distance(models):
    teacher, _ = models
    twin = build_student_bert(teacher, [1, 2, 3, 4], **NAMES).eval()
    loss = LayerLoss(teacher, [1, 2, 3, 4], hidden_weight=1.0, attention_weight=1.0)
    found = loss(read_layers(twin, batch_of_three(), attentions=True), batch_of_three())
    assert found.abs().max() < 1e-6


def test_the_teacher_is_not_trained_and_any_split_gives_the_same_gradients(models):
    teacher, student = models
    layers = LayerLoss(teacher, [2, 4], hidden_weight=1.0, attention_weight=1.0)
    objective = DistillationObjective(
        teacher_loss="mse", temperature=1.0, alpha=0.25, layers=layers
    )
    batch = batch_of_three()
    counts = objective.counts(batch)
    weights = [weight for weight in student.parameters() if weight.requires_grad]

    def gradients(parts):
        loss = sum(objective(student, part, counts).loss for part in parts)
        return torch.autograd.grad(loss, weights, allow_unused=True)

    parts = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(3)]
    whole = gradients([batch])
    for mine, theirs in zip(gradients(parts), whole, strict=True):
        assert mine is None or torch.allclose(mine, theirs, atol=1e-5)
    assert counts == {TERM: 3.0} and sum(one is not None for one in whole) > 20
    assert not any(weight.requires_grad for weight in teacher.parameters())
