import numpy as np
import pytest
import torch
from transformers import AutoModel

from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.torch_predictor import load_encoder, torch_encoder, torch_predictor
from nlpapp.errors import CheckpointError
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["a good film", "the cat sat on the mat .", "bad"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


@pytest.mark.parametrize(("kind", "siamese"), [("bert", False), ("bilstm", True)])
@pytest.mark.parametrize("regression", [False, True])
def test_the_pytorch_predictor_gives_what_the_bundle_does(
    kind, siamese, regression, tokenizer, tmp_path
):
    options = {"siamese": True} if siamese else {}
    labels = {0: "score"} if regression else {0: "no", 1: "yes"}
    model = build_model(kind, labels=labels, **options)
    export_classifier(model, tokenizer, tmp_path / "b", max_seq_length=12, int8=False)
    pairs = ["a dog", "great", "the cat sat on the mat and ran"]
    found = torch_predictor(model, tokenizer, max_seq_length=12)(TEXTS, pairs)
    for entry, expected in zip(found, Predictor(tmp_path / "b").predict(TEXTS, pairs), strict=True):
        if regression:
            assert entry["score"] == pytest.approx(expected["score"], abs=1e-4)
        else:
            assert entry["label"] == expected["label"]
            values = [list(row["probabilities"].values()) for row in (entry, expected)]
            np.testing.assert_allclose(*values, atol=1e-4)


def test_vectors_are_means_over_the_tokens_of_each_text_alone(tokenizer, tmp_path):
    build_model("bert").bert.save_pretrained(tmp_path)
    model = load_encoder(tmp_path)
    found = torch_encoder(model, tokenizer, max_seq_length=12)(TEXTS, None)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            states = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.numpy().mean(axis=0), atol=1e-5)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot load the model in"):
        load_encoder(tmp_path)
