import hashlib
import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nlpapp.deployment import export_formats
from nlpapp.deployment.export import (
    SUPPORTED,
    SUPPORTED_ENCODERS,
    export_classifier,
    export_encoder,
    export_language_model,
    input_names,
    random_feeds,
)
from nlpapp.deployment.runtime import Predictor
from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.text_cnn import TextCnnSizeConfig, build_text_cnn
from nlpapp.text.student_vocabulary import word_tokenizer
from tests.deployment.models import build_encoder, build_model, load_tokenizer


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


@pytest.mark.parametrize("kind", SUPPORTED)
@torch.inference_mode()
def test_exported_logits_are_pytorchs_at_shapes_never_traced(kind, tokenizer, tmp_path):
    model = build_model(kind)
    metrics = export_classifier(
        model, tokenizer, tmp_path / "bundle", max_seq_length=40, int8=False, batches=12
    )
    assert metrics["fp32_max_difference"] <= 1e-4 and metrics["fp32_label_agreement"] == 1
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle" / "model.onnx"))
    for feed in random_feeds(
        model,
        input_names(model, tokenizer),
        max_seq_length=48,
        seed=9,
        shapes=[(19, 3), (1, 48), (3, 17)],
    ):
        expected = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits
        np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-4)


def test_random_feeds_cover_the_extreme_shapes_and_padding(tokenizer):
    model = build_model("bert")
    feeds = list(random_feeds(model, input_names(model, tokenizer), max_seq_length=33, seed=3))
    shapes = {feed["input_ids"].shape for feed in feeds}
    assert {(1, 1), (1, 33), (64, 1), (64, 33)} <= shapes and len(shapes) > 100
    assert len(feeds) == 200
    assert all(1 <= rows <= 64 and 1 <= width <= 33 for rows, width in shapes)
    assert sum((feed["attention_mask"] == 0).any() for feed in feeds) > 100
    assert any(feed["token_type_ids"].any() for feed in feeds)


def test_bundle_holds_what_its_manifest_says(tokenizer, tmp_path):
    model = build_model("bilstm", tokenizer_fingerprint="abc")
    metrics = export_classifier(
        model, tokenizer, tmp_path / "bundle", max_seq_length=20, batches=12
    )
    files = {path.name for path in (tmp_path / "bundle").iterdir()}
    parts = {
        "model.onnx",
        "model.int8.onnx",
        "tokenizer.json",
        "labels.json",
        "metrics.json",
        "README.md",
        "predict.py",
    }
    assert files == parts | {"manifest.json"}
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["model_type"] == "bilstm" and manifest["tokenizer_fingerprint"] == "abc"
    assert manifest["files"] == {
        name: hashlib.sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest()
        for name in parts
    }
    assert json.loads((tmp_path / "bundle" / "labels.json").read_text()) == {
        "labels": ["bad", "fine", "good"]
    }
    assert json.loads((tmp_path / "bundle" / "metrics.json").read_text()) == metrics
    assert metrics["parameters"] == sum(weight.numel() for weight in model.parameters())
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert "bad, fine, good" in readme and "Predictor" in readme and "int8" in readme
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


@pytest.mark.parametrize("kind", ["bilstm", "bert"])
def test_int8_quantises_embeddings_lstm_and_matrices(kind, tokenizer, tmp_path):
    metrics = export_classifier(
        build_model(kind), tokenizer, tmp_path / "bundle", max_seq_length=20
    )
    graph = onnx.load(tmp_path / "bundle" / "model.int8.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert "LSTM" not in operators and "Gemm" not in operators
    if kind == "bilstm":
        assert operators.count("DynamicQuantizeLSTM") == 1
    left = [
        t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1
    ]
    assert sum(np.prod(t.dims) for t in left) < 0.1 * metrics["parameters"]
    assert metrics["int8_weight_share"] > 0.8
    assert metrics["int8_max_difference"] > 0 and 0.8 < metrics["int8_label_agreement"] <= 1


def test_int8_of_a_model_of_usual_size_is_near_a_quarter(tokenizer, tmp_path):
    model = build_model("bilstm", vocab_size=5000, embedding_size=100, hidden_size=50)
    metrics = export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=8, batches=12)
    assert metrics["int8_bytes"] < 0.3 * metrics["fp32_bytes"]


def test_a_model_that_is_exported_wrongly_is_refused(tokenizer, tmp_path, monkeypatch):
    right = export_formats.write_onnx

    def wrong(source, path):
        with torch.no_grad():
            source.module.model.classifier.bias += 0.001
        right(source, path)
        with torch.no_grad():
            source.module.model.classifier.bias -= 0.001

    monkeypatch.setattr(export_formats, "write_onnx", wrong)
    with pytest.raises(CheckpointError, match="differ from PyTorch's by 0.001"):
        export_classifier(
            build_model("bert"), tokenizer, tmp_path / "bundle", max_seq_length=20, batches=12
        )
    assert not (tmp_path / "bundle").exists()


def test_weights_that_are_not_finite_are_refused(tokenizer, tmp_path):
    model = build_model("bilstm")
    with torch.no_grad():
        model.hidden.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=20, batches=12)


