"""The model without padding against the same model with padding."""

import copy

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.unpadded import has_flash, pack

SIZE = BertSizeConfig(
    num_layers=2, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0
)


@pytest.fixture
def bert() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(bert_config(SIZE, vocab_size=50)).train()


def make_batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    rows, width = len(lengths), max(lengths)
    generator = torch.Generator().manual_seed(rows)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": torch.randint(5, 50, (rows, width), generator=generator) * mask,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(width) > 2).long() * mask,
        "masked_positions": torch.tensor([row * width + n - 2 for row, n in enumerate(lengths)]),
        "masked_labels": torch.randint(5, 50, (rows,), generator=generator),
    }


def outputs_and_gradients(model, batch):
    loss, right, pairs = model(**batch)
    (loss / 3 + pairs.logsumexp(1).sum()).backward()
    return loss, right, pairs, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", [[9, 4, 7, 2], [6, 6, 6]])
def test_loss_and_gradients_equal_the_padded_ones(bert, lengths, checkpointing):
    batch = make_batch(lengths)
    expected = outputs_and_gradients(BertPretrainingModel(copy.deepcopy(bert)), batch)
    if checkpointing:
        bert.gradient_checkpointing_enable({"use_reentrant": False})
    ours = outputs_and_gradients(BertPretrainingModel(bert, unpad=True), batch)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_dense_layers_see_real_tokens_only(bert):
    shapes = []
    bert.bert.encoder.layer[1].intermediate.register_forward_hook(
        lambda _, inputs, output: shapes.append(inputs[0].shape)
    )
    BertPretrainingModel(bert, unpad=True)(**make_batch([9, 4, 7, 2]))
    assert shapes == [(1, 22, 16)]


def test_what_padding_holds_does_not_matter(bert):
    model = BertPretrainingModel(bert, unpad=True)
    batch = make_batch([9, 4, 7, 2])
    other = batch | {"input_ids": batch["input_ids"] + 7 * (1 - batch["attention_mask"])}
    torch.testing.assert_close(model(**other), model(**batch), rtol=0, atol=0)


def test_the_wrapped_bert_still_works_by_itself(bert, tmp_path):
    batch = make_batch([9, 4, 7, 2])
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    expected = copy.deepcopy(bert)(**inputs).prediction_logits
    model = BertPretrainingModel(bert, unpad=True)
    torch.testing.assert_close(model.bert(**inputs).prediction_logits, expected)
    model.bert.save_pretrained(tmp_path)
    assert "unpadded" not in (tmp_path / "config.json").read_text()


def test_packed_rows():
    rows = pack(torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]))
    assert rows.tokens.tolist() == [0, 1, 3, 4, 5, 6]
    assert rows.starts.tolist() == [0, 2, 5, 6] and rows.starts.dtype == torch.int32
    assert rows.places[rows.tokens].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("unpad", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_compiles_for_any_shape(bert, unpad):
    """With a backend that runs the traced graphs as they are; compilers take minutes."""
    batches = [make_batch(lengths) for lengths in ([9, 4, 7, 2], [6, 11, 5])]
    plain = BertPretrainingModel(copy.deepcopy(bert), unpad=unpad)
    model = BertPretrainingModel(bert, unpad=unpad)
    torch._dynamo.reset()
    model.compile(dynamic=True, backend="eager")
    for batch in batches:
        torch.testing.assert_close(
            outputs_and_gradients(model, batch), outputs_and_gradients(plain, batch)
        )


def test_flash_attention_is_for_gpus():
    assert not has_flash(torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16), 0.0)
