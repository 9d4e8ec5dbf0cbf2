"""Phases: their options, their order, and how their figures and records become those of a whole."""

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nlpapp.errors import ConfigError
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.hub import HubConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.phases import (
    PhaseConfig,
    check_phases,
    join_metrics,
    join_records,
    run_phases,
)
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import ScheduleConfig

TRAINING = TrainingConfig(max_steps=100, optimizer=OptimizerConfig(learning_rate=1.0, beta2=0.9))


@dataclass(frozen=True, kw_only=True)
class Command:
    output_dir: str = "top"
    phases: list | None = None
    data: str | None = None
    evaluation_data: str | None = None
    model: str | None = None
    batch_size: int = 8
    tokens_per_batch: int | None = None
    training: TrainingConfig = TRAINING
    hub: HubConfig = field(default_factory=lambda: HubConfig(repository="me/model"))


def test_a_phase_changes_what_it_names_and_keeps_the_rest(tmp_path):
    schedule = ScheduleConfig(name="cosine")
    phase = PhaseConfig(
        name="b", data="d", evaluation_data="e", batch_size=4, num_epochs=2.0, learning_rate=0.5,
        gradient_accumulation_steps=2, max_hours=3.0, schedule=schedule,
    )  # fmt: skip
    config = phase.config(Command(phases=[phase]), output_dir=tmp_path / "b", model="m")
    assert (config.data, config.evaluation_data, config.model) == ("d", "e", "m")
    assert (config.phases, config.output_dir) == (None, str(tmp_path / "b"))
    assert (config.batch_size, config.tokens_per_batch) == (4, None)
    assert config.hub.repository is None, "the model of the whole is pushed, once"
    training = config.training
    assert (training.max_steps, training.num_epochs, training.max_hours) == (None, 2.0, 3.0)
    assert (training.gradient_accumulation_steps, training.schedule) == (2, schedule)
    assert (training.optimizer.learning_rate, training.optimizer.beta2) == (0.5, 0.9)
    plain = PhaseConfig(name="a", data="d").config(Command(), output_dir=tmp_path, model=None)
    assert (plain.training, plain.batch_size) == (TRAINING, 8)


def test_a_size_of_its_own_replaces_that_of_the_run():
    phase, of_run = PhaseConfig(name="a", data="d", batch_size=4), Command(tokens_per_batch=512)
    config = phase.config(of_run, output_dir=Path("top/a"), model=None)
    assert (config.batch_size, config.tokens_per_batch) == (4, None)
    kept = PhaseConfig(name="a", data="d").config(of_run, output_dir=Path("top/a"), model=None)
    assert kept.tokens_per_batch == 512
    with pytest.raises(ConfigError, match="has batch_size 4 and tokens_per_batch 64; give one"):
        PhaseConfig(name="a", data="d", batch_size=4, tokens_per_batch=64)


def test_a_limit_of_time_is_that_of_a_phase():
    of_run = Command(training=replace(TRAINING, max_hours=24.0))
    with pytest.raises(ConfigError, match="give each of them its own max_hours"):
        PhaseConfig(name="a", data="d").config(of_run, output_dir=Path("top/a"), model=None)


LENGTHS = {"short": 128, "long": 512, "longer": 600}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([("a", "long"), ("b", "short")], "'b' has sequences of 128 tokens, shorter than the 512 "),
        ([("a", "short"), ("a", "long")], "phases are named"),
        ([("model", "short")], "phases are named"),
        ([("../a", "short")], "phases are named"),
        ([("a", "short"), ("b", "longer")], "'b' has .* 600 tokens, but the model has 512 pos"),
    ],
)
def test_phases_that_cannot_follow_each_other_are_refused(phases, message):
    made = [PhaseConfig(name=name, data=data) for name, data in phases]
    with pytest.raises(ConfigError, match=message):
        check_phases(made, LENGTHS.__getitem__, 512, lambda phase: None)


def test_evaluation_data_has_to_fit_the_model_too():
    phase = PhaseConfig(name="a", data="short", evaluation_data="longer")
    with pytest.raises(ConfigError, match="600 tokens, .* set size.max_position_embeddings to 600"):
        check_phases([phase], LENGTHS.__getitem__, 512, lambda phase: None)


def test_options_of_each_phase_are_checked_and_the_phase_is_named():
    def check(phase):
        if phase.name == "b":
            raise ConfigError("batch_size is 1")

    phases = [PhaseConfig(name=name, data="short") for name in "ab"]
    with pytest.raises(ConfigError, match="^the phase 'b': batch_size is 1$"):
        check_phases(phases, LENGTHS.__getitem__, 512, check)


