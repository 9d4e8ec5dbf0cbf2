import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    RobertaConfig,
)

from nlpapp.errors import ConfigError
from nlpapp.models.classifier_heads import (
    MultiSampleLinear,
    reinitialize_top_layers,
    sample_dropout,
)
from nlpapp.models.classifiers import set_dropout

SIZE = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
IDS = {"input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 6, 3]])}


def model_of(config):
    torch.manual_seed(0)
    config.num_labels = 3
    return AutoModelForSequenceClassification.from_config(config).train()


def bert(**options):
    return model_of(BertConfig(vocab_size=50, **SIZE, **options))


def test_top_layers_and_pooler_start_anew_after_loading(tmp_path):
    model = bert()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)  # no initialisation gives this
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.manual_seed(1)
    reinitialize_top_layers(loaded, 2)
    anew = {name for name, weights in loaded.named_parameters() if not (weights == 7.0).all()}
    expected = {
        name
        for name, _ in loaded.named_parameters()
        if "layer.1." in name or "layer.2." in name or "pooler" in name
    }
    assert anew == expected
    query = loaded.bert.encoder.layer[2].attention.self.query
    assert query.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not query.bias.any()
    assert (loaded.bert.encoder.layer[1].output.LayerNorm.weight == 1).all()


def test_no_layer_changes_nothing():
    model = bert()
    before = [weights.clone() for weights in model.parameters()]
    reinitialize_top_layers(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("count", "albert"), [(4, False), (-1, False), (1, True)])
def test_layers_that_are_not_there(count, albert):
    model = model_of(AlbertConfig(vocab_size=50, **SIZE)) if albert else bert()
    layers = 0 if albert else 3
    with pytest.raises(ConfigError, match=f"has {layers} layers that can start anew"):
        reinitialize_top_layers(model, count)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_samples_are_the_head_on_masked_features(name):
    config = BertConfig if name == "bert" else RobertaConfig
    model = model_of(config(vocab_size=50, hidden_dropout_prob=0.5, pad_token_id=0, **SIZE))
    plain = model.eval()(**IDS).logits
    sample_dropout(model, 4)
    assert torch.equal(model(**IDS).logits, plain)
    last = next(module for module in model.modules() if isinstance(module, MultiSampleLinear))
    seen = []
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(3)
    logits = model.train()(**IDS).logits
    assert logits.shape == (2, 4, 3)
    # Each sample is the plain layer on the same features with some of them zeroed, others doubled.
    (features,) = seen
    last.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    last(features)
    kept = seen[-1] != 0
    assert torch.equal(seen[-1][kept], (2 * features[:, None]).expand(-1, 4, -1)[kept])
    assert 0.2 < kept.float().mean() < 0.8
    assert not torch.equal(logits[:, 0], logits[:, 1])


def test_weights_keep_their_names():
    model = bert()
    before = set(model.state_dict())
    sample_dropout(model, 2)
    assert set(model.state_dict()) == before
    assert sum(weights.numel() for weights in model.parameters()) == sum(
        weights.numel() for weights in bert().parameters()
    )
    model(**IDS).logits.sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_a_head_without_dropout_is_refused():
    model = bert(hidden_dropout_prob=0.0)
    with pytest.raises(ConfigError, match="BertForSequenceClassification has 0; --dropout sets"):
        sample_dropout(model, 2)
    set_dropout(model, 0.1)
    sample_dropout(model, 2)
    gpt = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    with pytest.raises(ConfigError, match="needs a model with dropout in its head"):
        sample_dropout(model_of(gpt), 2)
    with pytest.raises(ConfigError, match="it must be 0 or more"):
        sample_dropout(bert(), -1)
    sample_dropout(bert(hidden_dropout_prob=0.0), 0)
