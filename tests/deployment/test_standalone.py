import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from nlpapp.deployment import standalone
from nlpapp.deployment.export import export_classifier, export_encoder
from nlpapp.deployment.runtime import Encoder, Predictor
from nlpapp.text.student_vocabulary import word_tokenizer
from tests.deployment.models import build_encoder, build_model, load_tokenizer

BLOCKED = textwrap.dedent("""
    import runpy, sys

    ALLOWED = {"numpy", "onnxruntime", "tokenizers", "__main__"} | set(sys.stdlib_module_names)

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "transformers", "onnx", "nlpapp", "scipy"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Block())
    sys.argv = sys.argv[1:]
    sys.path.insert(0, "")
    runpy.run_path(sys.argv[0], run_name="__main__")
""")


@pytest.fixture(scope="module")
def bundles(tiny_tokenizer_folder, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    root = tmp_path_factory.mktemp("standalone")
    options = {"max_seq_length": 12, "batches": 8}
    export_classifier(build_model("bert"), tokenizer, root / "bert", formats=["fp16"], **options)
    siamese = build_model("bilstm", siamese=True)
    export_classifier(siamese, tokenizer, root / "siamese", **options)
    export_classifier(
        build_model("bilstm", labels={0: "score"}), tokenizer, root / "regression", **options
    )
    export_encoder(build_encoder("distilbert"), tokenizer, root / "encoder", **options)
    words = word_tokenizer(["a good film", "bad cat"], min_frequency=1, max_words=9, lowercase=True)
    export_classifier(build_model("text_cnn"), words, root / "words", int8=False, **options)
    return root


def ask(folder, *arguments):
    command = [sys.executable, "-c", BLOCKED, str(folder / "predict.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_it_is_short(bundles):
    for name in ("bert", "encoder"):
        lines = (bundles / name / "predict.py").read_text().splitlines()
        assert len(lines) < 100


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_labels_are_those_of_the_library(precision, bundles, tmp_path):
    (tmp_path / "texts.txt").write_text("a bad film\n\ngreat\n")
    found = ask(
        bundles / "bert", "good", "--file", str(tmp_path / "texts.txt"), "--precision", precision
    )
    # One batch, as the program makes it: ranges of int8 are those of a batch.
    expected = Predictor(bundles / "bert", precision=precision).predict(
        ["good", "a bad film", "great"]
    )
    for one, other in zip(found, expected, strict=True):
        assert one["label"] == other["label"]
        for label, share in other["probabilities"].items():
            assert one["probabilities"][label] == pytest.approx(share, abs=2e-3)


def test_pairs_scores_and_vectors(bundles):
    found = ask(bundles / "siamese", "--pair", "a cat ||| the dog sat", "good ||| bad")
    expected = Predictor(bundles / "siamese").predict([("a cat", "the dog sat"), ("good", "bad")])
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    (score,) = ask(bundles / "regression", "a cat")
    assert score["score"] == pytest.approx(
        Predictor(bundles / "regression").predict(["a cat"])[0]["score"], abs=1e-5
    )
    vectors = ask(bundles / "encoder", "a cat", "the dog sat on the mat")
    expected = Encoder(bundles / "encoder").encode(["a cat", "the dog sat on the mat"])
    np.testing.assert_allclose([entry["vector"] for entry in vectors], expected, atol=1e-5)


def test_a_text_without_a_token_has_a_prediction(bundles):
    for text in ("\u200b", "\ufeff"):
        (found,) = ask(bundles / "words", text)
        (expected,) = Predictor(bundles / "words").predict([text])
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_a_changed_file_is_refused(bundles, tmp_path):
    import shutil

    shutil.copytree(bundles / "regression", tmp_path / "b")
    with open(tmp_path / "b" / "model.onnx", "ab") as file:
        file.write(b" ")
    with pytest.raises(SystemExit, match="model.onnx is not the file that was exported"):
        standalone.load(tmp_path / "b")
    with pytest.raises(SystemExit, match="has no model.fp16.onnx"):
        standalone.load(bundles / "regression", "fp16")
