"""The plan of a GLUE table: how many runs, where they are, and which wait for MNLI."""

import logging
from dataclasses import replace

import pytest

from nlpapp.cli import parse
from nlpapp.data.glue_tasks import TASKS
from nlpapp.errors import ConfigError
from nlpapp.objectives.classification import ClassificationLossConfig
from nlpapp.recipes.glue_plan import (
    PAPER,
    GridPoint,
    grid_points,
    plan_runs,
    seed_list,
    task_loss,
)

POINT = GridPoint(batch_size=16, learning_rate=2e-5, num_epochs=3)


def test_a_number_of_seeds_counts_from_42():
    assert seed_list(3) == [42, 43, 44]
    assert seed_list([7, 1]) == [7, 1]


def test_the_grid_of_the_paper():
    points = grid_points("paper", None)
    assert points == PAPER
    assert len({(p.batch_size, p.learning_rate, p.num_epochs) for p in points}) == 18
    assert {point.num_epochs for point in points} == {2, 3, 4}
    assert PAPER[0].name == "batch-16-rate-5e-05-epochs-2"
    assert grid_points(None, 10) == [None]


@pytest.mark.parametrize(
    ("seeds", "grid", "max_steps", "expected"),
    [
        (0, None, None, "at least one"),
        ([1, 1], None, None, "each once"),
        (1, [], None, "at least one"),
        (1, [POINT, POINT], None, "each once"),
        (1, [POINT], 5, "leave training.max_steps out"),
        (1, [{"batch_size": 0}], None, "batch_size 0"),
        (1, [{"learning_rate": 0.0}], None, "learning_rate 0.0"),
        (1, [{"num_epochs": float("nan")}], None, "num_epochs nan"),
    ],
)
def test_what_cannot_be(seeds, grid, max_steps, expected):
    with pytest.raises(ConfigError, match=expected):
        points = [replace(POINT, **p) if isinstance(p, dict) else p for p in grid or []]
        (seed_list(seeds), grid_points(points if grid is not None else None, max_steps))


def test_mnli_comes_first_and_three_tasks_wait_for_it():
    tasks = [TASKS[name] for name in ("rte", "sst2", "mnli", "mrpc", "stsb", "wnli")]
    plan = plan_runs("out", tasks, [None], [1, 2], mnli_first=True)
    assert [run.task for run in plan[:2]] == ["mnli", "mnli"]
    assert len({run.folder for run in plan}) == len(plan) == 12
    assert {run.task for run in plan if run.after_mnli} == {"rte", "mrpc", "stsb"}
    assert plan[0].folder == "out/mnli/seed-1"
    assert not any(run.after_mnli for run in plan_runs("o", tasks, [None], [1], mnli_first=False))
    without = [task for task in tasks if task.name != "mnli"]
    assert not any(run.after_mnli for run in plan_runs("o", without, [None], [1], mnli_first=True))


def test_points_of_a_grid_have_folders_of_their_own():
    plan = plan_runs("out", [TASKS["rte"]], PAPER, [1, 2], mnli_first=True)
    assert len({run.folder for run in plan}) == 36
    assert plan[0].folder == "out/rte/batch-16-rate-5e-05-epochs-2/seed-1"


def test_the_command_line_takes_numbers_names_and_lists():
    base = ["--data_dir", "d", "--output_dir", "o"]
    config = parse("glue", [*base, "--seeds", "5", "--grid", "paper"])
    assert (config.seeds, config.grid) == (5, "paper")
    point = '[{"batch_size": 16, "learning_rate": 2e-5, "num_epochs": 3}]'
    config = parse("glue", [*base, "--seeds", "[1, 2]", "--grid", point])
    assert config.seeds == [1, 2]
    assert config.grid == [POINT]


def test_scores_are_trained_without_what_is_for_classes(caplog):
    loss = ClassificationLossConfig(class_weights="balanced", label_smoothing=0.1, r_drop=1.0)
    with caplog.at_level(logging.INFO):
        assert task_loss(TASKS["stsb"], loss) == ClassificationLossConfig(r_drop=1.0)
    assert "stsb has scores: without label_smoothing and class_weights" in caplog.text
    assert task_loss(TASKS["mnli"], loss) is loss
    weights = ClassificationLossConfig(class_weights=[1.0, 2.0])
    assert task_loss(TASKS["rte"], weights) is weights
    with pytest.raises(ConfigError, match="task mnli has 3 classes"):
        task_loss(TASKS["mnli"], weights)


def test_a_run_is_done_unless_it_may_have_to_be_repeated(tmp_path):
    (planned,) = plan_runs(str(tmp_path), [TASKS["rte"]], [None], [1], mnli_first=False)
    folder = tmp_path / "rte" / "seed-1"
    folder.mkdir(parents=True)
    assert not planned.is_done(repeat_degenerate=0)
    (folder / "metrics.json").write_text('{"accuracy": 0.5, "degenerate": 1.0}')
    assert planned.is_done(repeat_degenerate=0)
    assert not planned.is_done(repeat_degenerate=1)
    (folder / "metrics.json").write_text('{"accuracy": 0.5, "degenerate": 0.0}')
    assert planned.is_done(repeat_degenerate=1)
