"""Our pretraining model against transformers' with the same weights."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForPreTraining,
)

from nlpapp.models.bert import BertPretrainingModel, apply_similarity_start
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.pretrained import save_model_folder

SIZE = BertSizeConfig(num_layers=2, hidden_size=16, num_heads=2, max_position_embeddings=32)


@pytest.fixture
def bert() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(bert_config(SIZE, vocab_size=50)).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {
        "input_ids": torch.randint(5, 50, (3, 9), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 3),
    }


def test_logits_equal_transformers_at_the_masked_positions(bert, batch):
    positions = torch.tensor([2, 9, 13, 26])
    masked_lm, next_sentence = BertPretrainingModel(bert)(**batch, masked_positions=positions)
    reference = bert(**batch)
    assert masked_lm.shape == (4, 50) and next_sentence.shape == (3, 2)
    torch.testing.assert_close(masked_lm, reference.prediction_logits.flatten(0, 1)[positions])
    torch.testing.assert_close(next_sentence, reference.seq_relationship_logits)


def test_nothing_to_predict_gives_no_logits(bert, batch):
    none = torch.empty(0, dtype=torch.long)
    assert BertPretrainingModel(bert)(**batch, masked_positions=none)[0].shape == (0, 50)


def test_the_folder_loads_in_transformers_with_equal_outputs(bert, batch, tmp_path):
    save_model_folder(bert, tmp_path / "model", fingerprint="f" * 64)
    reference = bert(**batch)
    again = BertForPreTraining.from_pretrained(tmp_path / "model").eval()(**batch)
    torch.testing.assert_close(again.prediction_logits, reference.prediction_logits)
    torch.testing.assert_close(again.seq_relationship_logits, reference.seq_relationship_logits)
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()(**batch)
    torch.testing.assert_close(masked.logits, reference.prediction_logits)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(
        classifier.bert(**batch).pooler_output, bert.bert(**batch).pooler_output
    )


def test_similarity_start_makes_equal_words_attend_to_each_other():
    size = BertSizeConfig(
        num_layers=2, hidden_size=64, num_heads=2, initializer_range=0.1, similarity_start=True
    )
    torch.manual_seed(0)
    model = apply_similarity_start(BertForPreTraining(bert_config(size, vocab_size=50)).eval())
    model.set_attn_implementation("eager")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 6, 11]])
    attention = model.bert(input_ids=ids, output_attentions=True).attentions[0].mean(1)[0]
    others = [column for column in range(8) if column not in (1, 6)]
    assert attention[1, 6] > 2 * attention[1, others].max()


def test_similarity_start_is_off_unless_asked_for():
    torch.manual_seed(0)
    model = BertForPreTraining(bert_config(SIZE, vocab_size=50))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_similarity_start(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
