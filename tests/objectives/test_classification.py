import numpy as np
import pytest
import sklearn.utils.class_weight
import torch
import torch.nn.functional as functional
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
)

from nlpapp.errors import ConfigError
from nlpapp.models.classifier_heads import sample_dropout
from nlpapp.objectives.classification import (
    ClassificationLossConfig,
    ClassificationObjective,
    forward_logits,
    weights_of_classes,
)

BERT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
CONFIGS = {
    "bert": BertConfig(vocab_size=50, max_position_embeddings=20, **BERT),
    "roberta": RobertaConfig(vocab_size=50, max_position_embeddings=20, type_vocab_size=1, **BERT),
    "distilbert": DistilBertConfig(
        vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=20
    ),
    "gpt2": GPT2Config(
        vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=20, pad_token_id=0
    ),
}


def model_of(name, num_labels=3):
    torch.manual_seed(0)
    config = CONFIGS[name]
    config.num_labels = num_labels
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch_of(labels):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (len(labels), 8), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids[0, 5:] = 0
    types = torch.zeros_like(ids)
    types[:, 4:] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "labels": torch.tensor(labels),
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_model_called_by_hand(name):
    model, batch = model_of(name), batch_of([0, 2, 1])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if name == "bert":
        inputs["token_type_ids"] = batch["token_type_ids"]
    with torch.no_grad():
        assert torch.equal(forward_logits(model, batch), model(**inputs).logits)


def test_a_wrapped_model_gets_the_same_inputs():
    class Wrapped(torch.nn.Module):
        """Hides the signature, as DistributedDataParallel does."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **kwargs):
            return self.module(*inputs, **kwargs)

    model, batch = model_of("distilbert"), batch_of([0, 2, 1])
    assert torch.equal(forward_logits(Wrapped(model), batch), forward_logits(model, batch))


def test_loss_is_transformers_own_mean_when_the_step_is_one_batch():
    model, batch = model_of("bert"), batch_of([0, 2, 1])
    objective = ClassificationObjective(3)
    output = objective(model, batch, objective.counts(batch))
    assert torch.allclose(output.loss, model(**batch).loss)
    total, count = output.metrics["accuracy"]
    right = (model(**batch).logits.argmax(-1) == batch["labels"]).sum()
    assert (int(total), count) == (int(right), 3)


def test_unequal_micro_batches_add_up_to_the_step():
    model, batch = model_of("bert"), batch_of([0, 2, 1, 1, 0])
    objective = ClassificationObjective(3)
    whole = objective(model, batch, {"classification": 5.0}).loss
    parts = [
        objective(model, {k: v[rows] for k, v in batch.items()}, {"classification": 5.0}).loss
        for rows in (slice(0, 1), slice(1, 5))
    ]
    assert torch.allclose(sum(parts), whole)


def test_one_label_is_a_regression():
    model, batch = model_of("bert", num_labels=1), batch_of([0.5, 4.0, -1.0])
    objective = ClassificationObjective(1)
    output = objective(model, batch, {"classification": 3.0})
    scores = forward_logits(model, batch).squeeze(-1)
    assert torch.allclose(output.loss, functional.mse_loss(scores, batch["labels"]))
    assert set(output.metrics) == {"loss"}


def loss_of(model, batch, num_labels=3, **options):
    objective = ClassificationObjective(num_labels, loss=ClassificationLossConfig(**options))
    return objective(model, batch, objective.counts(batch)).loss


def test_label_smoothing_and_class_weights_are_torchs():
    model, batch = model_of("bert"), batch_of([0, 2, 1, 1])
    logits = forward_logits(model, batch)
    weights = torch.tensor([1.0, 3.0, 0.5])
    expected = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    assert torch.allclose(loss_of(model, batch, label_smoothing=0.1), expected)
    expected = functional.cross_entropy(logits, batch["labels"], weight=weights)
    assert torch.allclose(loss_of(model, batch, class_weights=weights.tolist()), expected)


def test_weighted_micro_batches_add_up_to_the_step():
    model, batch = model_of("bert"), batch_of([0, 2, 1, 1, 0])
    loss = ClassificationLossConfig(class_weights=[1.0, 3.0, 0.5])
    objective = ClassificationObjective(3, loss=loss)
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(0, 1), slice(1, 5))]
    counts = {"classification": sum(objective.counts(p)["classification"] for p in parts)}
    assert counts == objective.counts(batch) == {"classification": 8.5}
    whole = objective(model, batch, counts).loss
    assert torch.allclose(sum(objective(model, part, counts).loss for part in parts), whole)


def test_several_classes_a_row_are_transformers_loss():
    model, batch = model_of("bert"), batch_of([0, 1])
    batch["labels"] = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    model.config.problem_type = "multi_label_classification"
    assert torch.allclose(loss_of(model, batch), model(**batch).loss)
    weights = torch.tensor([2.0, 1.0, 4.0])
    expected = functional.binary_cross_entropy_with_logits(
        forward_logits(model, batch), batch["labels"], pos_weight=weights
    )
    assert torch.allclose(loss_of(model, batch, class_weights=weights.tolist()), expected)


def test_balanced_weights_equal_scikit_learn():
    labels = np.array([0, 0, 0, 2, 1, 0, 2])
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=labels
    )
    weights = weights_of_classes("balanced", labels, 3)
    assert weights.tolist() == pytest.approx(expected.tolist())
    several = np.array([[1, 0], [1, 1], [1, 0], [0, 1]])
    assert weights_of_classes("balanced", several, 2).tolist() == pytest.approx([1 / 3, 1])
    assert weights_of_classes([1, 2, 0.5], labels, 3).tolist() == [1, 2, 0.5]
    assert weights_of_classes(None, labels, 3) is None
    with pytest.raises(ConfigError, match="class_weights is balanced; expected 3 numbers"):
        weights_of_classes("balanced", None, 3)


@pytest.mark.parametrize("wanted", [[1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_weights_that_do_not_fit(wanted):
    with pytest.raises(ConfigError, match="expected 3 numbers, one for each class"):
        weights_of_classes(wanted, np.array([0, 1, 2]), 3)
    with pytest.raises(ConfigError, match="the labels are scores"):
        weights_of_classes(wanted, np.array([0.5]), 1)


@pytest.mark.parametrize("options", [{"label_smoothing": 1.0}, {"r_drop": -1}, {"adversarial": -1}])
def test_loss_options_out_of_range(options):
    with pytest.raises(ConfigError, match=f"loss.{next(iter(options))} is"):
        ClassificationLossConfig(**options)


def test_label_smoothing_of_scores_is_refused():
    with pytest.raises(ConfigError, match="label_smoothing is 0.1, but the labels are scores"):
        ClassificationObjective(1, loss=ClassificationLossConfig(label_smoothing=0.1))


def test_r_drop_is_the_papers_formula():
    """0.5 (CE1 + CE2) + alpha / 2 (KL(p|q) + KL(q|p)), as in the authors' code."""
    model, batch = model_of("bert").train(), batch_of([0, 2, 1])
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    torch.manual_seed(5)
    first, second = forward_logits(model, twice).chunk(2)
    assert not torch.allclose(first, second)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    entropies = [functional.cross_entropy(logits, batch["labels"]) for logits in (first, second)]
    apart = functional.kl_div(q, p, log_target=True, reduction="batchmean")
    back = functional.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.manual_seed(5)
    loss = loss_of(model, batch, r_drop=0.7)
    assert torch.allclose(loss, sum(entropies) / 2 + 0.7 * (apart + back) / 2)


