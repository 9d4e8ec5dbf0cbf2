import json

import pytest

from nlpapp.deployment.language_runtime import LanguageModel
from nlpapp.deployment.runtime import Encoder, Predictor
from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.recipes import export
from nlpapp.text.vocabulary import SymbolVocabulary
from nlpapp.text.wordpiece import fingerprint
from tests.deployment.models import (
    build_encoder,
    build_language_model,
    build_model,
    load_tokenizer,
)

SMALL = BiLstmSizeConfig(embedding_size=6, hidden_size=4, classifier_size=5)


def test_a_model_folder_becomes_a_bundle_that_predicts(tiny_tokenizer_folder, tmp_path):
    tokenizer, model = load_tokenizer(tiny_tokenizer_folder), build_model("bilstm")
    digest = fingerprint(tokenizer)
    save_model_folder(model, tmp_path / "model", tokenizer=tokenizer, fingerprint=digest)
    config = export.Config(
        model=str(tmp_path / "model"),
        output_dir=str(tmp_path / "run"),
        max_seq_length=16,
        parity_batches=20,
    )
    metrics = export.run(config)
    assert metrics["fp32_max_difference"] <= 1e-4 and metrics["int8_label_agreement"] > 0.8
    (found,) = Predictor(tmp_path / "run" / "bundle", precision="int8").predict(["good film"])
    assert set(found["probabilities"]) == {"bad", "fine", "good"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert export.run(config) == metrics


def test_without_a_model_a_random_one_is_exported(tiny_tokenizer_folder, tmp_path):
    options = {"student": SMALL, "max_seq_length": 8, "int8": False, "parity_batches": 8}
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


def save(model, folder, tokenizer):
    save_model_folder(model, folder, tokenizer=tokenizer, fingerprint=fingerprint(tokenizer))


def test_a_labelled_file_is_scored_and_calibrates(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    save(build_model("bert"), tmp_path / "model", tokenizer)
    rows = [("the cat sat", "bad"), ("great film", "good"), ("a dog ran", "fine")] * 3
    lines = ["sentence\tlabel", *("\t".join(row) for row in rows)]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    options = {"model": str(tmp_path / "model"), "max_seq_length": 16, "parity_batches": 8}
    metrics = export.run(
        export.Config(
            output_dir=str(tmp_path / "run"),
            file=str(tmp_path / "dev.tsv"),
            calibration_file=str(tmp_path / "dev.tsv"),
            formats=["int8-static"],
            max_metric_drop=1.0,
            **options,
        )
    )
    assert metrics["dev_rows"] == 9 and metrics["dev_fp32_drop"] == 0
    found = Predictor(tmp_path / "run" / "bundle").predict([text for text, _ in rows])
    right = [entry["label"] == label for entry, (_, label) in zip(found, rows, strict=True)]
    assert metrics["dev_fp32_accuracy"] == sum(right) / 9
    card = (tmp_path / "run" / "bundle" / "README.md").read_text()
    assert "dev.tsv" in card and "made from" in card


def test_the_kind_is_read_from_the_model(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    save(build_encoder("bert"), tmp_path / "encoder", tokenizer)
    vocabulary = SymbolVocabulary("words", ["<eos>", *(f"w{n}" for n in range(79))])
    language_model = build_language_model()
    digest = vocabulary.fingerprint()
    save_model_folder(language_model, tmp_path / "language", fingerprint=digest)
    vocabulary.save_pretrained(tmp_path / "language")
    readers = {"encoder": Encoder, "language": LanguageModel}
    for name, reader in readers.items():
        options = {"max_seq_length": 16, "parity_batches": 8, "int8": False}
        config = export.Config(
            model=str(tmp_path / name), output_dir=str(tmp_path / f"run-{name}"), **options
        )
        export.run(config)
        assert reader(tmp_path / f"run-{name}" / "bundle")
    assert LanguageModel(tmp_path / "run-language" / "bundle").generate("w3", max_new_tokens=2)
    config = export.Config(
        model=str(tmp_path / "encoder"), output_dir=str(tmp_path / "x"), file="dev.tsv"
    )
    with pytest.raises(ConfigError, match="are for classifiers; this is a model of kind encoder"):
        export.run(config)


def test_a_classifier_that_cannot_be_exported_is_called_one(tmp_path):
    facts = {
        "model_type": "transformer_xl",
        "architectures": ["TransformerXLForSequenceClassification"],
    }
    (tmp_path / "config.json").write_text(json.dumps(facts))
    config = export.Config(model=str(tmp_path), output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a classifier of type 'transformer_xl', whose export"):
        export.run(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parity_batches": 3}, "parity_batches is 3"),
        ({"task": "sst2"}, "go together"),
        ({"task": "sst2", "data_dir": "x", "file": "y"}, "either --file or --task"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        export.Config(output_dir="out", **options)
