import logging
import zipfile

import numpy as np
import pytest

from nlpapp.data.glue_tasks import TASKS
from nlpapp.errors import DataError
from nlpapp.evaluation.submission import write_submission
from tests.evaluation.glue_server import problems

FILES = ["AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]


def lines_of(archive, name):
    return archive.read(name).decode("utf-8").splitlines()


def test_names_headers_words_and_row_counts(tmp_path):
    rng = np.random.default_rng(0)
    predictions = {
        ("rte", "test"): rng.integers(0, 2, 3000),
        ("sst2", "test"): rng.integers(0, 2, 1821),
        ("stsb", "test"): np.linspace(-1, 6, 1379),
        ("mnli", "test_matched"): rng.integers(0, 3, 9796),
        ("ax", "test"): rng.integers(0, 3, 1104),
    }
    submission = write_submission(tmp_path, TASKS, predictions)
    with zipfile.ZipFile(submission.path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(f"{name}.tsv" for name in FILES)
        for task in TASKS.values():
            for split, name in task.server_files.items():
                lines = lines_of(archive, name)
                assert lines[0] == "index\tprediction"
                assert len(lines) == 1 + task.rows[split]
                assert [line.split("\t")[0] for line in lines[1:4]] == ["0", "1", "2"]
        rte = [line.split("\t")[1] for line in lines_of(archive, "RTE.tsv")[1:]]
        words = np.array(["entailment", "not_entailment"])
        assert rte == words[predictions["rte", "test"]].tolist()
        sst2 = [line.split("\t")[1] for line in lines_of(archive, "SST-2.tsv")[1:]]
        assert sst2 == [str(index) for index in predictions["sst2", "test"]]
        matched = [line.split("\t")[1] for line in lines_of(archive, "MNLI-m.tsv")[1:]]
        three = np.array(["entailment", "neutral", "contradiction"])
        assert matched == three[predictions["mnli", "test_matched"]].tolist()
        scores = [line.split("\t")[1] for line in lines_of(archive, "STS-B.tsv")[1:]]
        assert (scores[0], scores[-1]) == ("0.000", "5.000")  # clipped to the scale
        assert scores[700] == f"{np.linspace(-1, 6, 1379)[700]:.3f}"


def test_test_sets_without_a_model_are_filled_and_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        submission = write_submission(tmp_path, TASKS, {("wnli", "test"): np.ones(146, np.int64)})
    assert set(submission.filled) == {f"{name}.tsv" for name in FILES} - {"WNLI.tsv"}
    assert "no predictions for the official test set of CoLA.tsv" in caplog.text
    rows = (tmp_path / "CoLA.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[1] for row in rows} == {"1"}
    assert "MNLI-mm.tsv" in caplog.text


def test_wrong_row_count_writes_nothing(tmp_path):
    with pytest.raises(DataError, match="MRPC.tsv: found 1,724 predictions.*expects 1,725"):
        write_submission(tmp_path, TASKS, {("mrpc", "test"): np.zeros(1724, np.int64)})
    assert list(tmp_path.iterdir()) == []


def test_unknown_test_set(tmp_path):
    with pytest.raises(DataError, match="takes no predictions for mnli/test"):
        write_submission(tmp_path, TASKS, {("mnli", "test"): np.zeros(1, np.int64)})


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions = {("wnli", "test"): np.zeros(146, np.int64)}
    first = write_submission(tmp_path / "a", TASKS, predictions).path.read_bytes()
    assert write_submission(tmp_path / "b", TASKS, predictions).path.read_bytes() == first


def all_predictions(seed):
    rng = np.random.default_rng(seed)
    return {
        (task.name, split): rng.normal(2.5, 3, task.rows[split])
        if task.regression
        else rng.integers(0, len(task.labels), task.rows[split])
        for task in TASKS.values()
        for split in task.server_files
    }


def test_the_server_takes_all_eleven_files(tmp_path):
    whole = write_submission(tmp_path / "whole", TASKS, all_predictions(0))
    assert whole.filled == ()
    assert problems(whole.path) == []
    assert problems(write_submission(tmp_path / "filled", TASKS, {}).path) == []


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("WNLI.tsv", lambda text: None, "WNLI.tsv: missing"),
        ("wnli.tsv", lambda text: "x", "wnli.tsv: unexpected"),
        ("RTE.tsv", lambda text: text.replace("index", "id", 1), "RTE.tsv: header"),
        ("RTE.tsv", lambda text: text + "3000\tentailment\n", "RTE.tsv: 3001 rows"),
        ("AX.tsv", lambda text: text.replace("\n7\t", "\n8\t", 1), "AX.tsv: row 7"),
        ("AX.tsv", lambda text: text.replace("contradiction", "no", 1), "AX.tsv: answer 'no'"),
        ("STS-B.tsv", lambda text: text.replace("2.701", "5.1", 1), "STS-B.tsv: answer '5.1'"),
    ],
)
def test_the_checker_finds_what_the_server_refuses(tmp_path, name, change, expected):
    sound = write_submission(tmp_path / "sound", TASKS, {}).path
    with zipfile.ZipFile(sound) as archive:
        contents = {entry: archive.read(entry).decode() for entry in archive.namelist()}
    contents[name] = change(contents.get(name, ""))
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        for entry, text in contents.items():
            if text is not None:
                archive.writestr(entry, text)
    (found,) = problems(tmp_path / "broken.zip")
    assert found.startswith(expected)
