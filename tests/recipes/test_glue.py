import csv
import json
import math
import statistics
import zipfile

import pytest

from nlpapp.data.glue_tasks import TASKS
from nlpapp.errors import ConfigError
from nlpapp.evaluation.glue_table import task_score
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.objectives.classification import ClassificationLossConfig
from nlpapp.recipes import finetune, glue
from nlpapp.recipes.glue_plan import GridPoint
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder
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
        "repeat_degenerate": 0,
        "training": TrainingConfig(
            max_steps=2, tensorboard=False, optimizer=OptimizerConfig(learning_rate=1e-3)
        ),
    }
    return glue.Config(output_dir=str(output), **settings | options)


@pytest.fixture(scope="module", autouse=True)
def without_reports_of_single_runs():
    """Leave out the pictures of each run, which take most of the time of runs so short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "write_classifier_report", lambda *paths, **facts: None)
        patch.setattr(finetune, "plot_curves", lambda *paths: None)
        yield


def write_small_glue(data):
    """Write MNLI and RTE of a dozen rows, and a diagnostic set as long as the official one."""
    header = "index\tsentence1\tsentence2"
    labels = ("entailment", "neutral", "contradiction")
    rows = [f"{i}\tthe cat {i % 9}\ta dog" for i in range(TASKS["ax"].rows["test"])]
    three = [header + "\tgold_label", *(f"{rows[i]}\t{labels[i % 3]}" for i in range(12))]
    two = ["entailment", "not_entailment"]
    pairs = [header + "\tlabel", *(f"{rows[i]}\t{two[i % 2]}" for i in range(12))]
    for folder, split, lines in (
        ("MNLI", "train", three),
        ("MNLI", "dev_matched", three),
        ("MNLI", "dev_mismatched", three[:7]),
        ("RTE", "train", pairs),
        ("RTE", "dev", pairs),
        ("diagnostic", "diagnostic", [header, *rows]),
    ):
        path = data / folder / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


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


def test_interrupted_runs_are_not_repeated_and_the_table_is_the_same(tmp_path, monkeypatch):
    """Three tasks and three seeds, stopped in the fifth run and again in the eighth."""
    options = {"tasks": ["sst2", "mrpc", "stsb"], "seeds": 3}
    expected = glue.run(config_of(tmp_path / "whole", **options))
    fit = finetune.fit
    trained = []

    def stopping(**settings):
        folder = settings["run"].path
        trained.append(f"{folder.parent.name}/{folder.name}")
        if len(trained) in (5, 9):
            raise KeyboardInterrupt
        return fit(**settings)

    monkeypatch.setattr(finetune, "fit", stopping)
    config = config_of(tmp_path / "run", **options)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            glue.run(config)
    found = glue.run(config)
    runs = [f"{task}/seed-{seed}" for task in options["tasks"] for seed in (42, 43, 44)]
    assert trained == [*runs[:5], *runs[4:8], *runs[7:]]
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    assert glue.run(config) == found
    assert len(trained) == 11


def test_small_tasks_start_from_the_best_model_of_mnli(tmp_path, monkeypatch):
    write_small_glue(tmp_path / "data")
    started = {}
    train = finetune.run

    def spy(config):
        started[config.task, config.seed] = (config.model, config.from_scratch)
        return train(config)

    monkeypatch.setattr(finetune, "run", spy)
    options = {"data_dir": str(tmp_path / "data"), "tasks": ["rte", "mnli"], "seeds": [5, 6]}
    glue.run(config_of(tmp_path / "run", **options))
    scores = {
        seed: task_score(
            json.loads((tmp_path / "run" / "mnli" / f"seed-{seed}" / "metrics.json").read_text()),
            ("accuracy",),
        )
        for seed in (5, 6)
    }
    model = str(tmp_path / "run" / "mnli" / f"seed-{max(scores, key=scores.get)}" / "model")
    assert list(started) == [("mnli", 5), ("mnli", 6), ("rte", 5), ("rte", 6)]
    assert {started["mnli", seed] for seed in (5, 6)} == {(None, False)}
    assert {started["rte", seed] for seed in (5, 6)} == {(model, False)}
    # A folder that has moved: its finished runs have another path of MNLI's model, and stand.
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    started.clear()
    glue.run(config_of(tmp_path / "moved", **options))
    assert not started
    glue.run(config_of(tmp_path / "alone", mnli_first=False, **options))
    assert set(started.values()) == {(None, False)}


def test_grid_takes_the_settings_with_the_best_median(tmp_path):
    points = [
        GridPoint(batch_size=16, learning_rate=1e-3, num_epochs=1),
        GridPoint(batch_size=32, learning_rate=1e-2, num_epochs=2),
    ]
    training = TrainingConfig(tensorboard=False)
    config = config_of(tmp_path / "run", grid=points, seeds=[1, 2], training=training)
    metrics = glue.run(config)
    medians = {}
    for point in points:
        folders = [tmp_path / "run" / "sst2" / point.name / f"seed-{seed}" for seed in (1, 2)]
        found = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
        medians[point.name] = statistics.median(figures["accuracy"] for figures in found)
        steps = math.ceil(95 / point.batch_size) * point.num_epochs
        records = (folders[0] / "metrics.jsonl").read_text().splitlines()
        assert json.loads(records[-1])["step"] == steps
    assert metrics["sst2_accuracy_median"] == max(medians.values())
    assert metrics["runs"] == 4
    assert points[0].name in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_degenerate_runs_are_repeated_and_both_stay(tmp_path, monkeypatch):
    def one_class(config):
        settings = {"output_dir": config.output_dir, "config": config, "command": "finetune"}
        run = RunFolder.open(**settings, seed=config.seed)
        figures = {"accuracy": 0.5 + config.seed / 10000, "degenerate": float(config.seed < 1000)}
        run.finish(figures)
        return figures

    monkeypatch.setattr(finetune, "_train", one_class)
    metrics = glue.run(config_of(tmp_path / "run", seeds=[1], repeat_degenerate=2))
    assert (tmp_path / "run" / "sst2" / "seed-1" / "seed-1001" / "metrics.json").is_file()
    assert (metrics["runs"], metrics["degenerate_runs"]) == (2, 1)
    assert metrics["sst2_accuracy_best"] == pytest.approx(0.6001)
    assert metrics["sst2_accuracy_mean"] == pytest.approx((0.5001 + 0.6001) / 2)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "repeats a degenerate run" in page


@pytest.mark.slow
def test_runs_side_by_side_give_the_same_figures(tmp_path):
    options = {"tasks": ["sst2", "mrpc"], "seeds": [1, 2]}
    alone = glue.run(config_of(tmp_path / "alone", **options))
    together = glue.run(config_of(tmp_path / "together", workers=2, **options))
    assert {**together, "seconds": 0} == pytest.approx({**alone, "seconds": 0}, abs=1e-6)


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
    write_small_glue(tmp_path / "data")
    config = config_of(tmp_path / "run", data_dir=str(tmp_path / "data"), tasks=["mnli"], seeds=[5])
    metrics = glue.run(config)
    assert 0 <= metrics["mnli_mismatched_accuracy_median"] <= 1
    both = ("mnli_accuracy_median", "mnli_mismatched_accuracy_median")
    expected = statistics.mean(metrics[name] for name in both)
    assert metrics["mnli_score_median"] == pytest.approx(expected)
    with (tmp_path / "run" / "mnli" / "seed-5" / "predictions-ax.tsv").open() as file:
        words = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    with zipfile.ZipFile(tmp_path / "run" / "submission" / "submission.zip") as archive:
        lines = archive.read("AX.tsv").decode().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == words
    assert set(words) <= set(TASKS["ax"].labels)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"tasks": ["sst"]}, "Did you mean 'sst2'"),
        ({"tasks": None, "data_dir": str(SAMPLE)}, "does not look like GLUE"),
        ({"data_dir": "absent"}, "absent: there is no such folder"),
        ({"tasks": ["sst2", "qqp"]}, "there is no QQP/train.tsv"),
        ({"tasks": ["sst2", "ax"]}, "task ax has no training set"),
        ({"tasks": ["sst2", "SST-2"]}, "sst2 2 times"),
        ({"evaluation_batch_size": 0}, "a batch of 0 examples"),
        ({"loss": ClassificationLossConfig(class_weights=[1.0] * 3)}, "has 2 classes"),
    ],
)
def test_bad_options(options, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected):
        glue.run(config_of(tmp_path / "run", **options))
