from types import SimpleNamespace

import numpy as np
import pytest

from nlpapp.errors import DataError
from nlpapp.recipes.export import Config
from nlpapp.recipes.export_data import calibration_texts, read_dev_set


def model_of(*names):
    return SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(names))))


def test_labelled_rows_are_scored_in_the_order_of_the_models_classes(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\na\tgood\nb\tbad\nc\tbad\nd\tbad\n")
    facts = {}
    config = Config(output_dir="run", file=str(path), max_metric_drop=0.2)
    found = read_dev_set(config, model_of("good", "bad"), facts)
    assert found.texts == ["a", "b", "c", "d"] and found.pairs is None
    assert (found.metric, found.max_metric_drop) == ("accuracy", 0.2)
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert found.score(logits)["accuracy"] == 0.75
    assert facts == {"data of the metrics": str(path)}
    assert read_dev_set(Config(output_dir="run"), model_of("good", "bad"), facts) is None


def test_a_task_without_labels_is_refused_before_the_export(tmp_path):
    (tmp_path / "AX").mkdir()
    rows = "index\tsentence1\tsentence2\n0\ta\tb\n"
    (tmp_path / "AX" / "diagnostic.tsv").write_text(rows)
    config = Config(output_dir="run", task="ax", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="diagnostic.tsv: labels are needed here"):
        read_dev_set(config, model_of("entailment", "neutral", "contradiction"), {})


def test_texts_that_calibrate_are_the_first(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\n" + "a\tb\n" * 200)
    config = Config(output_dir="run", calibration_file=str(path))
    assert calibration_texts(config) == [("a", "b")] * 128
    assert calibration_texts(Config(output_dir="run")) == []
