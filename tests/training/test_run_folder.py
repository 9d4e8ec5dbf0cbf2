"""The files of a run are a contract; a folder never mixes two runs."""

import errno
import json
from dataclasses import dataclass, field, replace

import pytest
import yaml

from nlpapp.errors import ConfigError, DataError
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.phases import PhaseConfig
from nlpapp.training.run_folder import RunFolder, _is_unbinding, flatten


@dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: str
    names: tuple[str, ...] = ("a", "b")
    seed: int = 3
    training: TrainingConfig = field(default_factory=TrainingConfig)
    phases: list[PhaseConfig] | None = None
    other: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(beta2=0.95))
    )


def open_run(folder, **changes) -> RunFolder:
    config = replace(Config(output_dir=str(folder)), **changes)
    return RunFolder.open(folder, config=config, command="toy", seed=3)


def test_configuration_and_environment_are_written_first(tmp_path):
    run = open_run(tmp_path / "run")
    settings = yaml.safe_load((run.path / "config.yaml").read_text())
    assert settings["names"] == ["a", "b"] and settings["training"]["optimizer"]["beta1"] == 0.9
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["seed"] == 3 and environment["command"] == "toy"
    assert environment["versions"]["torch"] and environment["world_size"] == 1
    assert run.finished is None


def test_the_same_run_opens_again_and_a_finished_one_says_so(tmp_path):
    open_run(tmp_path / "run").finish({"accuracy": 0.5})
    again = open_run(tmp_path / "run", training=TrainingConfig(resume="never", num_workers=2))
    assert again.finished == {"accuracy": 0.5}


def test_another_run_is_refused_and_the_differences_named(tmp_path):
    open_run(tmp_path / "run").log(1, "train", {"loss": 1.0})
    with pytest.raises(ConfigError, match=r"seed: 3 there, 4 now.*Give another output_dir"):
        open_run(tmp_path / "run", seed=4)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 3


def test_a_run_goes_on_with_options_that_came_after_it_was_started(tmp_path):
    """They are as by default: the run has been computed that way. Anything else is another run."""
    phases = [PhaseConfig(name="one", data="a"), PhaseConfig(name="two", data="b")]
    open_run(tmp_path, phases=phases).log(1, "train", {"loss": 1.0})
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del settings["names"], settings["other"]["optimizer"]["beta2"]
    del settings["phases"][1]["num_epochs"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    open_run(tmp_path, phases=phases)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"differs in names: \['a', 'b'\] there, \['c'\] now"):
        open_run(tmp_path, phases=phases, names=("c",))
    other = TrainingConfig(optimizer=OptimizerConfig(beta2=0.98))
    with pytest.raises(ConfigError, match="other.optimizer.beta2: 0.95 there, 0.98 now"):
        open_run(tmp_path, phases=phases, other=other)
    other = [phases[0], replace(phases[1], num_epochs=2)]
    with pytest.raises(ConfigError, match="phases.two.num_epochs: None there, 2 now"):
        open_run(tmp_path, phases=other)
    del settings["phases"][0]["data"]  # It has no default.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"phases.one.data: '\(absent\)' there, 'a' now"):
        open_run(tmp_path, phases=phases)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        open_run(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("nlpapp.training.run_folder.write_text", refuse)
    with pytest.raises(ConfigError, match="cannot write to the output folder"):
        open_run(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"cannot write to the output folder.*file/run"):
        open_run(tmp_path / "file" / "run")


def test_options_that_leave_the_update_as_it_is_may_change(tmp_path):
    open_run(tmp_path / "run").log(1, "train", {"loss": 1.0})
    safe = TrainingConfig(
        gradient_accumulation_steps=4, checkpoint_every=7, tensorboard=False, log_every=1
    )
    open_run(tmp_path / "run", training=safe)
    for bound in ({"max_steps": 7}, {"precision": "bf16"}, {"evaluate_every": 3}):
        (key,) = bound
        with pytest.raises(ConfigError, match=rf"differs in training.{key}: "):
            open_run(tmp_path / "run", training=replace(safe, **bound))


def test_options_of_groups_are_bound_in_the_same_way():
    assert _is_unbinding("second.training.num_workers") and _is_unbinding("hub.repository")
    assert not _is_unbinding("second.training.max_hours") and not _is_unbinding("num_workers_x")


@dataclass(frozen=True, kw_only=True)
class Phased:
    phases: list[PhaseConfig]


def test_what_differs_in_a_phase_is_named_and_what_is_safe_may(tmp_path):
    def open_phases(**second):
        phases = [PhaseConfig(name="a", data="x"), PhaseConfig(name="b", data="y", **second)]
        config = Phased(phases=phases)
        return RunFolder.open(tmp_path / "run", config=config, command="toy", seed=3)

    open_phases(max_steps=5).log(1, "train", {"loss": 1.0})
    open_phases(max_steps=5, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match=r"differs in phases\.b\.max_steps: 5 there, 6 now\."):
        open_phases(max_steps=6)


def test_records_on_a_full_disk_say_so(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(DataError, match="metrics.jsonl: the disk is full. Checkpoints stay"):
        run.log(1, "train", {"loss": 1.0})


def test_rewind_drops_later_and_broken_records(tmp_path):
    run = open_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.log(step, "train", {"loss": 1.0 / step})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "sp')
    run.rewind(2, 100.0)
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert run.seconds >= 100


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def test_a_run_that_failed_before_it_made_anything_leaves_the_folder_free(tmp_path):
    open_run(tmp_path / "run", seed=5)
    run = open_run(tmp_path / "run", seed=6)
    assert yaml.safe_load((run.path / "config.yaml").read_text())["seed"] == 6
