import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import (
    align_labels,
    build_classifier,
    label_names_of,
    local_folder,
    open_classifier,
    renamed_labels,
    set_dropout,
)
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLModel

SIZE = BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32)


def build(folder=None, *, names=("n", "p"), seed=0, from_scratch=False):
    torch.manual_seed(seed)
    return build_classifier(
        folder,
        label_names=names,
        from_scratch=from_scratch,
        size=SIZE,
        vocab_size=40,
        pad_token_id=0,
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    folder = tmp_path_factory.mktemp("pretrained")
    BertForPreTraining(config).save_pretrained(folder)
    return folder


def embeddings(model):
    return model.get_input_embeddings().weight


def test_random_bert_has_the_size_and_the_names():
    model = build(names=("a", "b", "c"))
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert (model.config.hidden_size, model.config.intermediate_size) == (16, 64)
    assert label_names_of(model) == ("a", "b", "c")
    assert torch.equal(embeddings(build(seed=3)), embeddings(build(seed=3)))
    assert not torch.equal(embeddings(build(seed=3)), embeddings(build(seed=4)))


def test_pretrained_weights_come_with_a_new_head(pretrained):
    model = build(pretrained)
    expected = BertForPreTraining.from_pretrained(pretrained)
    assert torch.equal(embeddings(model), embeddings(expected))
    assert model.classifier.out_features == 2
    assert model.dtype == torch.float32


def test_from_scratch_takes_the_architecture_only(pretrained):
    model = build(pretrained, from_scratch=True)
    assert not torch.equal(embeddings(model), embeddings(build(pretrained)))
    assert model.config.hidden_size == 16
    assert label_names_of(model) == ("n", "p")


def test_a_head_of_another_size_starts_anew(pretrained, tmp_path):
    """RTE (2 classes) from MNLI's model (3 classes)."""
    build(pretrained, names=("a", "b", "c")).save_pretrained(tmp_path)
    assert build(tmp_path, names=("n", "p")).classifier.out_features == 2
    assert build(tmp_path, names=()).classifier.out_features == 1


def test_a_head_of_the_same_classes_follows_the_datas_order(tmp_path):
    """WNLI from RTE's model, whose classes are the same in another order."""
    saved = build(names=("x", "y", "z"))
    torch.nn.init.normal_(saved.classifier.bias)
    saved.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = saved.eval()(ids).logits[:, [2, 0, 1]]
        model = build(tmp_path, names=("Z", "X", "Y")).eval()
        torch.testing.assert_close(model(ids).logits, expected)
    assert label_names_of(model) == ("Z", "X", "Y")
    # A head of other classes is kept as it is.
    other = build(tmp_path, names=("z", "x", "w"))
    assert torch.equal(other.classifier.weight, saved.classifier.weight)


def test_scores_have_one_output_and_no_names():
    model = build(names=())
    assert model.config.problem_type == "regression"
    assert model.classifier.out_features == 1
    assert label_names_of(model) == ()


def test_names_survive_saving_in_their_order(tmp_path):
    build(names=tuple("zyxwvutsrqponm")).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert label_names_of(loaded) == tuple("zyxwvutsrqponm")


def test_open_classifier_loads_or_makes_one(tmp_path, pretrained):
    options = dict(size=SIZE, vocab_size=40, pad_token_id=0)
    build().save_pretrained(tmp_path)
    assert label_names_of(open_classifier(tmp_path, label_names=None, **options)) == ("n", "p")
    random = open_classifier(None, label_names=None, **options)
    assert label_names_of(random) == ("LABEL_0", "LABEL_1")
    with pytest.raises(CheckpointError, match="not a sequence classifier"):
        open_classifier(pretrained, label_names=None, **options)


def test_labels_are_aligned_by_name():
    assert align_labels(("b", "a", "c"), ("a", "b", "c")) == [1, 0, 2]
    assert align_labels(("LABEL_0", "LABEL_1"), ("neg", "pos")) == [0, 1]
    assert align_labels((), ()) == []
    assert align_labels(("POSITIVE", "Negative"), ("negative", "positive")) == [1, 0]
    with pytest.raises(ConfigError, match="classes are N, P; the data's are n, p, P"):
        align_labels(("N", "P"), ("n", "p", "P"))
    with pytest.raises(ConfigError, match="write the data's into id2label"):
        align_labels(("NEG", "neg"), ("neg", "Neg"))
    with pytest.raises(ConfigError, match=r"none \(a score\)"):
        align_labels((), ("neg", "pos"))


def test_renaming_needs_a_name_for_each_class():
    model = build()
    assert renamed_labels(model, None) == ("n", "p")
    assert renamed_labels(model, ["0", "1"]) == ("0", "1")
    with pytest.raises(ConfigError, match="3 names; the model has 2 classes: n, p"):
        renamed_labels(model, ["a", "b", "c"])


def test_a_name_that_is_nowhere_says_so(tmp_path, monkeypatch):
    assert local_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="neither a folder here nor a model"):
        local_folder("no-such-owner/no-such-model")


def test_dropout_of_hidden_states_and_attention_is_set():
    size = BertSizeConfig(num_layers=2, hidden_size=16, num_heads=2, dropout=0.0)
    model = build_classifier(
        None, label_names=("a", "b"), size=size, vocab_size=50, pad_token_id=0
    ).train()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, model(ids).logits)
    set_dropout(model, 0.5)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert model.bert.encoder.layer[0].attention.self.dropout.p == 0.5


def test_dropout_of_modern_bert_is_set_in_attention_too():
    config = ModernBertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model = ModernBertForSequenceClassification(config)
    set_dropout(model.train(), 0.25)
    for layer in model.model.layers:
        assert layer.attn.attention_dropout == 0.25
        assert layer.attn.out_drop.p == 0.25
    set_dropout(model, 0.0)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_dropout_of_a_transformer_xls_attention_is_set(positions):
    config = TransformerXLConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mem_len=0,
        position_embedding_type=positions, initializer_range=0.3, attention_dropout=0.5,
    )  # fmt: skip
    model = TransformerXLModel(config)
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model.eval()(ids).last_hidden_state
    set_dropout(model.train(), 0.0)
    torch.testing.assert_close(model(ids).last_hidden_state, expected)
    set_dropout(model, 0.25)
    assert [layer.attention.dropout.p for layer in model.layers] == [0.25, 0.25]
    assert not any("dropout" in name for name in model.state_dict())


@pytest.mark.parametrize("model, probability", [(torch.nn.Dropout(), 1.0), (torch.nn.ReLU(), 0.1)])
def test_dropout_that_cannot_be_set_is_refused(model, probability):
    with pytest.raises(ConfigError, match="dropout"):
        set_dropout(model, probability)
