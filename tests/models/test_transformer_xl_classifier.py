import pytest
import torch
import torch.nn.functional as functional
from transformers import AutoModelForSequenceClassification

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.classifier_heads import HeadConfig, change_head
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.pretrained import check_tokenizer_fits, save_model_folder
from nlpapp.models.transformer_xl import TransformerXLConfig
from nlpapp.models.transformer_xl_classifier import TransformerXLForSequenceClassification
from nlpapp.objectives.classification import ClassificationLossConfig, ClassificationObjective

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.tensor([[3, 7, 19, 1, 5], [2, 11, 4, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def build(**options):
    torch.manual_seed(0)
    sizes = SIZES | {"intermediate_size": 12, "initializer_range": 0.3, "num_labels": 3}
    return TransformerXLForSequenceClassification(TransformerXLConfig(**(sizes | options))).eval()


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"cutoffs": [5, 12], "div_val": 2, "pre_norm": True}])
def test_logits_are_a_linear_function_of_the_last_tokens_state(options):
    model = build(**options)
    found = model(IDS, attention_mask=MASK).logits
    for row, ids in enumerate([IDS[:1], IDS[1:, :3]]):
        state = model.transformer(ids).last_hidden_state[0, -1]
        expected = model.score.weight @ state + model.score.bias
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(model(IDS[:1]).logits, found[:1])
    assert not torch.allclose(model(IDS).logits[1], found[1])  # the mask does matter


def test_what_stands_in_the_padding_changes_nothing():
    model = build()
    with torch.no_grad():
        other = torch.where(MASK == 1, IDS, 9)
        torch.testing.assert_close(
            model(IDS, attention_mask=MASK).logits, model(other, attention_mask=MASK).logits
        )


def test_losses_are_those_of_classes_and_of_scores():
    model = build()
    labels = torch.tensor([2, 0])
    output = model(IDS, attention_mask=MASK, labels=labels)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
    model = build(num_labels=1)
    scores = torch.tensor([0.5, -1.0])
    output = model(IDS, attention_mask=MASK, labels=scores)
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - scores) ** 2).mean())


def test_it_starts_from_a_language_model_and_is_none(tmp_path):
    size = TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=2, inner_size=12)
    language_model = open_language_model(None, size=size, vocab_size=20, fingerprint="abc")
    save_model_folder(language_model, tmp_path / "model", fingerprint="abc")
    options = {"num_labels": 3, "problem_type": "single_label_classification"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", **options)
    assert isinstance(model, TransformerXLForSequenceClassification)
    expected = language_model.transformer.state_dict()
    for name, weight in model.transformer.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=0, rtol=0)
    assert model.score.weight.shape == (3, 8) and model.score.weight.std() > 0

    save_model_folder(model, tmp_path / "classifier", fingerprint="abc")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(IDS).logits, model.eval()(IDS).logits)
    with pytest.raises(CheckpointError, match="classifier holds a TransformerXLForSequenceClass"):
        open_language_model(tmp_path / "classifier", size=size, vocab_size=20, fingerprint="abc")


def test_tokenizers_that_do_not_fit_and_absolute_positions_are_refused():
    model = build(cutoffs=[5])
    check_tokenizer_fits(model, vocab_size=20)
    with pytest.raises(ConfigError, match="21 entries but the model's embedding has 20 rows"):
        check_tokenizer_fits(model, vocab_size=21)
    with pytest.raises(ConfigError, match="absolute positions counts them from the end"):
        build(position_embedding_type="absolute", mem_len=0)


def test_its_head_has_what_fine_tuning_changes():
    model = build(dropout=0.2)
    before = model.transformer.layers[1].attention.query.weight.clone()
    change_head(model, HeadConfig(multi_sample_dropout=4, reinitialize_layers=1))
    assert not torch.equal(model.transformer.layers[1].attention.query.weight, before)
    assert model.train()(IDS).logits.shape == (2, 4, 3)


def test_its_word_vectors_can_be_moved_uphill():
    """As adversarial training does, with the output of what turns ids into vectors."""
    objective = ClassificationObjective(3, loss=ClassificationLossConfig(adversarial=0.5))
    batch = {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
        "labels": torch.tensor([0, 2]),
    }
    model = build().eval()
    plain = ClassificationObjective(3)(model, batch, objective.counts(batch))
    attacked = objective(model, batch, objective.counts(batch))
    assert attacked.loss > 2 * plain.loss
