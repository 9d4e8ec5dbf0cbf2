"""The pretraining loss against transformers', and its exactness under any split of a step."""

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective

SIZE = BertSizeConfig(
    num_layers=2, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0
)


def make_batch(rows: int, masked_per_row: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(5, 50, (rows, 8), generator=generator)
    positions = [
        row * 8 + 1 + column for row, n in enumerate(masked_per_row) for column in range(n)
    ]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "masked_positions": torch.tensor(positions),
        "masked_labels": torch.randint(5, 50, (len(positions),), generator=generator),
        "next_sentence_labels": torch.randint(0, 2, (rows,), generator=generator),
    }


def take(batch: dict[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    inside = (batch["masked_positions"] >= start * 8) & (batch["masked_positions"] < stop * 8)
    part = {name: value[start:stop] for name, value in batch.items() if len(value) == 4}
    return part | {
        "masked_positions": batch["masked_positions"][inside] - start * 8,
        "masked_labels": batch["masked_labels"][inside],
    }


@pytest.fixture
def model() -> BertPretrainingModel:
    torch.manual_seed(0)
    return BertPretrainingModel(BertForPreTraining(bert_config(SIZE, vocab_size=50)))


def test_loss_equals_transformers(model):
    batch, objective = make_batch(4, [1, 3, 0, 2]), BertPretrainingObjective()
    ours = objective(model, batch, objective.counts(batch))
    labels = torch.full((4, 8), -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    theirs = model.bert(**inputs, labels=labels, next_sentence_label=batch["next_sentence_labels"])
    torch.testing.assert_close(ours.loss, theirs.loss)
    means = {name: float(total) / float(count) for name, (total, count) in ours.metrics.items()}
    assert objective.summary(means)["loss"] == pytest.approx(theirs.loss.item(), rel=1e-6)
    predicted = theirs.seq_relationship_logits.argmax(-1) == batch["next_sentence_labels"]
    assert means["next_sentence_accuracy"] == pytest.approx(predicted.float().mean().item())


def test_any_split_of_a_step_gives_the_same_loss_and_gradients(model):
    """Rows hold different numbers of masks: a mean of means would be wrong."""
    batch, objective = make_batch(4, [1, 3, 0, 2]), BertPretrainingObjective()
    counts = objective.counts(batch)
    assert counts == {"masked_lm": 6, "next_sentence": 4}
    whole = objective(model, batch, counts)
    whole.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = [objective(model, take(batch, *rows), counts) for rows in ((0, 1), (1, 3), (3, 4))]
    total = sum(part.loss for part in parts)
    torch.testing.assert_close(total, whole.loss)
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-5)


def test_without_pairs_the_next_sentence_head_gets_zero_gradients(model):
    batch, objective = make_batch(4, [1, 1, 1, 1]), BertPretrainingObjective()
    del batch["next_sentence_labels"]
    output = objective(model, batch, objective.counts(batch))
    output.loss.backward()
    assert set(output.metrics) == {"masked_lm_loss", "masked_lm_accuracy"}
    gradient = model.bert.cls.seq_relationship.weight.grad
    assert gradient is not None and not gradient.any()


def test_sentence_order_is_the_same_loss_under_its_own_name(model):
    batch, objective = make_batch(4, [1, 3, 0, 2]), BertPretrainingObjective()
    other = {name: value for name, value in batch.items() if name != "next_sentence_labels"}
    other["sentence_order_labels"] = batch["next_sentence_labels"]
    ours = objective(model, batch, objective.counts(batch))
    ordered = objective(model, other, objective.counts(other))
    torch.testing.assert_close(ours.loss, ordered.loss, rtol=0, atol=0)
    assert "next_sentence_loss" not in ordered.metrics
    assert ordered.metrics["sentence_order_loss"] == ours.metrics["next_sentence_loss"]
    means = {name: float(total) / float(count) for name, (total, count) in ordered.metrics.items()}
    total = means["masked_lm_loss"] + means["sentence_order_loss"]
    assert objective.summary(means)["loss"] == pytest.approx(total)