def test_r_drop_without_dropout_is_the_plain_loss():
    model, batch = model_of("bert"), batch_of([0, 2, 1])
    assert torch.allclose(loss_of(model, batch, r_drop=3.0), loss_of(model, batch))
    several = batch | {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])}
    assert torch.allclose(loss_of(model, several, r_drop=3.0), loss_of(model, several))
    scores = batch | {"labels": torch.tensor([0.5, 1.0, 2.0])}
    one = model_of("bert", num_labels=1)
    assert torch.allclose(loss_of(one, scores, 1, r_drop=3.0), loss_of(one, scores, 1))


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_the_adversarial_loss_is_that_of_moved_embeddings(name):
    """The plain loss and that at embeddings + size g / |g|, with gradients of both."""
    model, batch = model_of(name), batch_of([0, 2, 1])
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = {"attention_mask": batch["attention_mask"]}
    if name == "bert":
        inputs["token_type_ids"] = batch["token_type_ids"]

    def plain(embedded):
        return functional.cross_entropy(
            model(inputs_embeds=embedded, **inputs).logits, batch["labels"]
        )

    (slope,) = torch.autograd.grad(plain(embeddings), embeddings)
    norms = torch.stack([row.norm() for row in slope])
    shift = 0.8 * slope / norms[:, None, None]
    moved = model.get_input_embeddings()(batch["input_ids"]) + shift
    expected = plain(model.get_input_embeddings()(batch["input_ids"])) + plain(moved)
    expected.backward()
    gradients = [weights.grad.clone() for weights in model.parameters()]
    model.zero_grad()
    loss = loss_of(model, batch, adversarial=0.8)
    loss.backward()
    assert torch.allclose(loss, expected)
    assert loss > 2 * loss_of(model, batch)
    for weights, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.allclose(weights.grad, gradient, atol=1e-6)


def test_hooks_do_not_stay():
    model, batch = model_of("bert"), batch_of([0, 2, 1])
    loss_of(model, batch, adversarial=1.0)
    assert not model.get_input_embeddings()._forward_hooks
    broken = batch | {"labels": torch.tensor([0, 2, 9])}
    with pytest.raises(IndexError):
        loss_of(model, broken, adversarial=1.0)
    assert not model.get_input_embeddings()._forward_hooks


def test_the_losses_of_dropout_samples_are_averaged():
    CONFIGS["bert"].hidden_dropout_prob = 0.1
    model, batch = model_of("bert").train(), batch_of([0, 2, 1])
    sample_dropout(model, 5)
    torch.manual_seed(7)
    logits = forward_logits(model, batch)  # (B, K, C)
    losses = [functional.cross_entropy(logits[:, k], batch["labels"]) for k in range(5)]
    torch.manual_seed(7)
    objective = ClassificationObjective(3)
    output = objective(model, batch, objective.counts(batch))
    assert torch.allclose(output.loss, torch.stack(losses).mean())
    right = (logits.mean(1).argmax(-1) == batch["labels"]).sum()
    assert int(output.metrics["accuracy"][0]) == int(right)
    torch.manual_seed(7)
    both = loss_of(model, batch, r_drop=1.0, adversarial=0.5)
    assert torch.isfinite(both)
    assert both > output.loss
