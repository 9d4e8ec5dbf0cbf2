import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from nlpapp.errors import ConfigError
from nlpapp.models.multitask import MultiTaskClassifier, MultiTaskConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.objectives.classification import forward_logits
from tests.deployment.models import build_model

KINDS = ["bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "modernbert", "bilstm"]
SCORE = {0: "score"}


def rows(*, seed=0):
    rng = torch.Generator().manual_seed(seed)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    ids = torch.randint(5, 80, (4, 9), generator=rng) * mask
    return {"input_ids": ids, "attention_mask": mask}


def two_tasks(kind, **options):
    """The model of a task of three classes and one of scores, and the plain classifiers of them."""
    first, second = (
        build_model(kind, **options),
        build_model(kind, labels=SCORE, **options),
    )
    with torch.no_grad():  # so that the two encoders would be told apart
        for weight in second.parameters():
            weight.mul_(0.7)
    plain = [copy.deepcopy(first), copy.deepcopy(second)]
    plain[1].base_model.load_state_dict(first.base_model.state_dict())
    return MultiTaskClassifier.of({"words": first, "scores": second}), plain


@pytest.mark.parametrize("kind", KINDS)
def test_each_task_answers_as_its_classifier_on_the_firsts_encoder(kind, tmp_path):
    model, plain = two_tasks(kind)
    model.eval()
    save_model_folder(model, tmp_path / "model")
    again = MultiTaskClassifier.from_pretrained(tmp_path / "model").eval()
    assert again.task_names == ("words", "scores")
    assert again.state_dict().keys() == model.state_dict().keys()
    one = sum(weight.numel() for weight in plain[0].parameters())
    head = set(dict(plain[1].named_parameters())) - {
        f"{plain[1].base_model_prefix}.{name}" for name, _ in plain[1].base_model.named_parameters()
    }
    heads = sum(dict(plain[1].named_parameters())[name].numel() for name in head)
    assert model.num_parameters() == one + heads
    for number, (name, classifier) in enumerate(zip(model.task_names, plain, strict=True)):
        expected = forward_logits(classifier, rows())
        batch = rows() | {"task": torch.tensor(number)}
        for found in (model, again):
            torch.testing.assert_close(forward_logits(found, batch), expected)
        save_model_folder(model.classifier(name), tmp_path / name)
        alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        torch.testing.assert_close(forward_logits(alone, rows()), expected)
        assert alone.config.id2label == classifier.config.id2label


def test_the_saved_model_says_what_it_is_and_not_where_it_came_from(tmp_path):
    model, _ = two_tasks("bert")
    model.classifier("words").config._name_or_path = "somewhere/else"
    again = MultiTaskClassifier.of({name: model.classifier(name) for name in model.task_names})
    save_model_folder(again, tmp_path / "model")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "model"), MultiTaskClassifier)
    assert "somewhere" not in (tmp_path / "model" / "config.json").read_text()


def test_token_types_go_to_encoders_that_know_them():
    types = {"token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 4)}
    for kind, matters in (("bert", True), ("distilbert", False), ("roberta", False)):
        model, plain = two_tasks(kind)
        model.eval()
        found = forward_logits(model, rows() | types | {"task": torch.tensor(1)})
        torch.testing.assert_close(found, forward_logits(plain[1], rows() | types))
        without = forward_logits(model, rows() | {"task": torch.tensor(1)})
        assert torch.equal(found, without) != matters


def test_a_step_moves_the_encoder_and_the_tasks_head_as_without_the_others():
    model, plain = two_tasks("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train()
    plain[1].train()
    forward_logits(model, rows() | {"task": torch.tensor(1)}).square().sum().backward()
    forward_logits(plain[1], rows()).square().sum().backward()
    expected = {name: weight.grad for name, weight in plain[1].named_parameters()}
    for name, weight in model.classifier("scores").named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])
    for weight in model.heads[0].parameters():
        assert weight.grad is not None and not weight.grad.any()


def test_training_and_evaluation_are_set_everywhere():
    model, _ = two_tasks("bert", hidden_dropout_prob=0.5)
    for mode in (True, False):
        model.train(mode)
        assert all(module.training == mode for module in model.modules())
        assert all(model.classifier(number).training == mode for number in (0, 1))
    assert torch.equal(model(**rows()).logits, model(**rows()).logits)


def test_a_bilstm_reads_single_texts_and_pairs_with_one_encoder():
    first = build_model("bilstm")
    second = build_model("bilstm", labels=SCORE, siamese=True)
    expected = copy.deepcopy(second)
    expected.base_model.load_state_dict(first.base_model.state_dict())
    model = MultiTaskClassifier.of({"single": first, "pair": second}).eval()
    other = {f"{name}_b": value for name, value in rows(seed=1).items()}
    batch = rows() | other
    found = forward_logits(model, batch | {"task": torch.tensor(1)})
    torch.testing.assert_close(found, forward_logits(expected.eval(), batch))
    torch.testing.assert_close(
        forward_logits(model, rows() | {"task": torch.tensor(0)}), forward_logits(first, rows())
    )


class OutOfParts(PreTrainedModel):
    """A classifier with a weight that is in neither encoder nor head."""

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.post_init()


def test_a_model_whose_encoder_is_no_part_is_refused():
    with pytest.raises(ConfigError, match="OutOfParts cannot be shared"):
        MultiTaskClassifier.of({"one": OutOfParts(MultiTaskConfig())})
