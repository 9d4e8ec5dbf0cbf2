import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifier_heads import HeadConfig
from nlpapp.objectives.classification import ClassificationLossConfig
from nlpapp.recipes import evaluate, finetune, predict
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.conftest import REPOSITORY

GLUE = str(REPOSITORY / "data" / "sample" / "glue")
SIZE = BertSizeConfig(
    num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=40, dropout=0.0
)


SHAPE = {
    **{"vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0},
    "initializer_range": 0.1,
}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
BACKBONES = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "albert": AlbertConfig(**SHAPE, embedding_size=8),
    "electra": ElectraConfig(**SHAPE, embedding_size=8),
    "deberta": DebertaConfig(**SHAPE, **DISENTANGLED),
    "deberta-v2": DebertaV2Config(**SHAPE, **DISENTANGLED),
    "modernbert": ModernBertConfig(**SHAPE, cls_token_id=2, sep_token_id=3),
    "distilbert": DistilBertConfig(
        vocab_size=80, dim=16, n_layers=1, n_heads=2, hidden_dim=32, initializer_range=0.1
    ),
}


RUN_FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "train.log",
    "report.html",
    "predictions-dev.tsv",
    "predictions-test.tsv",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/README.md",
    "plots/curves.png",
    "plots/confusion.png",
)


def training(learning_rate=1e-2, **options):
    optimizer = OptimizerConfig(learning_rate=learning_rate)
    settings = {"num_epochs": 3, "tensorboard": False, "optimizer": optimizer}
    return TrainingConfig(**settings | options)


