"""The report command: one run, several runs, and folders that are no runs."""

import json

import numpy as np
import pytest

from nlpapp import cli
from nlpapp.errors import ConfigError, DataError
from nlpapp.evaluation.predictions import write_predictions
from nlpapp.evaluation.run_record import read_run
from nlpapp.recipes import report
from tests.conftest import REPOSITORY
from tests.evaluation.test_page import Page, assert_self_contained


def write_run(folder, *, rate, accuracy, finished=True, extra="", command="finetune"):
    folder.mkdir(parents=True)
    config = f"output_dir: {folder}\nseed: 1\ntraining:\n  learning_rate: {rate}\n{extra}"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    environment = {"command": command, "seed": 1, "device": "CPU"}
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


def add_predictions(folder, config, said):
    """Make a classifier's run of ``folder``: its options, and what it ``said`` of four rows."""
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    logits = np.array([[0.0, 1.0] if word == "yes" else [1.0, 0.0] for word in said])
    labels = np.array([1, 0, 1, 0])
    write_predictions(folder / "predictions-dev.tsv", logits, ("no", "yes"), labels)


@pytest.fixture
def classifiers(runs, tmp_path):
    rows = [("good film", "yes"), ("bad film", "no"), ("fine film", "yes"), ("dull film", "no")]
    text = "".join(f"{sentence}\t{label}\n" for sentence, label in rows)
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\n" + text, encoding="utf-8")
    config = f"train_file: {data}\ndev_file: {data}\nseed: 1\n"
    add_predictions(tmp_path / "runs" / "slow_ms", config, ["yes", "no", "no", "yes"])
    add_predictions(tmp_path / "runs" / "fast", f"file: {data}\n", ["yes", "yes", "yes", "yes"])
    return runs


@pytest.mark.parametrize("order", [0, 1])  # finetune's options name the texts, or evaluate's
def test_two_classifiers_are_compared_row_by_row(classifiers, tmp_path, order):
    chosen = classifiers[::-1] if order else classifiers
    report.run(report.Config(runs=chosen, output=str(tmp_path / "c.html")))
    page = assert_self_contained((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "Rows on which the two differ" in "".join(page.text)
    (bad,) = [row for row in page.rows if "bad film" in row]
    assert bad[:4] == ["1", "bad film", "no", "slow_ms"]
    (fine,) = [row for row in page.rows if "fine film" in row]
    assert fine[:4] == ["2", "fine film", "yes", "fast"]
    assert not any("good film" in row or "dull film" in row for row in page.rows)


def test_two_glue_runs_are_compared_by_their_best_run_of_each_task(tmp_path):
    for name, said in (("a", ["yes", "no", "no", "yes"]), ("b", ["yes", "yes", "yes", "yes"])):
        write_run(tmp_path / name, rate=0.1, accuracy=0.5, command="glue")
        for seed, words in ((42, ["no"] * 4), (43, said)):
            folder = tmp_path / name / "wnli" / "grid-point" / f"seed-{seed}"
            write_run(folder, rate=0.1, accuracy=seed / 100)
            add_predictions(folder, "task: wnli\ndata_dir: absent\n", words)
    report.run(
        report.Config(runs=[str(tmp_path / name) for name in "ab"], output=str(tmp_path / "c.html"))
    )
    page = Page((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "wnli: Rows on which the two differ" in "".join(page.text)
    changed = [row[:3] for row in page.rows if row[0] in "0123"]
    assert changed == [["1", "no", "a"], ["2", "yes", "b"]]


def test_the_page_that_a_command_wrote_itself_is_not_replaced(tmp_path):
    run = write_run(tmp_path / "run", rate=0.1, accuracy=0.5, command="glue")
    page = tmp_path / "run" / "report.html"
    page.write_text("the submission and the hardest rows")
    with pytest.raises(ConfigError, match="the page that nlpapp glue wrote.*--output"):
        report.run(report.Config(runs=[run]))
    assert page.read_text() == "the submission and the hardest rows"
    report.run(report.Config(runs=[run], output=str(tmp_path / "plain.html")))
    assert (tmp_path / "plain.html").is_file()


def test_a_report_reads_the_texts_again_and_does_without_them(classifiers, tmp_path):
    folder = tmp_path / "runs" / "fast"
    report.run(report.Config(runs=[str(folder)]))
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    (worst,) = [row for row in page.rows if "bad film" in row]
    assert worst[2:4] == ["no", "yes"]
    (tmp_path / "dev.tsv").unlink()
    report.run(report.Config(runs=[str(folder)]))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Hardest examples" not in text
    assert "Calibration" in text


def test_a_glue_task_is_found_in_its_folder(runs, tmp_path):
    data = REPOSITORY / "data" / "sample" / "glue"
    folder = tmp_path / "runs" / "fast"
    (folder / "config.yaml").write_text(f"task: mrpc\ndata_dir: {data}\n", encoding="utf-8")
    assert report.dev_texts(read_run(folder)) is None  # no predictions
    write_predictions(folder / "predictions-dev.tsv", np.eye(2), ("no", "yes"), np.array([0, 1]))
    texts = report.dev_texts(read_run(folder))
    lines = (data / "MRPC" / "dev.tsv").read_text(encoding="utf-8-sig").splitlines()
    assert len(texts) == len(lines) - 1
    assert texts[3] == tuple(lines[4].split("\t")[3:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": []}, "runs is empty"),
        ({"output": "page.pdf"}, r"page.pdf is to be a page"),
    ],
)
def test_options_that_cannot_work(runs, tmp_path, change, message):
    settings = {"runs": runs, "output": str(tmp_path / "c.html")} | change
    with pytest.raises(ConfigError, match=message):
        report.run(report.Config(**settings))


def test_runs_stand_by_themselves_and_a_comparison_is_written_here(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *runs]) == 0
    assert "Comparison of slow_ms, fast" in (tmp_path / "comparison.html").read_text()


def test_the_same_run_twice(runs):
    with pytest.raises(ConfigError, match="names a folder twice"):
        report.run(report.Config(runs=[runs[0], runs[0] + "/"], output="c.html"))


def test_no_run_folder_names_the_nearest(runs, tmp_path):
    with pytest.raises(DataError, match="Did you mean 'fast'.*A run folder is the output_dir"):
        report.run(report.Config(runs=[runs[0], str(tmp_path / "runs" / "fats")], output="c.html"))
