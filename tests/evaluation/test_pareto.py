"""The front against its definition, and the page as a reader without network or mouse has it."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from nlpapp.errors import DataError
from nlpapp.evaluation.pareto import (
    HEIGHT,
    WIDTH,
    Trade,
    draw_pareto,
    pareto_front,
    plot_pareto,
    spread,
    usual_trades,
    write_pareto_page,
)

ROWS = [
    {"name": "large", "p50_ms": 90.0, "bytes": 400_000_000, "accuracy": 0.93},
    {"name": "small <b>", "p50_ms": 0.9, "bytes": 9_000_000, "accuracy": 0.85},
    {"name": "poor", "p50_ms": 12.0, "bytes": 90_000_000, "accuracy": 0.84},
    {"name": "unknown", "p50_ms": 3.0, "bytes": 1000, "accuracy": None},
]
TRADE = Trade(title="Accuracy and latency", x="p50_ms", y="accuracy")


def test_the_front_is_what_nothing_dominates():
    rng = np.random.default_rng(3)
    costs = [tuple(pair) for pair in rng.integers(0, 12, (60, 2)).tolist()]
    found = pareto_front(costs)
    assert True in found and False in found
    for index, (own, inside) in enumerate(zip(costs, found, strict=True)):
        better = [
            other
            for place, other in enumerate(costs)
            if place != index and all(o <= c for o, c in zip(other, own, strict=True))
            if any(o < c for o, c in zip(other, own, strict=True))
        ]
        assert inside == (not better)


def test_equals_stay_on_the_front_together():
    assert pareto_front([(1, 2), (1, 2), (1, 3)]) == [True, True, False]


def test_directions_of_the_vertical_axis():
    rows = TRADE.rows(ROWS)
    assert [row["name"] for row in rows] == ["large", "small <b>", "poor"]
    assert TRADE.front(rows) == [True, True, False]
    sizes = Trade(title="t", x="p50_ms", y="bytes", more_is_better=False)
    assert sizes.front(ROWS) == [False, True, False, True]


def test_names_are_moved_apart_and_keep_their_order():
    places = [10.0, 11.0, 100.0, 12.0]
    found = spread(places, 15)
    assert found == [-4.0, 11.0, 100.0, 26.0]
    assert spread([0.0, 20.0], 15) == [0.0, 20.0]
    rng = np.random.default_rng(0)
    many = (rng.random(12) * 100).tolist()
    moved = spread(many, 15)
    assert min(b - a for a, b in itertools.pairwise(sorted(moved))) >= 15 - 1e-9
    assert np.argsort(moved).tolist() == np.argsort(many).tolist()


def test_each_point_can_be_reached_and_says_its_figures():
    drawing = ElementTree.fromstring(draw_pareto(ROWS, TRADE))
    links = [node for node in drawing.iter("a")]
    assert [node.get("tabindex") for node in links] == ["0"] * 3
    said = links[1].get("aria-label")
    assert said == "small <b>: p50 (ms) 0.9000, accuracy 0.8500, on the front"
    assert links[2].get("aria-label").endswith("another is at least as good in both")
    circles = [node.find("circle") for node in links]
    assert [node.get("class") for node in circles] == [None, None, "open"]
    across = [float(node.get("cx")) for node in circles]
    down = [float(node.get("cy")) for node in circles]
    assert across[1] < across[2] < across[0] < WIDTH
    assert 0 < down[0] < down[1] < down[2] < HEIGHT
    # Logarithmic: equal ratios are equal distances.
    ratio = (across[0] - across[2]) / (across[2] - across[1])
    assert ratio == pytest.approx(np.log(90 / 12) / np.log(12 / 0.9), rel=0.01)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 1.0], [-3.0, 4.0], [1e-6, 1e9]])
def test_any_range_of_figures_can_be_drawn(values, tmp_path):
    rows = [{"name": str(v), "p50_ms": v, "accuracy": v} for v in values]
    drawing = ElementTree.fromstring(draw_pareto(rows, TRADE))
    for circle in drawing.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= WIDTH and 0 <= float(circle.get("cy")) <= HEIGHT
    assert plot_pareto(rows, TRADE, output=tmp_path / "a.png").stat().st_size > 5000


def test_nothing_to_draw_is_said(tmp_path):
    for draw in (draw_pareto, lambda *given: plot_pareto(*given, output=tmp_path / "a.png")):
        with pytest.raises(DataError, match="no row has both p50_ms and accuracy"):
            draw(ROWS[3:], TRADE)


def test_the_page_needs_nothing_else(tmp_path):
    grid = [{"model": "large", "threads": 1, "words": None, "p50_ms": 3.25}]
    path = write_pareto_page(
        tmp_path / "new" / "p.html",
        title="Models & more",
        subtitle="one thread",
        rows=ROWS,
        trades=[TRADE, Trade(title="Absent", x="p50_ms", y="nowhere")],
        grid=grid,
    )
    page = path.read_text(encoding="utf-8")
    assert "Models &amp; more" in page and "small &lt;b&gt;" in page and "Absent" not in page
    assert not re.search(r"https?://|<script|<link|src=|@import|url\(", page)
    assert page.count("<svg") == 1 and "By threads and length" in page
    assert [path.name for path in path.parent.iterdir()] == ["p.html"]


def test_what_is_drawn_depends_on_what_is_known():
    assert [trade.y for trade in usual_trades(ROWS)] == ["accuracy"] * 3
    rows = [{"p50_ms": 1, "bytes": 2, "peak_mb": 3, "texts_per_second_8": 4}]
    rows[0]["texts_per_second_32"] = 5
    assert [trade.y for trade in usual_trades(rows)] == ["bytes", "peak_mb", "texts_per_second_32"]
    rows = [{"p50_ms": 1, "bytes": 2, "peak_mb": 3}]
    assert [trade.y for trade in usual_trades(rows)] == ["bytes", "peak_mb"]
