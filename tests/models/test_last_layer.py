"""The last layer at the tokens that are read, against the whole layer."""

import copy

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.last_layer import tokens_to_read

SIZE = BertSizeConfig(
    num_layers=2, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0
)


@pytest.fixture
def bert() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(bert_config(SIZE, vocab_size=50)).train()


def make_batch(lengths: list[int], masked: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": torch.randint(5, 50, shape, generator=generator) * mask,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(shape[1]) > 2).long() * mask,
        "masked_positions": torch.tensor(masked, dtype=torch.long),
        "masked_labels": torch.randint(5, 50, (len(masked),), generator=generator),
    }


def test_the_tokens_to_read():
    read = tokens_to_read(torch.tensor([2, 4, 11, 12, 14, 18]), (4, 5))
    assert read.columns.tolist() == [[0, 2, 4, 0], [0, 0, 0, 0], [0, 1, 2, 4], [0, 3, 0, 0]]
    assert read.places.tolist() == [1, 2, 9, 10, 11, 13]
    nothing = tokens_to_read(torch.tensor([], dtype=torch.long), (2, 5))
    assert nothing.columns.tolist() == [[0], [0]] and len(nothing.places) == 0


def whole_model(bert, batch):
    """The same losses from transformers' own forward, every layer at every token."""
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    outputs = bert(**inputs)
    scores = outputs.prediction_logits.flatten(0, 1)[batch["masked_positions"]]
    loss = torch.nn.functional.cross_entropy(scores, batch["masked_labels"], reduction="sum")
    return loss, outputs.seq_relationship_logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("lengths", "masked"),
    [([6, 6, 6], [1, 3, 8, 16]), ([9, 4, 7, 2], [3, 5, 8, 10, 19, 22, 23, 28]), ([5, 5], [0, 4])],
)
def test_loss_and_gradients_are_those_of_the_whole_layer(
    bert, lengths, masked, checkpointing, attention
):
    batch = make_batch(lengths, masked)
    bert.set_attn_implementation(attention)
    plain = copy.deepcopy(bert)
    if checkpointing:
        bert.gradient_checkpointing_enable({"use_reentrant": False})
    loss, _, pairs = BertPretrainingModel(bert)(**batch)
    expected, expected_pairs = whole_model(plain, batch)
    torch.testing.assert_close((loss, pairs), (expected, expected_pairs))
    (loss + pairs.logsumexp(1).sum()).backward()
    (expected + expected_pairs.logsumexp(1).sum()).backward()
    for (name, ours), other in zip(bert.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_only_what_is_read_goes_through_the_feed_forward_layer(bert):
    shapes = []
    for layer in bert.bert.encoder.layer:
        layer.intermediate.register_forward_hook(
            lambda _, inputs, output: shapes.append(tuple(inputs[0].shape))
        )
    BertPretrainingModel(bert)(**make_batch([9, 9], [3, 5, 8, 12]))
    assert shapes == [(2, 9, 16), (2, 4, 16)]


def test_the_wrapped_bert_and_its_copies_still_work(bert, tmp_path):
    batch = make_batch([9, 4, 7, 2], [3, 10])
    expected, _ = whole_model(copy.deepcopy(bert), batch)
    model = copy.deepcopy(BertPretrainingModel(bert))
    torch.testing.assert_close(whole_model(model.bert, batch)[0], expected)
    with torch.no_grad():
        bert.bert.encoder.layer[-1].output.dense.weight.zero_()  # A copy has weights of its own.
    torch.testing.assert_close(model(**batch)[0], expected)
    model.bert.save_pretrained(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path).train()
    torch.testing.assert_close(whole_model(again, batch)[0], expected)


def test_dropout_is_at_work_in_training_only():
    torch.manual_seed(0)
    size = BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, dropout=0.5)
    model = BertPretrainingModel(BertForPreTraining(bert_config(size, vocab_size=50)))
    batch = make_batch([9, 4], [3, 10])
    assert model.train()(**batch)[0] != model(**batch)[0]
    assert model.eval()(**batch)[0] == model(**batch)[0]