def write_rows(path, count, seed, *, labels=("bad", "good")):
    """Sentences whose last word but one says the label."""
    rng = np.random.default_rng(seed)
    rows = ["sentence\tlabel"]
    for _ in range(count):
        label = int(rng.integers(0, 2))
        words = rng.choice(["the", "cat", "dog", "film", "was"], size=int(rng.integers(1, 6)))
        rows.append(f"{' '.join(words)} {('awful', 'great')[label]} .\t{labels[label]}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for seed, (name, count) in enumerate({"train": 320, "dev": 40, "test": 20}.items()):
        write_rows(folder / f"{name}.tsv", count, seed)
    return folder


def own(files, tokenizer_folder, output, **options):
    settings = {
        "tokenizer": str(tokenizer_folder),
        "size": SIZE,
        "train_file": str(files / "train.tsv"),
        "dev_file": str(files / "dev.tsv"),
        "max_seq_length": 16,
        "batch_size": 16,
        "training": training(),
    }
    return finetune.Config(output_dir=str(output), **settings | options)


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def trained(files, tiny_tokenizer_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "own"
    config = own(
        files,
        tiny_tokenizer_folder,
        output,
        test_file=str(files / "test.tsv"),
    )
    return output, config, finetune.run(config)


def test_it_learns_and_reports_with_intervals(trained):
    _, _, metrics = trained
    assert metrics["accuracy"] >= 0.95
    assert metrics["test_accuracy"] >= 0.9
    for name in ("accuracy", "f1", "test_accuracy", "test_f1"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["degenerate"] == 0.0
    assert {"loss", "seconds", "tokens_per_second", "steps", "best_step"} <= set(metrics)


def test_run_folder_holds_what_the_contract_names(trained):
    output, _, metrics = trained
    assert json.loads((output / "metrics.json").read_text()) == metrics
    for name in RUN_FILES:
        assert (output / name).stat().st_size > 0, name


def test_the_page_says_where_the_model_fails(trained):
    page = (trained[0] / "report.html").read_text()
    assert "Accuracy by length" in page
    assert "Hardest examples" in page


def test_dev_predictions_give_the_reported_accuracy(trained, files):
    output, _, metrics = trained
    rows = rows_of(output / "predictions-dev.tsv")
    gold = [row["label"] for row in rows_of(files / "dev.tsv")]
    assert [row["label"] for row in rows] == gold
    predicted = [row["prediction"] for row in rows]
    assert sklearn.metrics.accuracy_score(gold, predicted) == pytest.approx(metrics["accuracy"])
    f1 = sklearn.metrics.f1_score(gold, predicted, pos_label="good")
    assert f1 == pytest.approx(metrics["f1"])


def test_saved_model_predicts_the_same_in_transformers(trained, files):
    output, _, _ = trained
    texts = [row["sentence"] for row in rows_of(files / "test.tsv")]
    classify = pipeline("text-classification", str(output / "model"), device="cpu")
    rows = rows_of(output / "predictions-test.tsv")
    for row, answer in zip(rows, classify(texts), strict=True):
        assert row["prediction"] == answer["label"]
        assert float(row[f"probability_{answer['label']}"]) == pytest.approx(
            answer["score"], abs=1e-4
        )


def test_labels_keep_their_order_and_the_tokenizer_its_fingerprint(trained):
    output, _, _ = trained
    config = json.loads((output / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert len(config["tokenizer_fingerprint"]) == 64


def test_a_finished_run_is_not_repeated(trained):
    output, config, metrics = trained
    before = (output / "model" / "model.safetensors").stat().st_mtime_ns
    assert finetune.run(config) == metrics
    assert (output / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_fine_tuning_goes_on_from_a_model_folder(trained, files, tmp_path):
    output, _, metrics = trained
    config = own(files, None, tmp_path / "more", tokenizer=None, model=str(output / "model"))
    assert finetune.run(config)["accuracy"] >= 0.95


def test_another_tokenizer_is_refused(trained, files, tmp_path):
    output, _, _ = trained
    folder = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*pieces[:5], *reversed(pieces[5:])]) + "\n")
    config = own(files, folder, tmp_path / "run", model=str(output / "model"))
    with pytest.raises(ConfigError, match="another tokenizer"):
        finetune.run(config)


@pytest.mark.parametrize("name", BACKBONES)
def test_any_transformers_backbone(name, files, tiny_tokenizer_folder, tmp_path):
    torch.manual_seed(0)
    backbone = AutoModel.from_config(BACKBONES[name])
    backbone.save_pretrained(tmp_path / "backbone")
    model = str(tmp_path / "backbone")
    options = {"model": model, "training": training(max_steps=3)}
    metrics = finetune.run(own(files, tiny_tokenizer_folder, tmp_path / "run", **options))
    # Transformers reads the saved model, and its loss on dev is the one that was reported.
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.model_type == name
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    rows = rows_of(files / "dev.tsv")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    batch = tokenizer(
        [row["sentence"] for row in rows],
        padding=True,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    labels = torch.tensor([loaded.config.label2id[row["label"]] for row in rows])
    with torch.no_grad():
        loss = loaded(**batch, labels=labels).loss
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-4)


OPTIONS = {
    "label smoothing and weights": {
        "loss": ClassificationLossConfig(label_smoothing=0.1, class_weights="balanced")
    },
    "R-Drop and FGM": {
        "dropout": 0.1,
        "loss": ClassificationLossConfig(r_drop=0.5, adversarial=0.01),
        "training": training(num_epochs=6),
    },
    "head and layers": {
        "dropout": 0.1,
        "head": HeadConfig(multi_sample_dropout=4, reinitialize_layers=1),
    },
    "token budget": {"tokens_per_batch": 160},
    "layer decay": {
        "size": replace(SIZE, num_layers=2),
        "training": training(
            optimizer=OptimizerConfig(learning_rate=1e-2, layer_decay=0.9), num_epochs=4
        ),
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_still_learn(name, files, tiny_tokenizer_folder, tmp_path):
    config = own(files, tiny_tokenizer_folder, tmp_path / "run", **OPTIONS[name])
    assert finetune.run(config)["accuracy"] >= 0.9
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.num_labels == 2


def test_search_for_the_learning_rate(files, tiny_tokenizer_folder, tmp_path):
    config = own(files, tiny_tokenizer_folder, tmp_path / "run", find_learning_rate=True)
    metrics = finetune.run(config)
    assert 1e-4 < metrics["suggested_learning_rate"] < 0.3
    assert (tmp_path / "run" / "plots" / "learning-rate.png").stat().st_size > 0
    assert not (tmp_path / "run" / "model").exists()
    assert finetune.run(config) == metrics


def test_the_search_clips_and_rounds_as_the_training_does(monkeypatch):
    seen = {}

    def search(*_, **options):
        seen.update(options)
        return SimpleNamespace(suggestion=1e-3)

    monkeypatch.setattr(finetune, "find_learning_rate", search)
    run = SimpleNamespace(is_main=False, seconds=0.0, finish=lambda metrics: None)
    options = TrainingConfig(max_grad_norm=0.5, precision="bf16")
    config = finetune.Config(output_dir="run", training=options)
    finetune._find_learning_rate(run, config, None, None, None)
    assert seen == {"max_grad_norm": 0.5, "precision": "bf16"}


def test_rows_with_several_labels(tiny_tokenizer_folder, tmp_path):
    rng = np.random.default_rng(0)
    labels = {"cat": ["pet"], "bird": ["pet", "flies"], "river": [], "hill": ["high"]}
    rows = [
        json.dumps({"text": f"{'the ' * int(rng.integers(1, 6))}{word} .", "labels": labels[word]})
        for word in rng.choice(list(labels), size=300)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:260]) + "\n")
    (tmp_path / "test.jsonl").write_text("\n".join(rows[260:]) + "\n")
    config = finetune.Config(
        output_dir=str(tmp_path / "run"),
        tokenizer=str(tiny_tokenizer_folder),
        size=replace(SIZE, initializer_range=0.1),
        train_file=str(tmp_path / "train.jsonl"),
        test_file=str(tmp_path / "test.jsonl"),
        label_column="labels",
        label_separator=",",
        max_seq_length=16,
        batch_size=16,
        training=training(num_epochs=8),
    )
    metrics = finetune.run(config)
    assert metrics["test_f1_micro"] >= 0.95
    assert metrics["degenerate"] == 0.0
    rows = rows_of(tmp_path / "run" / "predictions-test.tsv")
    assert set(rows[0]) >= {"labels", "predictions", "probability_flies"}
    model = str(tmp_path / "run" / "model")
    classify = pipeline("text-classification", model, device="cpu", top_k=None)
    answers = {answer["label"]: answer["score"] for answer in classify(["the the bird ."])[0]}
    assert answers["pet"] > 0.5 > answers["high"]
    assert answers["flies"] > 0.5
    given = {"model": model, "file": str(tmp_path / "test.jsonl"), "max_seq_length": 16}
    options = given | {"label_column": "labels"}
    scored = evaluate.run(
        evaluate.Config(output_dir=str(tmp_path / "scored"), label_separator=",", **options)
    )
    assert scored["f1_micro"] == metrics["test_f1_micro"]
    with pytest.raises(ConfigError, match="say what stands between them"):
        evaluate.run(evaluate.Config(output_dir=str(tmp_path / "none"), **options))
    predict.run(predict.Config(output_dir=str(tmp_path / "predicted"), **given))
    answers = rows_of(tmp_path / "predicted" / "predictions.tsv")
    assert [row["labels"] for row in answers] == [row["predictions"] for row in rows]


def test_truncated_rows_are_reported(files, tiny_tokenizer_folder, tmp_path):
    (tmp_path / "long.tsv").write_text("sentence\tlabel\n" + "a a a a a a a\tbad\na\tgood\n" * 4)
    config = own(
        files,
        tiny_tokenizer_folder,
        tmp_path / "run",
        train_file=str(tmp_path / "long.tsv"),
        max_seq_length=8,
        training=training(max_steps=1),
    )
    assert finetune.run(config)["truncated_share"] == 0.5
    log = (tmp_path / "run" / "train.log").read_text()
    assert "50.0 % of rows are longer than max_seq_length 8 and were cut" in log


def test_a_head_of_other_classes_starts_anew_and_says_so(trained, tiny_tokenizer_folder, tmp_path):
    output, _, _ = trained
    rows = [f"the cat\t{label}" for label in ("x", "y", "z")]
    (tmp_path / "three.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    options = {"model": str(output / "model"), "training": training(max_steps=1)}
    data = {name: str(tmp_path / "three.tsv") for name in ("train_file", "dev_file")}
    finetune.run(own(tmp_path, tiny_tokenizer_folder, tmp_path / "run", **options, **data))
    log = (tmp_path / "run" / "train.log").read_text()
    assert "its classes are bad, good; the data's are x, y, z. A new head starts" in log
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["x", "y", "z"]


def test_a_degenerate_run_is_repeated_with_another_seed(tiny_tokenizer_folder, tmp_path):
    rows = [f"the same film\t{label}" for label in ("bad", "good") * 8]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    config = own(tmp_path, tiny_tokenizer_folder, tmp_path / "run", repeat_degenerate=2)
    assert finetune.run(config)["degenerate"] == 1.0  # Nobody can tell these rows apart.
    for folder, seed in {".": 42, "seed-1042": 1042, "seed-2042": 2042}.items():
        run = tmp_path / "run" / folder
        assert json.loads((run / "metrics.json").read_text())["degenerate"] == 1.0
        assert json.loads((run / "environment.json").read_text())["seed"] == seed


@pytest.mark.parametrize("task", ["stsb", "mrpc"])
def test_glue_tasks_of_pairs_and_scores(task, tmp_path):
    config = finetune.Config(
        output_dir=str(tmp_path / task),
        tokenizer=str(REPOSITORY / "data" / "sample" / "tokenizer"),
        size=SIZE,
        task=task,
        data_dir=GLUE,
        max_seq_length=40,
        training=training(max_steps=2),
    )
    metrics = finetune.run(config)
    names = {"stsb": ("pearson", "spearmanr"), "mrpc": ("accuracy", "f1")}[task]
    assert all(-1 <= metrics[f"{name}_low"] <= metrics[f"{name}_high"] <= 1 for name in names)
    rows = rows_of(tmp_path / task / "predictions-test.tsv")
    assert len(rows) == 16
    assert ("degenerate" in metrics) == (task == "mrpc")
    if task == "stsb":
        assert set(rows[0]) == {"index", "prediction"}
        assert np.isfinite([float(row["prediction"]) for row in rows]).all()
    else:
        assert {row["prediction"] for row in rows} <= {"equivalent", "not_equivalent"}


def test_a_run_that_answers_one_class_is_called_degenerate(tiny_tokenizer_folder, tmp_path):
    rows = [f"the same film\t{label}" for label in ("bad", "good") * 8]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    config = own(tmp_path, tiny_tokenizer_folder, tmp_path / "run")
    assert finetune.run(config)["degenerate"] == 1.0
    assert "degenerate run: all 16 rows" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"max_seq_length": 41}, ConfigError, "over the model's 40 positions"),
        ({"max_seq_length": 2}, ConfigError, "use at least 3"),
        ({"tokenizer": None}, ConfigError, "give --model, or --tokenizer"),
        ({"from_scratch": True}, ConfigError, "give --model"),
        ({"text_column": "sentense"}, DataError, "Did you mean 'sentence'"),
        ({"train_file": "no-such.tsv"}, DataError, "no such file"),
        ({"task": "cola"}, ConfigError, "either --task"),
    ],
)
def test_bad_options(options, error, expected, files, tiny_tokenizer_folder, tmp_path):
    with pytest.raises(error, match=expected):
        finetune.run(own(files, tiny_tokenizer_folder, tmp_path / "run", **options))


