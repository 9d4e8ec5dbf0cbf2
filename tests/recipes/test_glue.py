import csv
import json
import statistics
import zipfile

import pytest

from nlpapp.data.glue_tasks import TASKS
from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.recipes import finetune, glue
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.conftest import REPOSITORY

SAMPLE = REPOSITORY / "data" / "sample"
SEEDS = [1, 2, 3]


def config_of(output, **options):
    settings = {
        "data_dir": str(SAMPLE / "glue"),
        "tokenizer": str(SAMPLE / "tokenizer"),
        "size": BertSizeConfig(
            num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32
        ),
        "tasks": ["sst2"],
        "seeds": SEEDS,
        "max_seq_length": 24,
        "training": TrainingConfig(
            max_steps=2, tensorboard=False, optimizer=OptimizerConfig(learning_rate=1e-3)
        ),
    }
    return glue.Config(output_dir=str(output), **settings | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("glue") / "run"
    config = config_of(output)
    return output, config, glue.run(config)


def test_table_is_that_of_the_runs(finished):
    output, _, metrics = finished
    runs = [
        json.loads((output / "sst2" / f"seed-{seed}" / "metrics.json").read_text())["accuracy"]
        for seed in SEEDS
    ]
    assert metrics["sst2_accuracy_median"] == pytest.approx(statistics.median(runs))
    assert metrics["sst2_accuracy_mean"] == pytest.approx(statistics.mean(runs))
    assert metrics["sst2_accuracy_std"] == pytest.approx(statistics.stdev(runs))
    assert metrics["sst2_accuracy_best"] == max(runs)
    assert metrics["average_score"] == metrics["sst2_score_median"]


def test_report_says_that_there_is_no_official_test_set(finished):
    output, _, _ = finished
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "sst2/test has 16 of 1,821 rows" in page
    assert not (output / "submission").exists()


def test_restart_runs_only_what_is_missing(finished, monkeypatch):
    output, config, metrics = finished
    (output / "metrics.json").unlink()
    folder = output / "sst2" / "seed-3"
    (folder / "metrics.json").unlink()
    trained = []
    fit = finetune.fit

    def count(**options):
        trained.append(options["run"].path.name)
        return fit(**options)

    monkeypatch.setattr(finetune, "fit", count)
    again = glue.run(config)
    assert trained == ["seed-3"]
    assert again["sst2_accuracy_median"] == metrics["sst2_accuracy_median"]
    assert glue.run(config) == again
    assert trained == ["seed-3"]


def test_official_test_set_becomes_a_submission_of_the_best_seed(tmp_path):
    data = tmp_path / "data" / "WNLI"
    data.mkdir(parents=True)
    rows = [f"{i}\tthe cat {i}\ta dog" for i in range(146)]
    header = "index\tsentence1\tsentence2"
    (data / "test.tsv").write_text("\n".join([header, *rows]) + "\n")
    labelled = [header + "\tlabel", *(f"{row}\t{i % 2}" for i, row in enumerate(rows[:16]))]
    for split in ("train", "dev"):
        (data / f"{split}.tsv").write_text("\n".join(labelled) + "\n")
    config = config_of(tmp_path / "run", data_dir=str(data.parent), tasks=None, seeds=[1, 2])
    metrics = glue.run(config)
    with zipfile.ZipFile(tmp_path / "run" / "submission" / "submission.zip") as archive:
        assert len(archive.namelist()) == 11
        lines = archive.read("WNLI.tsv").decode().splitlines()
        assert len(archive.read("QQP.tsv").decode().splitlines()) == 1 + TASKS["qqp"].rows["test"]
    scores = {
        seed: json.loads((tmp_path / "run" / "wnli" / f"seed-{seed}" / "metrics.json").read_text())
        for seed in (1, 2)
    }
    best = max(scores, key=lambda seed: scores[seed]["accuracy"])
    path = tmp_path / "run" / "wnli" / f"seed-{best}" / "predictions-test.tsv"
    with path.open() as file:
        words = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    expected = [str(TASKS["wnli"].labels.index(word)) for word in words]
    assert [line.split("\t")[1] for line in lines[1:]] == expected
    assert metrics["wnli_accuracy_best"] == scores[best]["accuracy"]
    assert "commonest class" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_mnli_scores_both_dev_sets_and_answers_the_diagnostic_set(tmp_path):
    header = "index\tsentence1\tsentence2"
    labels = ("entailment", "neutral", "contradiction")
    rows = [f"{i}\tthe cat {i % 9}\ta dog" for i in range(TASKS["ax"].rows["test"])]
    labelled = [header + "\tgold_label", *(f"{rows[i]}\t{labels[i % 3]}" for i in range(12))]
    for folder, split, lines in (
        ("MNLI", "train", labelled),
        ("MNLI", "dev_matched", labelled),
        ("MNLI", "dev_mismatched", labelled[:7]),
        ("diagnostic", "diagnostic", [header, *rows]),
    ):
        path = tmp_path / "data" / folder / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    config = config_of(tmp_path / "run", data_dir=str(tmp_path / "data"), tasks=["mnli"], seeds=[5])
    metrics = glue.run(config)
    assert 0 <= metrics["mnli_dev_mismatched_accuracy_median"] <= 1
    assert metrics["mnli_score_median"] == metrics["mnli_accuracy_median"]
    with (tmp_path / "run" / "mnli" / "seed-5" / "predictions-ax.tsv").open() as file:
        words = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    with zipfile.ZipFile(tmp_path / "run" / "submission" / "submission.zip") as archive:
        lines = archive.read("AX.tsv").decode().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == words
    assert set(words) <= set(labels)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"tasks": ["sst"]}, "Did you mean 'sst2'"),
        ({"tasks": None, "data_dir": str(SAMPLE)}, "lacks a train or dev set of cola, sst2"),
        ({"tasks": ["sst2", "qqp", "ax"]}, "lacks a train or dev set of qqp, ax"),
    ],
)
def test_bad_options(options, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected):
        glue.run(config_of(tmp_path / "run", **options))
