"""Trackers: TensorBoard for real, others by a class that writes down what it is told."""

import itertools
import json
import logging
import time

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from nlpapp.errors import ConfigError
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.trackers import MEMORY, Trackers, check_trackers
from tests.training.toy_runs import toy

TOLD: list[tuple] = []


class Notebook(GeneralTracker):
    """A tracker as a user would register one."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, project, **options):
        super().__init__()
        self.project, self.options = project, options

    @property
    def tracker(self):
        return self

    def start(self):
        TOLD.append(("start", self.project, self.options))

    def store_init_configuration(self, values):
        TOLD.append(("config", values))

    def log(self, values, step=None, **kwargs):
        if "train/bad" in values:
            raise OSError("no network")
        TOLD.append(("log", step, values))

    def finish(self):
        TOLD.append(("finish",))


class FakeWandb(Notebook):
    """Keeps to W&B's way: without a key it starts offline or not at all."""

    name = "wandb"
    has_key = True

    def start(self):
        self.init_kwargs = self.options
        if not self.has_key and self.options.get("mode") != "offline":
            raise RuntimeError("no API key")
        super().start()


class FakeMlflow(Notebook):
    """Keeps to MLflow's way: a run gets its id when it starts, and is gone on with by it."""

    name = "mlflow"

    @property
    def tracker(self):
        return type("Run", (), {"info": type("Info", (), {"run_id": "run-7"})})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    TOLD.clear()
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", FakeWandb)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", FakeMlflow)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Notebook)
    monkeypatch.setattr("nlpapp.training.trackers.find_spec", lambda name: name)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.open(tmp_path / "run", config=toy(tmp_path / "run"), command="toy", seed=1)


def told(kind: str) -> list[tuple]:
    return [entry[1:] for entry in TOLD if entry[0] == kind]


def session(run, names, step=0, *, tensorboard=False, values=None) -> None:
    trackers = Trackers(run, names, tensorboard=tensorboard)
    trackers.start(step)
    trackers.log(step + 5, "train", values or {"loss": 0.5})
    trackers.finish()


def test_configuration_figures_and_end(run):
    session(run, ["notebook"])
    assert told("start") == [("nlpapp", {})]
    (config,) = told("config")[0]
    assert config["training.optimizer.learning_rate"] == 0.01 and config["batch_size"] == 8
    assert all(isinstance(value, bool | int | float | str) for value in config.values())
    assert told("log") == [(5, {"train/loss": 0.5})]
    assert told("finish") == [()]


def test_a_resumed_run_goes_on_in_the_same_entries(run):
    names = ["wandb", "mlflow", "trackio"]
    session(run, names)
    first = {name: options for name, (_, options) in zip(names, told("start"), strict=True)}
    assert len(told("config")) == 3
    TOLD.clear()
    session(run, names, step=5)
    second = {name: options for name, (_, options) in zip(names, told("start"), strict=True)}
    assert not told("config"), "MLflow refuses to be told again"
    key = json.loads((run.path / MEMORY).read_text())["id"]
    assert first["wandb"] == second["wandb"]
    assert second["wandb"]["id"] == key and second["wandb"]["resume"] == "allow"
    assert first["mlflow"]["run_id"] is None and second["mlflow"]["run_id"] == "run-7"
    assert second["trackio"] == {"name": f"run-{key}", "resume": "allow"}


def test_wandb_goes_offline_where_it_must(run, monkeypatch, caplog):
    logging.getLogger("nlpapp").propagate = True
    monkeypatch.setattr(FakeWandb, "has_key", False)
    session(run, ["wandb"])
    ((project, options),) = told("start")
    assert project == "nlpapp" and options["mode"] == "offline"
    assert "send it with `wandb sync`: no API key" in caplog.text and told("log")


def test_tensorboard_hides_what_is_done_again(run, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Files are read in the order of their names, which hold the second they were begun in.
    seconds = itertools.count(1_800_000_000)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    for step in (0, 5, 10):  # Steps 5, 10 and 15; then the run goes on from step 7.
        session(run, [], step, tensorboard=True)
    session(run, [], 7, tensorboard=True, values={"loss": 0.25})
    events = EventAccumulator(str(run.path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(5, 0.5), (12, 0.25)]


def test_a_tracker_that_fails_stops_nothing(run, caplog):
    logging.getLogger("nlpapp").propagate = True
    trackers = Trackers(run, ["notebook"], tensorboard=True)
    trackers.start(0)
    trackers.log(1, "train", {"bad": 1.0})
    trackers.log(2, "train", {"loss": 1.0})
    assert list(trackers.open) == ["tensorboard"]
    trackers.finish()
    assert caplog.text.count("the tracker notebook failed, training goes on without it") == 1
    assert "no network" in caplog.text and not told("log")


def test_only_the_main_process_tracks(run):
    run.is_main = False
    session(run, ["notebook"], tensorboard=True)
    assert not TOLD and not (run.path / "tensorboard").exists()


def test_unknown_and_absent_trackers(monkeypatch):
    check_trackers(["wandb", "notebook"])
    with pytest.raises(ConfigError, match="no tracker 'wandbb'. Did you mean 'wandb'?"):
        check_trackers(["wandbb"])
    with pytest.raises(ConfigError, match="TensorBoard has its own option"):
        check_trackers(["tensorboard"])
    monkeypatch.setattr("nlpapp.training.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb"):
        check_trackers(["wandb"])