def test_one_class_in_train(files, tiny_tokenizer_folder, tmp_path):
    (tmp_path / "one.tsv").write_text("sentence\tlabel\na\tgood\nb\tgood\n")
    config = own(
        files, tiny_tokenizer_folder, tmp_path / "run", train_file=str(tmp_path / "one.tsv")
    )
    with pytest.raises(DataError, match="all 2 rows have the label 'good'"):
        finetune.run(config)


def test_vocabulary_larger_than_the_embedding(files, tiny_tokenizer_folder, tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path / "small")
    with pytest.raises(ConfigError, match="embedding has 20 rows"):
        finetune.run(
            own(files, tiny_tokenizer_folder, tmp_path / "run", model=str(tmp_path / "small"))
        )


def test_roberta_cannot_use_its_last_positions(files, tiny_tokenizer_folder, tmp_path):
    """Its positions start after the padding index: 40 of them hold 39 tokens with padding 0."""
    options = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = RobertaConfig(vocab_size=80, max_position_embeddings=40, pad_token_id=0, **options)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    with pytest.raises(ConfigError, match="39 positions"):
        finetune.run(
            own(
                files,
                tiny_tokenizer_folder,
                tmp_path / "run",
                model=str(tmp_path / "roberta"),
                max_seq_length=40,
            )
        )
