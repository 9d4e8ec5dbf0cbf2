import csv
import json

import pytest
import torch
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification
from nlpapp.recipes import evaluate
from tests.conftest import REPOSITORY

TEXTS = ["the cat sat", "a bad film .", "good", "the dog ran over the hill", "awful , awful"]
LABELS = ["0", "1", "1", "0", "1"]


def model_folder(folder, tokenizer_folder, **options):
    """A random DistilBERT with strong opinions, as a Hugging Face classifier folder."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=80,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        **options,
    )
    model = DistilBertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return model


@pytest.fixture
def data(tmp_path):
    rows = [f"{text}\t{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    path = tmp_path / "data.tsv"
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    return path


def by_hand(model, tokenizer_folder):
    """One text at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    with torch.no_grad():
        rows = [
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
            for text in TEXTS
        ]
    return torch.stack(rows)


def run(tmp_path, **options):
    settings = {"output_dir": str(tmp_path / "run"), "max_seq_length": 16, "batch_size": 2}
    return evaluate.run(evaluate.Config(**settings | options))


def test_figures_are_those_computed_by_hand(tmp_path, tiny_tokenizer_folder, data):
    model = model_folder(tmp_path / "model", tiny_tokenizer_folder)
    logits = by_hand(model, tiny_tokenizer_folder)
    labels = torch.tensor([int(label) for label in LABELS])
    metrics = run(tmp_path, model=str(tmp_path / "model"), file=str(data))
    assert metrics["accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    assert metrics["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5
    )
    assert metrics["rows"] == 5
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(text in page for text in (*TEXTS, "Accuracy by length"))  # all among the hardest
    with (tmp_path / "run" / "predictions-dev.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["label"] for row in rows] == LABELS
    assert [row["prediction"] for row in rows] == [str(i) for i in logits.argmax(-1).tolist()]


def test_named_classes_are_matched_by_name_not_by_place(tmp_path, tiny_tokenizer_folder, data):
    names = {"id2label": {0: "1", 1: "0"}, "label2id": {"1": 0, "0": 1}}
    model_folder(tmp_path / "model", tiny_tokenizer_folder, **names)
    swapped = run(tmp_path, model=str(tmp_path / "model"), file=str(data))
    model_folder(tmp_path / "plain", tiny_tokenizer_folder)
    plain = run(
        tmp_path, model=str(tmp_path / "plain"), file=str(data), output_dir=str(tmp_path / "r2")
    )
    assert swapped["accuracy"] == pytest.approx(1 - plain["accuracy"])


def test_other_words_for_the_classes(tmp_path, tiny_tokenizer_folder, data):
    names = {"id2label": {0: "NEG", 1: "POS"}, "label2id": {"NEG": 0, "POS": 1}}
    model_folder(tmp_path / "model", tiny_tokenizer_folder, **names)
    with pytest.raises(DataError, match="label '0' is not one of 'NEG', 'POS'.*--label_names"):
        run(tmp_path, model=str(tmp_path / "model"), file=str(data))
    output = str(tmp_path / "renamed")
    metrics = run(
        tmp_path,
        model=str(tmp_path / "model"),
        file=str(data),
        label_names=["0", "1"],
        output_dir=output,
    )
    assert metrics["rows"] == 5


def test_glue_task_and_wrong_number_of_classes(tmp_path, tiny_tokenizer_folder):
    glue = str(REPOSITORY / "data" / "sample" / "glue")
    model_folder(tmp_path / "model", tiny_tokenizer_folder)
    metrics = run(tmp_path, model=str(tmp_path / "model"), task="cola", data_dir=glue)
    assert -1 <= metrics["matthews_correlation"] <= 1
    model_folder(tmp_path / "three", tiny_tokenizer_folder, num_labels=3)
    with pytest.raises(ConfigError, match="the model's classes are LABEL_0, LABEL_1, LABEL_2"):
        run(
            tmp_path,
            model=str(tmp_path / "three"),
            task="sst2",
            data_dir=glue,
            output_dir=str(tmp_path / "r3"),
        )
    with pytest.raises(DataError, match="labels are needed"):
        run(
            tmp_path,
            model=str(tmp_path / "model"),
            task="sst2",
            data_dir=glue,
            split="test",
            output_dir=str(tmp_path / "r4"),
        )


@pytest.mark.parametrize("siamese", [False, True])
def test_our_bilstm_reads_pairs(siamese, tmp_path, tiny_tokenizer_folder):
    torch.manual_seed(0)
    config = BiLstmConfig(
        vocab_size=80, embedding_size=8, hidden_size=8, classifier_size=8, siamese=siamese
    )
    BiLstmForSequenceClassification(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_tokenizer_folder).save_pretrained(tmp_path / "model")
    glue = str(REPOSITORY / "data" / "sample" / "glue")
    metrics = run(tmp_path, model=str(tmp_path / "model"), task="mrpc", data_dir=glue)
    assert 0 <= metrics["f1"] <= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "give either --file"),
        ({"file": "x.tsv", "task": "sst2"}, "give either --file"),
        ({"task": "sst2"}, "needs --data_dir"),
        ({"file": "x.tsv", "split": "dev"}, "go with --task"),
        ({"file": "x.tsv", "data_dir": "glue"}, "go with --task"),
        ({"file": "x.tsv", "label_names": ["a"]}, "1 names; the model has 2 classes"),
        ({"file": "x.tsv", "max_seq_length": 33}, "over the model's 32 positions"),
    ],
)
def test_bad_options(options, expected, tmp_path, tiny_tokenizer_folder):
    model_folder(tmp_path / "model", tiny_tokenizer_folder)
    with pytest.raises(ConfigError, match=expected):
        run(tmp_path, model=str(tmp_path / "model"), **options)


def test_neither_model_nor_tokenizer_and_a_folder_that_is_no_model(tmp_path, data):
    with pytest.raises(ConfigError, match="give --model"):
        run(tmp_path, file=str(data))
    with pytest.raises(CheckpointError, match="not a model folder"):
        run(
            tmp_path,
            model=str(tmp_path),
            tokenizer=str(REPOSITORY / "data/sample/tokenizer"),
            file=str(data),
            output_dir=str(tmp_path / "r"),
        )
