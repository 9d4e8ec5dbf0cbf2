"""Run folders are read as they are: finished, stopped half-way, or not a run at all."""

import json

import pytest

from nlpapp.errors import DataError
from nlpapp.evaluation.run_record import (
    Figure,
    figures,
    flatten,
    is_quality,
    ordered_metrics,
    read_run,
)


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 42\ntraining:\n  max_steps: 3\n", encoding="utf-8")
    (folder / "environment.json").write_text('{"command": "finetune"}', encoding="utf-8")
    records = [
        {"step": 3, "split": "dev", "seconds": 1.0, "accuracy": 0.5},
        {"step": 4, "split": "train", "seconds": 1.2, "loss": 0.1},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text + '{"step": 5, "sp', encoding="utf-8")
    return folder


def test_a_stopped_run_has_its_last_evaluation(run_folder):
    run = read_run(run_folder)
    assert run.metrics == {"step": 3, "accuracy": 0.5}
    assert not run.finished
    assert run.command == "finetune"
    assert run.config["training"] == {"max_steps": 3}


def test_a_finished_run_has_its_final_figures(run_folder):
    (run_folder / "metrics.json").write_text('{"accuracy": 0.75}', encoding="utf-8")
    run = read_run(run_folder)
    assert run.metrics == {"accuracy": 0.75}
    assert run.finished


def test_figures_can_be_given_before_metrics_json_is_written(run_folder):
    run = read_run(run_folder, metrics={"accuracy": 0.9})
    assert run.metrics == {"accuracy": 0.9}
    assert run.finished


def test_repeat_command_goes_to_a_new_folder(run_folder):
    command = read_run(run_folder).repeat_command()
    config, again = run_folder / "config.yaml", run_folder.with_name("first-again")
    assert command == f"nlpapp finetune --config {config} --output_dir {again}"


def test_repeat_command_quotes_spaces(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").write_text("", encoding="utf-8")
    assert "my run/config.yaml'" in read_run(folder).repeat_command()


def test_absent_folder_names_the_nearest_run(run_folder):
    with pytest.raises(DataError, match="no such folder. Did you mean 'first'?"):
        read_run(run_folder.with_name("frist"))


def test_folder_of_runs_lists_them(run_folder):
    with pytest.raises(DataError, match="has no config.yaml.*runs inside it: .*first"):
        read_run(run_folder.parent)


def test_file_instead_of_a_folder(run_folder):
    with pytest.raises(DataError, match="is a file, not a run folder"):
        read_run(run_folder / "config.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", '{"accuracy": ', "not valid JSON"),
        ("metrics.json", "[1]", "expected a JSON object, found list"),
        ("config.yaml", "a: [", "not valid YAML"),
        ("config.yaml", "just text", "expected a table of options, found str"),
    ],
)
def test_damaged_files_are_named(run_folder, name, content, message):
    (run_folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=f"{name}: {message}"):
        read_run(run_folder)


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_what_people_look_for_comes_first():
    metrics = {"initial_loss": 9.0, "seconds": 3.0, "dev_loss": 0.2, "accuracy": 0.9}
    ordered = [name for name, _ in ordered_metrics(metrics)]
    assert ordered == ["accuracy", "dev_loss", "seconds", "initial_loss"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", True),
        ("mnli_mm_accuracy", True),
        ("masked_lm_loss", True),
        ("initial_masked_lm_loss", False),
        ("best_step", False),
        ("tokens_per_second", False),
        ("rows", False),
    ],
)
def test_what_tells_how_good_a_model_is(name, expected):
    assert is_quality(name) is expected


def test_intervals_and_first_values_belong_to_their_figure():
    metrics = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "price_low": 3.0, "rows": 8}
    metrics |= {"initial_f1": 0.1, "initial_size": 2.0}
    assert figures(metrics) == [
        Figure("f1", 0.5, (0.4, 0.6), 0.1),
        Figure("price_low", 3.0),
        Figure("rows", 8),
        Figure("initial_size", 2.0),
    ]
