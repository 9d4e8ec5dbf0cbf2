import logging

import numpy as np
import pytest

from nlpapp.data.classification_sets import read_sets, usual_metrics
from nlpapp.errors import ConfigError, DataError
from tests.conftest import REPOSITORY

GLUE = str(REPOSITORY / "data" / "sample" / "glue")


@pytest.fixture
def files(tmp_path):
    for name, rows in {
        "train": "a\tn\nb\tp\n",
        "dev": "c\tp\nd\tp\ne\tn\n",
        "test": "f\tn\n",
    }.items():
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + rows, encoding="utf-8")
    (tmp_path / "bare.tsv").write_text("text\nf\ng\n", encoding="utf-8")
    return tmp_path


def own(folder, **options):
    return read_sets(
        train_file=str(folder / "train.tsv"), dev_file=str(folder / "dev.tsv"), **options
    )


def test_own_files_share_the_labels_of_train(files):
    sets = own(files, test_file=str(files / "test.tsv"))
    assert sets.label_names == ("n", "p")
    assert sets.dev["dev"].labels.tolist() == [1, 1, 0]
    assert sets.test["test"].labels.tolist() == [0]
    assert not sets.pairs
    assert sets.metrics == ("accuracy", "f1")
    assert "always answering 'p' would be right in 66.7 % of dev" in sets.describe()


def test_test_file_needs_no_labels(files):
    sets = own(files, test_file=str(files / "bare.tsv"), label_column="label")
    assert sets.test["test"].labels is None
    assert len(sets.test["test"]) == 2


def test_label_of_dev_must_be_one_of_train(files):
    (files / "dev.tsv").write_text("text\tlabel\nc\tother\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: label 'other' is not one of 'n', 'p'"):
        own(files)


def test_label_of_test_must_be_one_of_train(files):
    (files / "test.tsv").write_text("text\tlabel\nc\tn\nd\tother\n", encoding="utf-8")
    with pytest.raises(DataError, match="test.tsv, line 3: label 'other' is not one of 'n', 'p'"):
        own(files, test_file=str(files / "test.tsv"))


def test_dev_needs_labels(files):
    (files / "dev.tsv").write_text("text\nc\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'label'"):
        own(files)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "either --task"),
        ({"task": "sst2", "train_file": "x"}, "either --task"),
        ({"train_file": "x", "dev_file": "x", "dev_share": 0.1}, "leave it out with --dev_file"),
        ({"train_file": "x", "regression": True, "label_separator": ","}, "one score a row"),
        ({"task": "sst2", "data_dir": GLUE, "dev_share": 0.1}, "leave out the options"),
        ({"task": "sst2", "data_dir": GLUE, "header": False}, "leave out the options"),
        ({"train_file": "x", "dev_file": "x", "data_dir": "y"}, "--data_dir goes with --task"),
        ({"task": "sst2"}, "needs --data_dir"),
        ({"task": "sst2", "data_dir": GLUE, "regression": True}, "leave out the options"),
        ({"task": "sst2", "data_dir": GLUE, "dev_file": "x"}, "leave out the options"),
        ({"task": "ax", "data_dir": GLUE}, "fine-tune on mnli"),
        ({"task": "sst", "data_dir": GLUE}, "Did you mean 'sst2'"),
    ],
)
def test_options_that_contradict(options, expected):
    with pytest.raises(ConfigError, match=expected):
        read_sets(**options)


def test_task_brings_its_metrics_and_test_set():
    sets = read_sets(task="mrpc", data_dir=GLUE)
    assert sets.metrics == ("accuracy", "f1")
    assert list(sets.dev) == ["dev"]
    assert sets.test["test"].labels is None
    assert sets.pairs


def test_mnli_brings_both_dev_sets_and_the_diagnostic_set(tmp_path):
    header = "index\tsentence1\tsentence2"
    rows = "\n0\ta\tb\tneutral\n1\tc\td\tentailment\n"
    for split in ("train", "dev_matched", "dev_mismatched"):
        path = tmp_path / "MNLI" / f"{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(header + "\tgold_label" + rows, encoding="utf-8")
    (tmp_path / "diagnostic").mkdir()
    (tmp_path / "diagnostic" / "diagnostic.tsv").write_text(header + "\n0\ta\tb\n")
    sets = read_sets(task="mnli", data_dir=str(tmp_path))
    assert list(sets.dev) == ["dev_matched", "dev_mismatched"]
    assert list(sets.test) == ["ax"]


def test_metrics_of_own_tasks():
    assert usual_metrics(()) == ("pearson", "spearmanr", "mean_squared_error")
    assert usual_metrics("ab") == ("accuracy", "f1")
    assert usual_metrics("abc") == ("accuracy", "f1_macro")


def test_without_a_dev_file_rows_of_train_choose(files, caplog):
    rows = "".join(f"text {index}\t{'np'[index % 4 == 0]}\n" for index in range(40))
    path = files / "many.tsv"
    path.write_text("text\tlabel\n" + rows, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        sets = read_sets(train_file=str(path))
    assert "no dev_file: 4 rows" in caplog.text
    assert np.bincount(sets.dev["dev"].labels).tolist() == [3, 1]
    texts = sets.train.texts_a + sets.dev["dev"].texts_a
    assert sorted(texts) == sorted(f"text {index}" for index in range(40))
    again = read_sets(train_file=str(path), split_seed=42)
    assert again.dev["dev"].texts_a == sets.dev["dev"].texts_a
    other = read_sets(train_file=str(path), split_seed=43, dev_share=0.5)
    assert np.bincount(other.dev["dev"].labels).tolist() == [15, 5]


def test_rows_in_dev_and_train_are_counted(files, caplog):
    (files / "dev.tsv").write_text("text\tlabel\na\tn\nnew\tp\nb \tn\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        own(files, test_file=str(files / "test.tsv"))
    assert "2 of 3 rows of dev are also in train, 66.7 %" in caplog.text
    assert "of test" not in caplog.text


def test_several_labels_of_a_row(files):
    for name in ("train", "dev"):
        (files / f"{name}.tsv").write_text("text\tlabel\nx\tr b\ny\t\n", encoding="utf-8")
    sets = own(files, label_separator=" ")
    assert sets.dev["dev"].labels.tolist() == [[1, 1], [0, 0]]
    assert sets.metrics == ("f1_micro", "f1_macro", "accuracy")
    assert "2 classes, of which a row may have several: 1.00 on average in dev" in sets.describe()


def test_real_chinese_reviews_by_number(shared_data):
    sets = read_sets(
        train_file=str(shared_data / "zh_book_review" / "dev.tsv"),
        text_column="2",
        label_column="1",
    )
    assert (len(sets.train), len(sets.dev["dev"])) == (7200, 800)
