"""Reports of runs: finished, stopped, with and without their files."""

import json

import pytest

from nlpapp.errors import DataError
from nlpapp.evaluation.report import write_run_report
from tests.evaluation.test_page import Page, assert_self_contained


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "sst2"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "train_file: <b>train</b>.tsv\ntraining:\n  max_steps: 2\n", encoding="utf-8"
    )
    environment = {
        "command": "finetune",
        "arguments": ["finetune", "--config", "c.yaml"],
        "seed": 7,
        "git_commit": None,
        "device": "x86_64 CPU",
        "world_size": 2,
        "versions": {"torch": "2.13.0", "python": "3.11"},
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    records = [
        {"step": 1, "split": "train", "seconds": 1.0, "loss": 0.7},
        {"step": 2, "split": "train", "seconds": 2.0, "loss": 0.6},
        {"step": 2, "split": "dev", "seconds": 2.1, "loss": 0.65, "accuracy": 0.81},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    metrics = {"seconds": 2.1, "steps": 2, "loss": 0.65, "accuracy": 0.8125, "f1": 0.75}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "predictions-dev.tsv").write_text(
        "index\tlabel\tprediction\tprobability_good\tprobability_bad\n"
        "0\tgood\tgood\t0.9\t0.1\n1\tgood\tbad\t0.2\t0.8\n2\tbad\tbad\t0.1\t0.9\n",
        encoding="utf-8",
    )
    return folder


def test_run_report_shows_figures_curves_confusion_configuration_and_command(run_folder):
    text = write_run_report(run_folder).read_text(encoding="utf-8")
    page = assert_self_contained(text)
    seen = "".join(page.text)
    assert page.tags.count("img") == 3
    for expected in (
        "finetune: sst2",
        "2 processes",
        "seed 7",
        "0.8125",
        "Training curves",
        "Confusion matrix",
        "Calibration",
        "train_file: <b>train</b>.tsv",
        "max_steps: 2",
        "2.13.0",
        f"nlpapp finetune --config {run_folder / 'config.yaml'} --output_dir",
    ):
        assert expected in seen
    assert "not finished" not in seen
    assert (run_folder / "plots" / "curves.png").is_file()
    assert (run_folder / "plots" / "confusion.png").is_file()


def test_intervals_stand_with_their_figures(run_folder):
    metrics = {
        "best_step": 3,
        "steps": 9,
        "rows": 100,
        "seconds": 2.5,
        "accuracy_low": 0.4,
        "accuracy": 0.5,
        "accuracy_high": 0.6,
    }
    page = Page(write_run_report(run_folder, metrics=metrics).read_text(encoding="utf-8"))
    assert page.rows[:3] == [
        ["figure", "value", "95 % interval"],
        ["accuracy", "0.5000", "0.4000 to 0.6000"],
        ["best step", "3", "\N{EN DASH}"],
    ]
    assert "accuracy, 95 %: 0.4000 to 0.6000" in page.text


def test_report_before_metrics_json_takes_the_figures_given(run_folder):
    (run_folder / "metrics.json").unlink()
    assert "not finished" in write_run_report(run_folder).read_text(encoding="utf-8")
    path = write_run_report(run_folder, metrics={"accuracy": 0.4321})
    text = path.read_text(encoding="utf-8")
    assert "0.4321" in text
    assert "not finished" not in text


def test_curves_are_drawn_again_when_the_run_went_on(run_folder):
    write_run_report(run_folder)
    curves = run_folder / "plots" / "curves.png"
    before = curves.read_bytes()
    with open(run_folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 9, "split": "dev", "loss": 0.1, "accuracy": 0.99}\n')
    write_run_report(run_folder)
    assert curves.read_bytes() != before


@pytest.mark.parametrize("absent", ["environment.json", "metrics.jsonl", "predictions-dev.tsv"])
def test_run_report_without_a_file_still_stands(run_folder, absent):
    (run_folder / absent).unlink()
    assert_self_contained(write_run_report(run_folder).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "content",
    [
        "index\tprediction\tprobability_good\tprobability_bad\n0\tgood\t0.9\t0.1\n",  # no labels
        "index\tlabel\tprediction\n0\t1.5\t2.25\n",  # scores
        "index\tlabel\tprediction\tprobability_good\n",  # no rows
    ],
)
def test_predictions_without_labelled_classes_have_no_confusion_matrix(run_folder, content):
    (run_folder / "predictions-dev.tsv").write_text(content, encoding="utf-8")
    write_run_report(run_folder)
    assert not (run_folder / "plots" / "confusion.png").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        write_run_report(tmp_path)


def test_texts_add_what_fails_by_length_and_the_hardest_rows(run_folder):
    assert "Hardest" not in write_run_report(run_folder).read_text(encoding="utf-8")
    texts = [("fine",), ("rather <b>good</b>",), ("awful",)]
    text = write_run_report(run_folder, texts=texts).read_text(encoding="utf-8")
    page = assert_self_contained(text)
    assert ["1", "rather <b>good</b>", "good", "bad", "good 0.200, bad 0.800"] in page.rows
    assert ["18 to 18", "1", "0"] in page.rows
