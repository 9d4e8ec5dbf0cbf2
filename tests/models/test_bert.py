"""Our pretraining model against transformers' with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForPreTraining,
)

from nlpapp.models.bert import BertPretrainingModel
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


def test_outputs_equal_transformers_at_the_masked_positions(bert, batch):
    positions = torch.tensor([2, 9, 13, 26])
    labels = torch.tensor([7, 8, 9, 10])
    reference = bert(**batch)
    scores = reference.prediction_logits.flatten(0, 1)[positions]
    labels[1] = scores[1].argmax()
    loss, right, next_sentence = BertPretrainingModel(bert)(
        **batch, masked_positions=positions, masked_labels=labels
    )
    torch.testing.assert_close(loss, F.cross_entropy(scores, labels, reduction="sum"))
    assert right == (scores.argmax(1) == labels).sum() and right >= 1
    assert next_sentence.shape == (3, 2)
    torch.testing.assert_close(next_sentence, reference.seq_relationship_logits)


def test_nothing_to_predict_is_no_loss(bert, batch):
    none = torch.empty(0, dtype=torch.long)
    outputs = BertPretrainingModel(bert)(**batch, masked_positions=none, masked_labels=none)
    assert outputs[0] == 0 and outputs[1] == 0


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
