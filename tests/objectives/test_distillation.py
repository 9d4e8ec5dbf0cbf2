from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nlpapp.errors import ConfigError
from nlpapp.objectives.distillation import TERM, DistillationConfig, DistillationObjective

LABELS = torch.tensor([0, 2, -100, 1, -100, 2, 0])


class Linear(nn.Module):
    """A classifier of vectors that looks like a Hugging Face model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 3).double()

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.layer(input_ids))


def batch_of_seven():
    rng = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randn(7, 4, generator=rng, dtype=torch.double),
        "teacher_logits": 3 * torch.randn(7, 3, generator=rng),
        "labels": LABELS,
    }


def loss_of(model, batch, **options):
    objective = DistillationObjective(
        **({"teacher_loss": "mse", "temperature": 1.0, "alpha": 0.0} | options)
    )
    return objective(model, batch, objective.counts(batch))


def test_alpha_0_with_mse_is_the_mean_squared_error_of_the_logits():
    model, batch = Linear(), batch_of_seven()
    expected = functional.mse_loss(
        model(batch["input_ids"]).logits.float(), batch["teacher_logits"]
    )
    torch.testing.assert_close(loss_of(model, batch).loss, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_has_the_value_of_torchs_divergence_and_the_gradient_of_soft_cross_entropy(temperature):
    model, batch = Linear(), batch_of_seven()
    student = model(batch["input_ids"]).logits.float()
    target = functional.softmax(batch["teacher_logits"] / temperature, dim=1)
    scaled = functional.log_softmax(student / temperature, dim=1)
    expected = temperature**2 * functional.kl_div(scaled, target, reduction="batchmean")
    found = loss_of(model, batch, teacher_loss="kl", temperature=temperature).loss
    torch.testing.assert_close(found, expected)
    soft = temperature**2 * functional.cross_entropy(student / temperature, target)
    for mine, theirs in zip(
        torch.autograd.grad(found, model.parameters()),
        torch.autograd.grad(soft, model.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_student_with_the_teachers_logits_has_no_loss_and_agrees():
    model, batch = Linear(), batch_of_seven()
    batch["teacher_logits"] = model(batch["input_ids"]).logits.detach().float()
    for teacher_loss in ("mse", "kl"):
        output = loss_of(model, batch, teacher_loss=teacher_loss)
        assert output.loss.item() == pytest.approx(0, abs=1e-6)
        assert output.metrics["agreement"][0] == 7 == output.metrics["agreement"][1]


def test_alpha_1_is_cross_entropy_of_the_labelled_examples_and_needs_no_teacher():
    model, batch = Linear(), batch_of_seven()
    del batch["teacher_logits"]
    expected = functional.cross_entropy(
        model(batch["input_ids"]).logits.float(), LABELS, ignore_index=-100
    )
    output = loss_of(model, batch, alpha=1.0)
    torch.testing.assert_close(output.loss, expected)
    assert "agreement" not in output.metrics and output.metrics["accuracy"][1] == 5


def test_unlabelled_examples_have_the_label_of_the_teacher():
    model, batch = Linear(), batch_of_seven()
    student = model(batch["input_ids"]).logits.float()
    expected = []
    for row, label in enumerate(LABELS.tolist()):
        soft = functional.mse_loss(student[row], batch["teacher_logits"][row])
        if label == -100:
            label = int(batch["teacher_logits"][row].argmax())
        hard = functional.cross_entropy(student[row], torch.tensor(label))
        expected.append(0.7 * soft + 0.3 * hard)
    output = loss_of(model, batch, alpha=0.3)
    torch.testing.assert_close(output.loss, torch.stack(expected).mean())
    total, count = output.metrics["loss"]
    assert count == 7 and total.item() / 7 == pytest.approx(output.loss.item(), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("teacher_loss", ["mse", "kl"])
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_step(alpha, teacher_loss):
    model, batch = Linear(), batch_of_seven()
    objective = DistillationObjective(teacher_loss=teacher_loss, temperature=1.0, alpha=alpha)
    whole = objective(model, batch, objective.counts(batch)).loss
    expected = torch.autograd.grad(whole, model.parameters())
    parts = [
        {key: value[rows] for key, value in batch.items()}
        for rows in np.split(np.arange(7), [2, 3])
    ]
    totals = {TERM: sum(objective.counts(part)[TERM] for part in parts)}
    losses = [objective(model, part, totals).loss for part in parts]
    found = torch.autograd.grad(sum(losses), model.parameters())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_a_step_of_unlabelled_examples_has_a_finite_loss_even_without_a_teacher():
    model, batch = Linear(), batch_of_seven()
    batch["labels"] = torch.full((7,), -100)
    assert loss_of(model, batch, alpha=1.0).loss == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0, "teacher_loss": "kl"}, "temperature is 0.0"),
        ({"temperature": float("nan"), "teacher_loss": "kl"}, "temperature is nan"),
        ({"temperature": float("inf"), "teacher_loss": "kl"}, "temperature is inf"),
        ({"hidden_weight": float("nan")}, "hidden_weight is nan"),
        ({"temperature": 2.0}, "use teacher_loss kl"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": -0.1}, "alpha is -0.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DistillationConfig(**options)


def test_the_share_of_the_labels_moves_with_the_progress_of_training():
    model, batch = Linear(), batch_of_seven()
    for progress, alpha in ((0.0, 0.2), (0.5, 0.6), (1.0, 1.0)):
        moved = batch | {"progress": torch.tensor(progress)}
        found = loss_of(model, moved, alpha=0.2, final_alpha=1.0).loss
        known = LABELS != -100
        student = model(batch["input_ids"]).logits.float()
        soft = (student - batch["teacher_logits"]).square().mean(1)
        labels = torch.where(known, LABELS, batch["teacher_logits"].argmax(1))
        hard = functional.cross_entropy(student, labels, reduction="none")
        expected = (alpha * hard + (1 - alpha) * soft).mean()
        torch.testing.assert_close(found, expected)


def test_label_smoothing_is_torchs():
    model, batch = Linear(), batch_of_seven()
    expected = functional.cross_entropy(
        model(batch["input_ids"]).logits.float(), LABELS, ignore_index=-100, label_smoothing=0.2
    )
    found = loss_of(model, batch, alpha=1.0, label_smoothing=0.2).loss
    # torch divides by the number of labels, as the mean over the labelled examples does
    torch.testing.assert_close(found, expected)


def test_scores_are_learned_from_the_teacher_and_from_known_scores():
    torch.manual_seed(0)
    model = Linear()
    model.layer = nn.Linear(4, 1).double()
    scores = torch.tensor([1.0, float("nan"), 3.0, 0.0, float("nan"), 2.0, 5.0])
    batch = batch_of_seven() | {"labels": scores, "teacher_logits": torch.randn(7, 1)}
    student = model(batch["input_ids"]).logits.float()[:, 0]
    soft = (student - batch["teacher_logits"][:, 0]).square()
    hard = (student - scores.nan_to_num()).square()
    expected = torch.where(scores.isnan(), soft, 0.3 * hard + 0.7 * soft).mean()
    output = loss_of(model, batch, alpha=0.3)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.layer.weight.grad.isfinite().all()
    assert set(output.metrics) == {"loss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final_alpha": 1.1}, "final_alpha is 1.1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"hidden_weight": -1.0}, "hidden_weight is -1.0"),
        ({"alpha": 1.0, "final_alpha": 0.5}, "the teacher is not asked"),
        ({"alpha": 1.0, "attention_weight": 0.5}, "the teacher is not asked"),
        ({"alpha": 1.0, "temperature": 2.0, "teacher_loss": "kl"}, "which are not softened"),
        ({"hidden_loss": "cosine"}, "hidden_loss is cosine, but hidden_weight is 0"),
        ({"attention_loss": "mse"}, "attention_loss is mse, but attention_weight is 0"),
    ],
)
def test_impossible_mixtures_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DistillationConfig(**options)
