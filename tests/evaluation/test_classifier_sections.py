"""The parts of a page about a classifier: what they show, and what they leave out."""

import numpy as np

from nlpapp.evaluation.classifier_sections import difference_section, prediction_sections
from nlpapp.evaluation.prediction_table import PredictionTable
from tests.evaluation.test_error_analysis import table

TEXTS = [("short",), ("a longer text",), ("mid size",), ("the longest text of all",)]


def titles(sections):
    return [section.title for section in sections]


def test_one_classifier(tmp_path):
    sections = prediction_sections([table([0.9, 0.2, 0.8, 0.4])], TEXTS, tmp_path)
    assert titles(sections) == [
        *("Confusion matrix", "Calibration", "Accuracy by length", "Hardest examples")
    ]
    confusion, calibration, lengths, hardest = sections
    assert confusion.image == tmp_path / "confusion.png"
    assert calibration.image == tmp_path / "calibration.png"
    assert [row["accuracy"] for row in lengths.table] == [1.0, 1.0, 0.0, 0.0]
    assert lengths.table[0] == {"characters": "5 to 5", "rows": 1, "accuracy": 1.0}
    assert hardest.table[0] == {
        "row": 1,
        "text": "a longer text",
        "label": "no",
        "predicted": "yes",
        "probabilities": "no 0.200, yes 0.800",
    }


def test_seeds_are_taken_together(tmp_path):
    tables = [table([0.9, 0.2, 0.8, 0.4]), table([0.1, 0.4, 0.9, 0.4])]
    sections = prediction_sections(tables, TEXTS, tmp_path, name="sst2")
    assert titles(sections)[0] == "sst2: confusion matrix"
    assert sections[0].image == tmp_path / "sst2-confusion.png"
    assert [row["accuracy"] for row in sections[2].table] == [0.5, 1.0, 0.0, 0.0]
    assert sections[2].table[0]["rows"] == 1
    assert [row["row"] for row in sections[3].table] == [1, 3, 0, 2]


def test_scores_have_distances_and_no_pictures(tmp_path):
    scores = PredictionTable((), np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 5, 4.5]), None)
    sections = prediction_sections([scores], TEXTS, tmp_path)
    assert titles(sections) == ["Distance by length", "Hardest examples"]
    assert [row["mean distance"] for row in sections[0].table] == [0.0, 2.0, 0.0, 0.5]
    assert sections[1].table[0]["predicted"] == 5.0


def test_without_texts_the_rest_stands(tmp_path):
    tables = [table([0.9, 0.2, 0.8, 0.4])]
    assert titles(prediction_sections(tables, None, tmp_path)) == [
        *("Confusion matrix", "Calibration")
    ]
    assert len(prediction_sections(tables, TEXTS[:2], tmp_path)) == 2


def test_differences_name_the_rows_that_moved_most():
    tables = {"a": table([0.9, 0.9, 0.1, 0.1]), "b": table([0.9, 0.4, 0.95, 0.3])}
    section = difference_section(tables, TEXTS)
    assert [row["row"] for row in section.table] == [2, 1]
    assert section.table[0]["text"] == "mid size"
    assert section.table[0]["right in"] == "b"
    assert section.table[1]["right in"] == "a"
    assert section.table[1]["p of the label, b"] == 0.4
    assert "both are right on 1, neither on 1, only a on 1 and only b on 1: p = 1" in section.text
    assert "text" not in difference_section(tables, None).table[0]
    assert difference_section({"a": tables["a"], "b": table([0.5])}, None) is None
    assert difference_section({"a": tables["a"], "b": None}, None) is None


def test_the_scores_that_moved_most_between_two_runs():
    labels = np.array([1.0, 2.0, 3.0])
    said = {"a": np.array([1.0, 2.5, 3.0]), "b": np.array([1.5, 2.5, 0.0])}
    tables = {name: PredictionTable((), labels, scores, None) for name, scores in said.items()}
    section = difference_section(tables, [("x",), ("y",), ("z", "zz")], title="stsb: ")
    assert section.title.startswith("stsb: ")
    assert section.table[:2] == [
        {"row": 2, "text": "z | zz", "label": 3.0, "a": 3.0, "b": 0.0},
        {"row": 0, "text": "x", "label": 1.0, "a": 1.0, "b": 1.5},
    ]
    assert "a is nearer to 2 labels, b to 0" in section.text
    other = PredictionTable((), labels + 1, labels, None)
    assert difference_section({"a": tables["a"], "b": other}, None) is None
