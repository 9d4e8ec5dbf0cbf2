import pytest

from nlpapp.deployment.runtime import Predictor
from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.recipes import export
from nlpapp.text.wordpiece import fingerprint
from tests.deployment.models import build_model, load_tokenizer

SMALL = BiLstmSizeConfig(embedding_size=6, hidden_size=4, classifier_size=5)


def test_a_model_folder_becomes_a_bundle_that_predicts(tiny_tokenizer_folder, tmp_path):
    tokenizer, model = load_tokenizer(tiny_tokenizer_folder), build_model("bilstm")
    digest = fingerprint(tokenizer)
    save_model_folder(model, tmp_path / "model", tokenizer=tokenizer, fingerprint=digest)
    config = export.Config(
        model=str(tmp_path / "model"), output_dir=str(tmp_path / "run"), max_seq_length=16
    )
    metrics = export.run(config)
    assert metrics["fp32_max_difference"] <= 1e-4 and metrics["int8_label_agreement"] > 0.8
    (found,) = Predictor(tmp_path / "run" / "bundle", precision="int8").predict(["good film"])
    assert set(found["probabilities"]) == {"bad", "fine", "good"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert export.run(config) == metrics


def test_without_a_model_a_random_one_is_exported(tiny_tokenizer_folder, tmp_path):
    options = {"student": SMALL, "max_seq_length": 8, "int8": False}
    for name in ("a", "b"):
        export.run(
            export.Config(
                tokenizer=str(tiny_tokenizer_folder), output_dir=str(tmp_path / name), **options
            )
        )
    first, second = (Predictor(tmp_path / name / "bundle") for name in ("a", "b"))
    assert (first.logits(["good"]) == second.logits(["good"])).all()


def test_a_tokenizer_of_another_model_is_refused(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    save_model_folder(
        build_model("bilstm"), tmp_path / "model", tokenizer=tokenizer, fingerprint="f" * 64
    )
    config = export.Config(model=str(tmp_path / "model"), output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="another tokenizer"):
        export.run(config)


def test_what_is_no_model_is_refused(tmp_path):
    config = export.Config(model=str(tmp_path), output_dir=str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="is not a model folder"):
        export.run(config)
    with pytest.raises(ConfigError, match="give --model"):
        export.run(export.Config(output_dir=str(tmp_path / "run2")))