def test_unsupported_architecture_names_the_supported_ones(tokenizer, tmp_path):
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 80, "pad_token_id": 0}
    config = AutoConfig.for_model("gpt2", **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(
        ConfigError, match="'gpt2' cannot be exported; supported are albert, bert, bilstm"
    ):
        export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=20, batches=12)


@pytest.mark.parametrize("kind", SUPPORTED_ENCODERS)
def test_hidden_states_are_pytorchs(kind, tokenizer, tmp_path):
    metrics = export_encoder(
        build_encoder(kind),
        tokenizer,
        tmp_path / "bundle",
        max_seq_length=40,
        layers=[1, -1],
        int8=False,
        batches=20,
    )
    assert metrics["fp32_max_difference"] <= 1e-4 * max(1, metrics["largest_output"])
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["layers"] == [1, 2] and manifest["kind"] == "encoder"


def test_layers_and_encoders_that_are_not_there_are_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="no layer 3; it has 0 .* to 2"):
        export_encoder(
            build_encoder("bert"), tokenizer, tmp_path / "b", max_seq_length=20, layers=[3]
        )
    with pytest.raises(ConfigError, match="'bilstm' cannot be exported; supported are albert"):
        export_encoder(build_model("bilstm"), tokenizer, tmp_path / "b", max_seq_length=20)
    with pytest.raises(ConfigError, match="language model of type 'bert'"):
        export_language_model(build_model("bert"), None, tmp_path / "b")


def test_a_tokenizer_with_more_entries_than_the_embedding_is_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="use the tokenizer that the model was trained with"):
        export_classifier(
            build_model("bert", vocab_size=30), tokenizer, tmp_path / "b", max_seq_length=20
        )


def test_a_bilstm_has_no_program(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="torch-export is not possible for a BiLSTM"):
        export_classifier(
            build_model("bilstm"),
            tokenizer,
            tmp_path / "b",
            max_seq_length=20,
            formats=["torch-export"],
        )


@pytest.mark.parametrize(("kind", "limit"), [("bert", 48), ("roberta", 48)])
def test_sequences_longer_than_the_models_positions_are_refused(kind, limit, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=f"over the model's {limit} positions"):
        export_classifier(
            build_model(kind), tokenizer, tmp_path / "bundle", max_seq_length=49, batches=12
        )
    export_classifier(
        build_model(kind), tokenizer, tmp_path / "bundle", max_seq_length=48, int8=False, batches=12
    )


def test_only_a_bundle_is_replaced(tokenizer, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("do not delete")
    with pytest.raises(ConfigError, match="is no bundle"):
        export_classifier(
            build_model("bilstm"), tokenizer, tmp_path / "thesis", max_seq_length=20, batches=12
        )
    assert (tmp_path / "thesis" / "chapter1.txt").exists()
    for int8 in (True, False):
        export_classifier(
            build_model("bilstm"),
            tokenizer,
            tmp_path / "bundle",
            max_seq_length=20,
            int8=int8,
            batches=12,
        )
    assert not (tmp_path / "bundle" / "model.int8.onnx").exists()


def test_exporting_leaves_the_users_tokenizer_and_model_as_they_were(tokenizer, tmp_path):
    model = build_model("bert")
    attention, before = model.config._attn_implementation, tokenizer.backend_tokenizer.to_str()
    export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=5, batches=12)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert model.config._attn_implementation == attention


def test_quantising_gives_the_root_logger_no_console_handler(tokenizer, tmp_path, monkeypatch):
    # Else every line of a run's log would be printed twice from then on.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    export_classifier(
        build_model("bilstm"), tokenizer, tmp_path / "bundle", max_seq_length=12, batches=12
    )
    assert root.handlers == []


@pytest.mark.parametrize("siamese", [False, True])
def test_a_student_with_words_of_its_own_is_exported_with_them(siamese, tmp_path):
    words = word_tokenizer(["a good film", "bad cat"], min_frequency=1, max_words=9, lowercase=True)
    size = TextCnnSizeConfig(embedding_size=12, filters=6, classifier_size=8)
    ends = {"vocab_size": len(words), "pad_token_id": 0, "label_names": ("no", "yes")}
    torch.manual_seed(0)
    model = build_text_cnn(size, siamese=siamese, **ends).eval()
    formats = [] if siamese else ["torch-export"]
    metrics = export_classifier(
        model, words, tmp_path / "b", max_seq_length=9, formats=formats, batches=20
    )
    assert metrics["fp32_max_difference"] < 1e-5 and metrics["int8_weight_share"] > 0.9
    text = ("A good film", "zebra") if siamese else "A good zebra"
    (found,) = Predictor(tmp_path / "b").predict([text])
    batch = words(text[0] if siamese else text, return_tensors="pt")
    if siamese:
        other = words(text[1], return_tensors="pt")
        batch |= {f"{name}_b": value for name, value in other.items()}
    with torch.no_grad():
        expected = model(**batch).logits.softmax(1)[0, 1].item()
    assert found["probabilities"]["yes"] == pytest.approx(expected, abs=1e-5)
