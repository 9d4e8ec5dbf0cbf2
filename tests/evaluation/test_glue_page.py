"""The page of a GLUE run holds the table, the published rows, and the parts of each task."""

import json

from nlpapp.evaluation.glue_page import TaskResult, write_glue_page
from nlpapp.evaluation.glue_table import GlueRun, table_rows
from tests.evaluation.test_error_analysis import table
from tests.evaluation.test_page import assert_self_contained

P_TRUE = [0.9, 0.2, 0.8, 0.4]


def result_of(tmp_path, settings):
    runs = []
    for seed in (1, 2):
        for name in settings:
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir(exist_ok=True)
            records = [
                {"step": step, "split": "evaluation", "loss": 1 / step} for step in (1, 2, 3)
            ]
            (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
            figures = {"accuracy": 0.5, "score": 0.5, "degenerate": float(seed == 2)}
            runs.append(
                GlueRun(folder=folder, seed=seed, settings=name, repeated=False, figures=figures)
            )
    chosen = [run for run in runs if run.settings == settings[0]]
    tables = [table(P_TRUE) for _ in chosen]
    rows = table_rows("rte", ("accuracy",), chosen, [tables], seed=1)
    return TaskResult(name="rte", runs=runs, chosen=chosen, tables=tables, rows=rows)


def test_page(tmp_path):
    texts = [("a", "b")] * 4
    page = write_glue_page(
        tmp_path / "report.html",
        [result_of(tmp_path, [""])],
        {"average_score": 0.5},
        ["ready <now>"],
        texts_of={"rte": texts}.get,
    )
    found = assert_self_contained(page.read_text(encoding="utf-8"))
    seen = "".join(found.text)
    assert "over 1 of GLUE's 9 tasks" in seen
    assert "ready <now>" in seen
    assert "degenerate: one class for all rows" in seen
    assert "rte: curves of the seeds" in seen
    assert "rte: hardest examples" in seen
    assert "arXiv 1908.08962" in seen
    assert found.tags.count("img") == 3
    assert "Settings" not in seen
    published = next(row for row in found.rows if "BERT-tiny (test)" in row)
    theirs = next(row for row in found.rows if row[:2] == ["rte", "accuracy"] and "0.5720" in row)
    assert dict(zip(published, theirs, strict=True))["median"] == "0.5000"


def test_a_grid_has_its_table(tmp_path):
    page = write_glue_page(
        tmp_path / "report.html",
        [result_of(tmp_path, ["rate-1", "rate-2"])],
        {},
        [],
        texts_of=lambda name: None,
    )
    found = assert_self_contained(page.read_text(encoding="utf-8"))
    assert any(row[:2] == ["rte", "rate-2"] for row in found.rows)
    assert "rte: hardest examples" not in "".join(found.text)
