import pytest

from nlpapp.evaluation.ablation_page import write_ablation_page
from nlpapp.evaluation.ablation_table import ablation_rows
from tests.evaluation.test_ablation_table import result
from tests.evaluation.test_page import Page

COSTS = [
    {"model": name, "kind": "pytorch", "bytes": size, "p50_ms": p50, "batch_32_p50_ms": 9 * p50}
    for name, size, p50 in (("teacher", 9000, 4.0), ("labels", 700, 0.5), ("logits", 700, 0.5))
]


@pytest.fixture
def results():
    return [
        result("labels", [100, 120]),
        result("logits", [130, 150], "labels", teacher_accuracy=0.9),
    ]


def test_page_has_the_teacher_the_variants_and_their_costs(results, tmp_path):
    rows = ablation_rows(results, ["accuracy"], seed=0)
    path = write_ablation_page(tmp_path, results, rows, COSTS, ["accuracy"], 1)
    table = Page(path.read_text(encoding="utf-8")).rows
    assert table[0][:3] == ["variant", "mean", "std"]
    assert [row[0] for row in table[1:4]] == ["teacher", "labels", "logits"]
    assert table[1][1] == "0.9000" and table[2][1] == "0.5500" and table[3][1] == "0.7000"
    assert table[3][table[0].index("sure")] == "yes"
    # The mean over the seeds stands beside each cost.
    costs = [row[:3] for row in table if row[1:2] == ["pytorch"]]
    assert costs == [
        ["teacher", "pytorch", "0.9000"],
        ["labels", "pytorch", "0.5500"],
        ["logits", "pytorch", "0.7000"],
    ]
    assert table[-1] == ["logits", "0.6500", "0.7500"]
    pareto = Page((tmp_path / "pareto.html").read_text(encoding="utf-8"))
    said = [attributes["aria-label"] for tag, attributes in pareto.attributes if tag == "a"]
    # Of equal cost the variant with more is on the front.
    assert sum("logits pytorch" in text and "on the front" in text for text in said) == 3
    assert sum("labels pytorch" in text and "on the front" in text for text in said) == 0


def test_without_costs_there_is_no_pareto_page(results, tmp_path):
    rows = ablation_rows(results, ["accuracy"], seed=0)
    path = write_ablation_page(tmp_path, results, rows, [], ["accuracy"], 1)
    assert "Costs" not in path.read_text(encoding="utf-8")
    assert not (tmp_path / "pareto.html").exists()


def test_the_figure_of_several_teachers_is_that_of_none_of_them(results, tmp_path):
    rows = ablation_rows(results, ["accuracy"], seed=0)
    costs = [*COSTS, {**COSTS[0], "model": "teacher 2"}]
    costs += [{**COSTS[0], "kind": "int8", "accuracy": 0.8}]
    path = write_ablation_page(tmp_path, results, rows, costs, ["accuracy"], 1)
    table = Page(path.read_text(encoding="utf-8")).rows
    assert table[1][:2] == ["teachers, averaged", "0.9000"]
    shown = {(row[0], row[1]): row[2] for row in table if row[1:2] in (["pytorch"], ["int8"])}
    assert shown["teacher", "int8"] == "0.8000" and shown["labels", "pytorch"] == "0.5500"
    assert "0.9000" not in shown.values()


def test_sizes_of_a_pruned_model_stand_beside_that_model_alone(tmp_path):
    pruned = [result("pruned", [100], nonzero_parameters=17.0, compressed_bytes=19.0)]
    rows = ablation_rows(pruned, ["accuracy"], seed=0)
    costs = [{**COSTS[1], "model": "pruned", "kind": kind} for kind in ("pytorch", "fp32", "int8")]
    path = write_ablation_page(tmp_path, pruned, rows, costs, ["accuracy"], 1)
    table = Page(path.read_text(encoding="utf-8")).rows
    shown = {row[1]: row for row in table if row[:1] == ["pruned"] and len(row) > 6}
    assert "17" in shown["pytorch"] and "19" in shown["pytorch"]
    assert not {"17", "19"} & {*shown["fp32"], *shown["int8"]}
