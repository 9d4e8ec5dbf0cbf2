import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertModel

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.features import (
    FeatureExtractor,
    load_encoder,
    pool,
    random_encoder,
    state_indices,
    weights_sha256,
)

SIZES = {
    "vocab_size": 80,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
KINDS = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "mpnet": {},
    "deberta-v2": {},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2},
}


def build(kind):
    torch.manual_seed(0)
    sizes = SIZES
    if kind == "distilbert":
        sizes = {key: SIZES[key] for key in ("vocab_size", "max_position_embeddings")}
    model = random_encoder(AutoConfig.for_model(kind, **(sizes | KINDS[kind])))
    with torch.no_grad():  # deviation 0.02 would hide differences
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model


LENGTHS = [3, 9, 5]


def batch_of(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 80, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    types = (torch.arange(max(lengths)) > 1).long() * mask
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}


def by_hand(model, layers):
    """(tokens, L, H) of each row alone, without padding; places counted as the original does."""
    batch = batch_of()
    rows = []
    for row, length in enumerate(LENGTHS):
        inputs = {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}
        if getattr(model.config, "type_vocab_size", 0) < 2:
            del inputs["token_type_ids"]
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
        embeddings, *outputs = [state[0].numpy() for state in states]
        chosen = [embeddings if layer == -4 else outputs[layer] for layer in layers]
        rows.append(np.stack(chosen, axis=1))
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [[-1], [2], [-2, 0], [-4, 1]])
def test_features_are_the_hidden_states_of_each_text_alone(kind, layers):
    model = build(kind)
    expected = by_hand(model, layers)
    reductions = {
        "mean": lambda row: row.mean(0),
        "cls": lambda row: row[0],
        "max": lambda row: row.max(0),
    }
    for pooling, reduced in reductions.items():
        found = FeatureExtractor(model, layers=layers, pooling=pooling)(batch_of())
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, np.stack([reduced(row) for row in expected]), atol=2e-5)
    found = FeatureExtractor(model, layers=layers, pooling="none")(batch_of())
    for row, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=2e-5)


def test_the_last_layer_is_what_the_model_calls_so():
    model = build("bert")
    inputs = batch_of()
    found = FeatureExtractor(model, layers=[-1], pooling="none")(inputs)[:, :, 0]
    with torch.no_grad():
        torch.testing.assert_close(found, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_rows_come_back_in_their_own_order(pooling):
    model = build("bert")
    extractor = FeatureExtractor(model, layers=[-1], pooling=pooling)
    batch = batch_of()
    told = []
    parts = [np.array([1]), np.array([2, 0])]
    widths = [max(LENGTHS[index] for index in part) for part in parts]
    batches = [
        (part, {name: tensor[part, :width] for name, tensor in batch.items()})
        for part, width in zip(parts, widths, strict=True)
    ]
    found = extractor.rows(batches, np.array(LENGTHS), progress=told.append)
    expected = by_hand(model, [-1])
    if pooling == "mean":
        expected = [row.mean(0, keepdims=True) for row in expected]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-5)
    assert told == [1, 2]


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0, -5.0], [3.0, -1.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2, -3]]
    assert pool(hidden, mask, "max").tolist() == [[3, -1]]
    assert pool(hidden, mask, "cls").tolist() == [[1, -5]]


def test_layers_are_counted_from_both_ends():
    assert state_indices([0, -1, -13], 12) == [1, 12, 0]
    assert state_indices([11], 12) == [12]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers is empty"),
        ([12], "layer 12 is not there: the model has 12 layers, 0 to 11"),
        ([-14], "layer -14 is not there"),
        ([11, -1], "name one layer twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, message):
    with pytest.raises(ConfigError, match=message):
        state_indices(layers, 12)


def test_a_classifier_gives_its_encoder(tmp_path):
    config = AutoConfig.for_model("bert", **SIZES)
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    classifier.save_pretrained(tmp_path)
    model = load_encoder(tmp_path)
    for name, weight in classifier.bert.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight)
    assert not model.training


def test_a_missing_pooler_does_not_matter(tmp_path):
    model = build("bert")
    BertModel(model.config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert not any("pooler" in name for name in load_file(tmp_path / "model.safetensors"))
    assert load_encoder(tmp_path).config.num_hidden_layers == 3


def test_the_sum_of_the_weights_tells_models_apart(tmp_path):
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        torch.manual_seed(seed)
        AutoModel.from_config(AutoConfig.for_model("bert", **SIZES)).save_pretrained(
            tmp_path / name
        )
    sums = [weights_sha256(tmp_path / name) for name in "abc"]
    assert sums[0] == sums[1] != sums[2]


def save_bilstm(folder):
    build_bilstm(
        BiLstmSizeConfig(embedding_size=8, hidden_size=8, classifier_size=8),
        vocab_size=80, pad_token_id=0, label_names=("a", "b"),
    ).save_pretrained(folder)  # fmt: skip


def save_config(kind):
    return lambda folder: AutoConfig.for_model(kind).save_pretrained(folder)


def save_transformer_xl(folder):
    config = AutoConfig.for_model("transformer_xl", vocab_size=80, hidden_size=16, num_layers=1)
    AutoModel.from_config(config).save_pretrained(folder)


def save_damaged(folder):
    AutoConfig.for_model("bert", **SIZES).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")


def save_incomplete(folder):
    build("bert").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda folder: None, r"is not a model folder: it has no config\.json"),
        (save_bilstm, "'bilstm', which has no layers.*expected a transformer encoder such as BERT"),
        (save_config("t5"), "an encoder-decoder"),
        (save_transformer_xl, "'transformer_xl', which reads a text without a mask"),
        (save_damaged, "cannot load the model"),
        (save_incomplete, r"no weights for 16 parameters.*encoder\.layer\.1\..*would be random"),
    ],
)
def test_what_is_no_encoder_is_refused(save, message, tmp_path):
    save(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path)


def test_a_random_encoder_has_the_size_asked_for():
    size = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2)
    model = random_encoder(bert_config(size, vocab_size=80, pad_token_id=0))
    assert model.config.num_hidden_layers == 1 and not model.training
