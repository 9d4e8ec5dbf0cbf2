"""Figures: what is drawn is read back from the axes or the pixels; nothing global changes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from nlpapp.errors import DataError
from nlpapp.evaluation import plots


def write_metrics(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


RECORDS = [
    {"step": 1, "split": "train", "seconds": 0.1, "loss": 4.0, "learning_rate": 1e-3},
    {"step": 2, "split": "train", "seconds": 0.2, "loss": 2.0, "learning_rate": 5e-4},
    {"step": 2, "split": "dev", "seconds": 0.3, "loss": 3.0, "accuracy": 0.5},
]


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn by a test, in order, for their axes to be read."""
    drawn = []
    save = plots.save_figure

    def remember(figure, output):
        drawn.append(figure)
        return save(figure, output)

    monkeypatch.setattr(plots, "save_figure", remember)
    return drawn


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("latency_ms", "latency (ms)"),
        ("size_mb", "size (MB)"),
        ("masked_lm_loss", "masked LM loss"),
        ("tokens_per_second", "tokens per second"),
        ("seconds", "seconds"),
        ("f1", "F1"),
        ("effective_context_10_percent", "effective context 10 percent"),
    ],
)
def test_column_names_become_words_with_units(name, words):
    assert plots.describe(name) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.5, "0.5000"),
        (12.3456, "12.35"),
        (99999.4, "99,999"),
        (3.0, "3"),
        (0, "0"),
        (0.0, "0"),
        (1e-5, "1e-05"),
        (float("nan"), "nan"),
        (np.float32(0.25), "0.2500"),
        (np.int64(1000), "1,000"),
        ("text", "text"),
        (True, "True"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert plots.format_number(value) == text


def test_curves_take_the_last_value_of_a_step_and_skip_what_is_not_finite():
    found = plots.curves(
        [
            {"step": 2, "split": "train", "loss": 9.0},
            {"step": 1, "split": "train", "loss": 4.0, "note": "text", "flag": True},
            {"step": 2, "split": "train", "loss": 2.0},
            {"step": 3, "split": "train", "loss": float("nan")},
            {"split": "train", "loss": 1.0},
        ]
    )
    assert list(found) == ["loss"]
    steps, values = found["loss"]["train"]
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [4, 2])


def test_a_cut_last_line_is_skipped_and_a_broken_middle_line_is_named(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", RECORDS)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 3, "spl')
    assert plots.read_records(path) == RECORDS
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], "oops", lines[1]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: .*'oops'"):
        plots.read_records(path)


def test_moving_average_equals_the_mean_of_each_window():
    values = np.random.default_rng(0).normal(size=23)
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(23)]
    np.testing.assert_allclose(plots.moving_average(values, 5), expected)


def test_losses_share_a_panel_and_come_first():
    names = ["learning_rate", "accuracy", "masked_lm_loss", "speed", "loss"]
    names += ["perplexity", "valid_perplexity"]
    assert plots.metric_families(names) == {
        "loss": ["masked_lm_loss", "loss"],
        "accuracy": ["accuracy"],
        "perplexity": ["perplexity", "valid_perplexity"],
        "learning_rate": ["learning_rate"],
        "speed": ["speed"],
    }
    assert next(iter(plots.metric_families(names))) == "loss"


def test_one_panel_for_each_family_with_train_and_evaluation_apart(tmp_path, figures):
    path = write_metrics(tmp_path / "metrics.jsonl", RECORDS)
    output = plots.plot_curves(path, tmp_path / "plots" / "curves.png")
    assert imread(output).ndim == 3
    loss, accuracy, rate = figures[0].axes
    assert [panel.get_title("left") for panel in (loss, accuracy, rate)] == [
        "loss",
        "accuracy",
        "learning rate",
    ]
    lines = {line.get_label(): line for line in loss.lines}
    np.testing.assert_array_equal(lines["train"].get_xydata(), [[1, 4], [2, 2]])
    np.testing.assert_array_equal(lines["dev"].get_xydata(), [[2, 3]])
    assert lines["train"].get_color() != lines["dev"].get_color()
    assert loss.get_xlabel() == "optimizer step"


def test_long_noisy_curves_are_averaged_and_schedules_are_not(tmp_path, figures):
    noise = np.random.default_rng(0).normal(size=200)
    records = [
        {"step": i, "split": "train", "loss": 5 + noise[i], "learning_rate": 1 - i / 200}
        for i in range(200)
    ]
    plots.plot_curves(write_metrics(tmp_path / "m.jsonl", records), tmp_path / "c.png")
    loss, rate = figures[0].axes
    assert [len(loss.lines), len(rate.lines)] == [2, 1]
    assert "mean of 5 points" in loss.lines[1].get_label()


