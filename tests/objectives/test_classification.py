import pytest
import torch
import torch.nn.functional as functional
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
)

from nlpapp.objectives.classification import ClassificationObjective, forward_logits

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
