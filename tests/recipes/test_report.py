"""The report command: one run, several runs, and folders that are no runs."""

import json

import pytest

from nlpapp.errors import ConfigError, DataError
from nlpapp.recipes import report
from tests.evaluation.test_page import Page, assert_self_contained


def write_run(folder, *, rate, accuracy, finished=True, extra=""):
    folder.mkdir(parents=True)
    config = f"output_dir: {folder}\nseed: 1\ntraining:\n  learning_rate: {rate}\n{extra}"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    environment = {"command": "finetune", "seed": 1, "device": "CPU"}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    records = [
        {"step": step, "split": "evaluation", "seconds": 1.0, "accuracy": accuracy * step / 3}
        for step in (1, 2, 3)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    if finished:
        (folder / "metrics.json").write_text(
            json.dumps({"seconds": 2.0, "accuracy": accuracy}), encoding="utf-8"
        )
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "runs" / "slow_ms", rate=0.1, accuracy=0.5),
        write_run(tmp_path / "runs" / "fast", rate=0.2, accuracy=0.75, extra="epochs: 2\n"),
    ]


def test_one_run_gets_its_page_in_its_folder(runs, tmp_path):
    assert report.run(report.Config(runs=runs[:1])) == {"runs": 1.0, "differences": 0.0}
    text = (tmp_path / "runs" / "slow_ms" / "report.html").read_text(encoding="utf-8")
    assert "finetune: slow_ms" in "".join(assert_self_contained(text).text)


def test_one_run_can_be_written_elsewhere(runs, tmp_path):
    output = tmp_path / "pages" / "slow.html"
    report.run(report.Config(runs=runs[:1], output=str(output)))
    assert_self_contained(output.read_text(encoding="utf-8"))
    left = sorted(path.name for path in (tmp_path / "runs" / "slow_ms").iterdir())
    assert left == ["config.yaml", "environment.json", "metrics.json", "metrics.jsonl"]


def test_comparison_shows_what_changed_figures_and_curves(runs, tmp_path):
    output = tmp_path / "comparison.html"
    metrics = report.run(report.Config(runs=runs, output=str(output)))
    assert metrics == {"runs": 2.0, "differences": 2.0}
    page = assert_self_contained(output.read_text(encoding="utf-8"))
    assert ["figure", "slow_ms", "fast"] in page.rows
    assert ["accuracy", "0.5000", "0.7500"] in page.rows
    assert ["training.learning_rate", "0.1", "0.2"] in page.rows
    assert ["epochs", "(no such option)", "2"] in page.rows
    assert not any(row[0] in ("seed", "output_dir") for row in page.rows if row)
    assert page.tags.count("img") == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["comparison.html"]


def test_intervals_stand_beside_their_figures(runs, tmp_path):
    metrics = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}
    (tmp_path / "runs" / "fast" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    output = tmp_path / "c.html"
    report.run(report.Config(runs=runs, output=str(output)))
    page = Page(output.read_text(encoding="utf-8"))
    assert ["accuracy", "0.5000", "0.5000 (0.2500 to 0.7500)"] in page.rows
    assert "accuracy low" not in page.text


def test_a_run_that_has_not_finished_is_said_to(runs, tmp_path):
    runs.append(write_run(tmp_path / "runs" / "half", rate=0.1, accuracy=0.3, finished=False))
    output = tmp_path / "comparison.html"
    report.run(report.Config(runs=runs, output=str(output)))
    page = Page(output.read_text(encoding="utf-8"))
    assert "Not finished, with the figures so far: half." in page.text
    assert ["accuracy", "0.5000", "0.7500", "0.3000"] in page.rows


def test_equal_folder_names_are_told_apart(tmp_path):
    runs = [
        write_run(tmp_path / side / "model", rate=0.1, accuracy=0.5) for side in ("left", "right")
    ]
    output = tmp_path / "c.html"
    report.run(report.Config(runs=runs, output=str(output)))
    page = Page(output.read_text(encoding="utf-8"))
    assert ["figure", "left/model", "right/model"] in page.rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": None}, "a comparison belongs to no run's folder"),
        ({"runs": []}, "runs is empty"),
        ({"output": "page.pdf"}, r"page.pdf is to be a page"),
    ],
)
def test_options_that_cannot_work(runs, tmp_path, change, message):
    settings = {"runs": runs, "output": str(tmp_path / "c.html")} | change
    with pytest.raises(ConfigError, match=message):
        report.run(report.Config(**settings))


def test_the_same_run_twice(runs):
    with pytest.raises(ConfigError, match="names a folder twice"):
        report.run(report.Config(runs=[runs[0], runs[0] + "/"], output="c.html"))


def test_no_run_folder_names_the_nearest(runs, tmp_path):
    with pytest.raises(DataError, match="Did you mean 'fast'.*A run folder is the output_dir"):
        report.run(report.Config(runs=[runs[0], str(tmp_path / "runs" / "fats")], output="c.html"))