def test_a_checkpoint_to_go_on_from_is_that_of_one_phase():
    phase = PhaseConfig(name="a", data="d")
    for resume in ("auto", "never"):
        assert phase.training(replace(TRAINING, resume=resume)).resume == resume
    with pytest.raises(ConfigError, match="training.resume is top/a/step-5, .* expected auto"):
        phase.training(replace(TRAINING, resume="top/a/step-5"))


def test_two_lengths_for_one_phase_are_refused():
    with pytest.raises(ConfigError, match="'a' has max_steps 3 and num_epochs 2.0; give one"):
        PhaseConfig(name="a", data="d", max_steps=3, num_epochs=2.0)


FIRST = {
    "steps": 10.0, "tokens": 100.0, "seconds": 5.0, "tokens_per_second": 50.0, "loss": 3.0,
    "initial_loss": 9.0,
}  # fmt: skip
SECOND = FIRST | {"steps": 5.0, "tokens": 300.0, "tokens_per_second": 100.0, "loss": 2.0}


def test_the_figures_of_the_whole():
    joined = join_metrics({"a": FIRST, "b": SECOND})
    assert (joined["loss"], joined["a_loss"], joined["b_loss"]) == (2.0, 3.0, 2.0)
    assert (joined["steps"], joined["tokens"], joined["seconds"]) == (15.0, 400.0, 10.0)
    # 100 tokens in 2 seconds, and 300 in 3.
    assert joined["tokens_per_second"] == pytest.approx(400 / 5)
    # What came before training is another figure on each phase's data.
    assert joined["a_initial_loss"] == 9.0 and "initial_loss" not in joined


def write(folder, records):
    folder.mkdir(parents=True)
    (folder / "train.log").write_text(f"log of {folder.name}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))


def test_the_records_of_the_whole_go_on_where_a_phase_ended(tmp_path):
    write(tmp_path / "top", [])
    for name in ("a", "b"):
        write(tmp_path / "top" / name, [{"step": 5, "split": "train", "seconds": 2.5, "loss": 1.0}])
    join_records(RunFolder(tmp_path / "top", is_main=True), {"a": FIRST, "b": SECOND})
    lines = (tmp_path / "top" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 5, "split": "train", "seconds": 2.5, "loss": 1.0},
        {"step": 15, "split": "train", "seconds": 7.5, "loss": 1.0},
    ]
    log = tmp_path / "top" / "train.log"
    assert log.read_text() == "log of top\nlog of a\nlog of b\n"
    # Killed before the run was complete: a restart adds to the logs, and joins them again.
    for folder in (tmp_path / "top", tmp_path / "top" / "b"):
        with open(folder / "train.log", "a") as file:
            file.write(f"restart of {folder.name}\n")
    join_records(RunFolder(tmp_path / "top", is_main=True), {"a": FIRST, "b": SECOND})
    expected = ["log of top", "restart of top", "log of a", "log of b", "restart of b"]
    assert log.read_text().splitlines() == expected


def test_what_comes_after_the_phases_is_logged_in_the_run(tmp_path):
    def train(phase, model):
        write(tmp_path / "top" / phase.name, [{"step": 5, "split": "train", "seconds": 2.5}])
        RunFolder(tmp_path / "top" / phase.name, is_main=True).take_log()
        logger.info("in %s", phase.name)
        return FIRST

    logger = logging.getLogger("nlpapp")
    write(tmp_path / "top", [])
    run = RunFolder(tmp_path / "top", is_main=True)
    run_phases(run, [PhaseConfig(name=name, data="d") for name in "ab"], train)
    logger.info("pushed the model")
    *_, last = (tmp_path / "top" / "train.log").read_text().splitlines()
    assert last.endswith("INFO pushed the model")
    assert "pushed" not in (tmp_path / "top" / "b" / "train.log").read_text()


def test_each_phase_starts_from_the_model_of_the_one_before(tmp_path):
    run = RunFolder(tmp_path / "top", is_main=False)
    started = []

    def train(phase, model):
        started.append((phase.name, model))
        return FIRST

    run_phases(run, [PhaseConfig(name=name, data="d") for name in "abc"], train)
    assert started == [
        ("a", None),
        ("b", str(tmp_path / "top" / "a" / "model")),
        ("c", str(tmp_path / "top" / "b" / "model")),
    ]
