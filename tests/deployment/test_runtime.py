import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nlpapp.deployment.export import export_classifier, export_encoder
from nlpapp.deployment.runtime import Encoder, Predictor, open_bundle, pool
from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.text.student_vocabulary import word_tokenizer
from tests.deployment.models import build_encoder, build_model, load_tokenizer

TEXTS = [
    "the film was awful .",
    "good",
    "a great film , the cat and the dog ran under the hill and over the mat",
    "a bird flew",
]
PAIRS = ["bad film", "the cat sat on the mat", "great", "the bird sat"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def bundles(tokenizer, tmp_path_factory):
    """Bundles and the models they were made from."""
    kinds = {
        "bert": build_model("bert"),
        "bilstm": build_model("bilstm"),
        "siamese": build_model("bilstm", siamese=True),
        "regression": build_model("bert", labels={0: "score"}),
    }
    made = {}
    for name, model in kinds.items():
        folder = tmp_path_factory.mktemp("bundles") / name
        export_classifier(model, tokenizer, folder, max_seq_length=12, batches=12)
        made[name] = (folder, model)
    return made


@torch.inference_mode()
def logits_one_by_one(model, tokenizer, texts, pairs=None):
    rows = []
    for index, text in enumerate(texts):
        options = {"truncation": True, "max_length": 12, "return_tensors": "pt"}
        if pairs is None:
            batch = tokenizer(text, **options)
        elif getattr(model.config, "siamese", False):
            batch = tokenizer(text, **options)
            other = tokenizer(pairs[index], **options)
            batch |= {f"{key}_b": other[key] for key in ("input_ids", "attention_mask")}
        else:
            batch = tokenizer(text, pairs[index], **options)
        rows.append(model(**batch).logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "pairs"), [("bert", None), ("bert", PAIRS), ("bilstm", None), ("siamese", PAIRS)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predictions_are_those_of_pytorch_in_the_order_of_the_texts(
    name, pairs, batch_size, bundles, tokenizer
):
    folder, model = bundles[name]
    found = Predictor(folder).predict(TEXTS, pairs, batch_size=batch_size)
    expected = logits_one_by_one(model, tokenizer, TEXTS, pairs).softmax(1).numpy()
    for entry, row in zip(found, expected, strict=True):
        assert list(entry["probabilities"]) == ["bad", "fine", "good"]
        np.testing.assert_allclose(list(entry["probabilities"].values()), row, atol=1e-5)
        assert entry["label"] == ["bad", "fine", "good"][row.argmax()]


def test_a_tokenizer_without_token_types_gives_the_exported_model_none(
    tiny_tokenizer_folder, tmp_path
):
    tokenizer = load_tokenizer(tiny_tokenizer_folder, token_types=False)
    model = build_model("bert")
    export_classifier(model, tokenizer, tmp_path / "bundle", max_seq_length=12, batches=12)
    expected = logits_one_by_one(model, tokenizer, TEXTS, PAIRS)
    found = Predictor(tmp_path / "bundle").logits(TEXTS, PAIRS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_int8_predicts_nearly_the_same(bundles):
    folder, _ = bundles["bert"]
    exact, small = (Predictor(folder, precision=name).logits(TEXTS) for name in ("fp32", "int8"))
    assert 0 < np.abs(exact - small).max() < 0.3 * np.abs(exact).max()


def test_a_regression_gives_scores(bundles, tokenizer):
    folder, model = bundles["regression"]
    expected = logits_one_by_one(model, tokenizer, TEXTS)[:, 0]
    found = Predictor(folder).predict(TEXTS)
    np.testing.assert_allclose([entry["score"] for entry in found], expected, atol=1e-5)


def test_it_runs_where_torch_and_transformers_cannot_be_imported(bundles):
    folder, _ = bundles["bilstm"]
    program = """
        import json, sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "transformers", "accelerate", "onnx"):
                    raise ImportError(f"{name} is blocked")

        sys.meta_path.insert(0, Block())
        from nlpapp.deployment.runtime import Predictor

        print(json.dumps(Predictor(sys.argv[1], precision=sys.argv[2]).predict(["a good film"])))
    """
    for precision in ("fp32", "int8"):
        command = [sys.executable, "-c", textwrap.dedent(program), str(folder), precision]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        (found,) = json.loads(result.stdout)
        assert found == Predictor(folder, precision=precision).predict(["a good film"])[0]


def test_no_texts_have_no_predictions(bundles):
    assert Predictor(bundles["bert"][0]).predict([]) == []


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        (["good", " \n"], None, r"texts\[1\] is empty"),
        (["good"], [""], r"pairs\[0\] is empty"),
        ("good", None, "texts is one string"),
        ([None], None, r"texts\[0\] is of type NoneType"),
        (["good", "bad"], ["great"], "2 texts and 1 pairs"),
    ],
)
def test_texts_that_cannot_be_read_are_named(texts, pairs, message, bundles):
    with pytest.raises(DataError, match=message):
        Predictor(bundles["bert"][0]).predict(texts, pairs)


def test_a_siamese_model_without_pairs_is_refused(bundles):
    with pytest.raises(DataError, match="give pairs as well"):
        Predictor(bundles["siamese"][0]).predict(["good"])


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "labels.json"])
def test_a_changed_file_is_refused(name, tokenizer, tmp_path):
    export_classifier(
        build_model("bilstm"), tokenizer, tmp_path / "b", max_seq_length=12, int8=False, batches=12
    )
    content = bytearray((tmp_path / "b" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not the file that was exported"):
        Predictor(tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        Predictor(tmp_path / "b")


def test_what_is_no_bundle_is_refused(tokenizer, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="is not a bundle.*nlpapp export"):
            Predictor(folder)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        Predictor(tmp_path)
    export_classifier(
        build_model("bilstm"), tokenizer, tmp_path / "b", max_seq_length=12, int8=False, batches=12
    )
    with pytest.raises(ConfigError, match="has no int8 model; it has fp32"):
        Predictor(tmp_path / "b", precision="int8")


def test_pairs_may_be_given_as_pairs(bundles):
    predictor = Predictor(bundles["bert"][0])
    couples = list(zip(TEXTS, PAIRS, strict=True))
    np.testing.assert_array_equal(predictor.logits(couples), predictor.logits(TEXTS, PAIRS))
    with pytest.raises(DataError, match=r"texts\[1\] is no pair"):
        predictor.predict([("good", "bad"), "good"])


@pytest.mark.parametrize("kind", ["text_cnn", "bilstm"])
def test_a_text_without_a_token_has_a_prediction(kind, tmp_path):
    words = word_tokenizer(["a good film", "bad cat"], min_frequency=1, max_words=9, lowercase=True)
    options = {"max_seq_length": 9, "int8": False, "batches": 4}
    export_classifier(build_model(kind), words, tmp_path / "words", **options)
    predictor = Predictor(tmp_path / "words")
    beside, _ = predictor.predict(["\u200b", "good film bad"])
    for text in ("\u200b", "\ufeff", "\x00"):
        assert len(predictor.read([text])[0][0]) == 0
        (alone,) = predictor.predict([text])
        assert alone["probabilities"] == pytest.approx(beside["probabilities"], abs=1e-6)


def test_what_a_bundle_says_of_itself(bundles):
    predictor = open_bundle(bundles["bert"][0], threads=1)
    assert isinstance(predictor, Predictor) and predictor.labels == ["bad", "fine", "good"]
    assert predictor.max_length == 12 and not predictor.is_pair and not predictor.is_regression
    assert open_bundle(bundles["siamese"][0]).is_pair
    assert open_bundle(bundles["regression"][0]).is_regression
    assert predictor.manifest["model_type"] == "bert"
    with pytest.raises(ConfigError, match="device 'cuda' is not there"):
        Predictor(bundles["bert"][0], device="cuda")


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_no_batch_has_more_positions_than_asked(batch_tokens, bundles, monkeypatch):
    predictor = Predictor(bundles["bert"][0])
    shapes = []

    class Session:
        def run(self, names, feed):
            shapes.append(feed["input_ids"].shape)
            return [np.zeros((len(feed["input_ids"]), 3))]

    monkeypatch.setattr(predictor, "session", Session())
    predictor.predict(TEXTS * 5, batch_tokens=batch_tokens, batch_size=7)
    assert sum(rows for rows, _ in shapes) == 20
    assert all(rows == 1 or rows * width <= batch_tokens for rows, width in shapes)
    assert all(rows <= 7 for rows, _ in shapes) and shapes == sorted(shapes, key=lambda s: s[1])
    with pytest.raises(ConfigError, match="batch_tokens 0 must be at least 1"):
        predictor.predict(TEXTS, batch_tokens=0)


def test_many_threads_get_their_own_answers(bundles):
    predictor = Predictor(bundles["bilstm"][0], threads=1)
    questions = [[TEXTS[index % 4]] * (1 + index % 3) for index in range(60)]
    expected = [predictor.logits(texts) for texts in questions]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor.logits, questions))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.fixture(scope="module")
def encoder_bundle(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "bundle"
    model = build_encoder("bert")
    metrics = export_encoder(
        model,
        tokenizer,
        folder,
        max_seq_length=12,
        layers=[-1, 0],
        formats=["fp16", "safetensors", "torch-export"],
        batches=30,
    )
    assert metrics["fp32_max_difference"] <= 1e-4 * max(1, metrics["largest_output"])
    return folder, model


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize(("layer", "index"), [(-1, 2), (2, 2), (0, 0), (-3, 0)])
@torch.inference_mode()
def test_vectors_are_those_of_transformers(pooling, layer, index, encoder_bundle, tokenizer):
    folder, model = encoder_bundle
    encoder = open_bundle(folder)
    assert isinstance(encoder, Encoder) and encoder.layers == [0, 2] and encoder.hidden_size == 16
    found = encoder.encode(TEXTS, pooling=pooling, layer=layer, batch_size=3)
    for text, vector in zip(TEXTS, found, strict=True):
        batch = tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
        states = model(**batch, output_hidden_states=True).hidden_states[index][0]  # (S, H)
        expected = {"mean": states.mean(0), "max": states.amax(0), "cls": states[0]}[pooling]
        np.testing.assert_allclose(vector, expected, atol=1e-4)
    assert encoder.encode([]).shape == (0, 16)


def test_what_an_encoder_cannot_give_is_named(encoder_bundle, bundles):
    folder, _ = encoder_bundle
    with pytest.raises(ConfigError, match="has no layer 1; it has 0, 2 of 2"):
        Encoder(folder).encode(["good"], layer=1)
    with pytest.raises(ConfigError, match="pooling 'sum' is unknown"):
        Encoder(folder).encode(["good"], pooling="sum")
    with pytest.raises(CheckpointError, match="'encoder', which Encoder opens, not Predictor"):
        Predictor(folder)
    with pytest.raises(CheckpointError, match="Predictor opens, not Encoder"):
        Encoder(bundles["bert"][0])


def test_pooling_leaves_padding_out():
    states = np.array([[[1.0], [-5.0], [9.0]]], dtype=np.float32)
    mask = np.array([[1, 1, 0]])
    assert pool(states, mask, "mean") == -2 and pool(states, mask, "max") == 1
    assert pool(states, mask, "cls") == 1
    for pooling in ("mean", "max", "cls"):
        assert pool(states, np.zeros((1, 3), int), pooling) == 1  # no token: the first padding