def test_a_run_without_numbers_draws_nothing(tmp_path):
    path = write_metrics(tmp_path / "metrics.jsonl", [])
    assert plots.plot_curves(path, tmp_path / "curves.png") is None
    assert not (tmp_path / "curves.png").exists()


def test_runs_are_overlaid_from_their_evaluations(tmp_path, figures):
    other = [{**record, "loss": record["loss"] + 1} for record in RECORDS[:3] if "loss" in record]
    runs = {
        "small": write_metrics(tmp_path / "a.jsonl", RECORDS),
        "large": write_metrics(tmp_path / "b.jsonl", other),
    }
    plots.plot_run_comparison(runs, tmp_path / "comparison.png")
    panel = figures[0].axes[0]
    assert panel.get_title("left") == "loss, evaluation"
    drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert drawn == {"small": [[2, 3]], "large": [[2, 4]]}


def test_runs_with_nothing_in_common_draw_nothing(tmp_path):
    a = write_metrics(tmp_path / "a.jsonl", [{"step": 1, "split": "dev", "loss": 1.0}])
    b = write_metrics(tmp_path / "b.jsonl", [{"step": 1, "split": "dev", "accuracy": 1.0}])
    assert plots.plot_run_comparison({"a": a, "b": b}, tmp_path / "c.png") is None


def test_confusion_colours_are_row_shares_and_cells_hold_counts(tmp_path, figures):
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 1200]])
    plots.plot_confusion(matrix, ["yes", "no", "maybe"], tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares[0], [0.75, 0.25, 0])
    np.testing.assert_array_equal(shares[1], 0)  # a class without examples is no division by zero
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[(0, 0)] == "3\n75%"
    assert cells[(1, 0)] == "1\n25%"  # column 1 of row 0: predicted "no", truly "yes"
    assert cells[(2, 2)] == "1,200\n100%"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["yes", "no", "maybe"]


def test_confusion_refuses_labels_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 2\), but there are 3 labels"):
        plots.plot_confusion(np.eye(2), ["a", "b", "c"], tmp_path / "confusion.png")


def test_trade_off_names_do_not_cover_each_other(tmp_path, figures):
    rows = [
        {"model": f"model number {i}", "latency_ms": 3.0 + 0.1 * i, "accuracy": 0.8}
        for i in range(4)
    ]
    rows.append({"model": "not measured", "latency_ms": None, "accuracy": 0.5})
    output = tmp_path / "trade_off.png"
    plots.plot_trade_off(rows, x="latency_ms", y="accuracy", label="model", output=output)
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "latency (ms), log scale"
    assert [text.get_text() for text in axes.texts] == [row["model"] for row in rows[:4]]
    boxes = [text.get_window_extent() for text in axes.texts]
    for order, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:order]) == 0


@pytest.mark.parametrize("x", [[0.0, 5.0], [7.0], []])
def test_trade_off_with_zero_one_or_no_points(tmp_path, figures, x):
    rows = [{"name": str(value), "cost": value, "gain": 1.0} for value in x]
    plots.plot_trade_off(rows, x="cost", y="gain", label="name", output=tmp_path / "t.png")
    axes = figures[0].axes[0]
    assert len(axes.texts) == len(x)
    assert axes.get_xscale() == ("log" if x == [7.0] else "linear")


def test_bars_show_their_values(tmp_path, figures):
    values = {"majority": 0.22, "BERT": 0.7134}
    plots.plot_bars(values, tmp_path / "bars.png", quantity="accuracy")
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.22, 0.7134]
    assert [text.get_text() for text in axes.texts] == ["0.22", "0.713"]


def test_nothing_global_is_used(tmp_path):
    code = (
        "import sys, matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        "from nlpapp.evaluation import plots\n"
        "from pathlib import Path\n"
        "plots.plot_bars({'a': 1.0}, Path(sys.argv[1]), quantity='accuracy')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bars.png")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_a_picture_is_whole_or_absent(tmp_path, monkeypatch):
    """A run draws its curves again while somebody looks at them."""
    records = tmp_path / "metrics.jsonl"
    records.write_text('{"step": 1, "split": "train", "loss": 2.0}\n')
    picture = plots.plot_curves(records, tmp_path / "plots" / "curves.png")
    before = picture.read_bytes()

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("no space")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="no space"):
        plots.plot_curves(records, picture)
    assert picture.read_bytes() == before and list(picture.parent.iterdir()) == [picture]
