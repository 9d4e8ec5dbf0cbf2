"""Every YAML below configs/ builds, says what it is for, and every debug run really runs."""

import json
import re
import shlex
import sys

import pytest
import yaml

from nlpapp import cli
from nlpapp.evaluation.run_record import flatten
from tests.source_files import REPOSITORY

CONFIGS = sorted(
    path for path in (REPOSITORY / "configs").glob("*/*.yaml") if path.parent.name != "accelerate"
)
ACCELERATE = sorted((REPOSITORY / "configs" / "accelerate").glob("*.yaml"))
LIMIT_SECONDS = 240
"""A debug run is to end in 60 s; the rest is for a busy machine and for runs it builds on."""


def name(path):
    return str(path.relative_to(REPOSITORY))


def opening_comment(path):
    """Return the comment lines before the first option."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines


@pytest.fixture(autouse=True)
def from_the_repository_root(monkeypatch):
    """Paths in configs are relative to the repository, where the commands are run."""
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_debug_config(command):
    assert (REPOSITORY / "configs" / command / "debug.yaml").is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_builds_for_its_command(path):
    command = path.parent.name
    assert command in cli.COMMANDS, f"configs/{command}/ is no command of nlpapp"
    assert cli.parse(command, ["--config", name(path)]) is not None


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_opens_with_what_it_is_needs_and_how_to_run_it(path):
    lines = opening_comment(path)
    text = "\n".join(lines)
    command = f"nlpapp {path.parent.name} --config {name(path)}"
    assert lines and len(lines[0]) > 15, "the first line says what the file reproduces"
    assert re.search(r"\b[Nn]eeds?\b", text), "a line says what it needs (data, model, time)"
    ways = [line for line in lines if command in line]
    assert ways, f"a line has the exact command: {command}"
    overrides = [line for line in ways if re.search(r"--config \S+ --\w", line)]
    assert overrides, f"a line has an override, such as: {command} --seed 1"
    for line in ways:
        arguments = shlex.split(line[line.index("nlpapp ") :], comments=True)
        assert cli.parse(arguments[1], arguments[2:]) is not None


class DebugRuns:
    """Runs debug configs once each, below ``folder`` in place of runs/debug/.

    A config that reads what another command's debug config writes has that one run first.
    """

    def __init__(self, folder):
        self.folder = folder
        self.codes = {}

    def run(self, command):
        """Return the exit code of ``nlpapp <command> --config configs/<command>/debug.yaml``."""
        if command not in self.codes:
            self.codes[command] = None  # a circle of configs would come back to this
            path = f"configs/{command}/debug.yaml"
            settings = yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8")) or {}
            options = []
            for key, value in flatten(settings).items():
                moved = self._moved(value, command)
                if moved != value:
                    text = moved if isinstance(moved, str) else yaml.safe_dump(moved).strip()
                    options.append(f"--{key}={text}")
            self.codes[command] = cli.main([command, "--config", path, *options])
        return self.codes[command]

    def _moved(self, value, command):
        if isinstance(value, list):
            return [self._moved(item, command) for item in value]
        if not isinstance(value, str) or not value.startswith("runs/debug/"):
            return value
        first = value.split("/")[2]
        if first != command:
            code = self.run(first)
            assert code == 0, f"nlpapp {first}, which {command} builds on, ended with {code}"
        return str(self.folder / value.removeprefix("runs/debug/"))


@pytest.fixture(scope="module")
def debug_runs(tmp_path_factory):
    return DebugRuns(tmp_path_factory.mktemp("debug"))


@pytest.mark.timeout(LIMIT_SECONDS)
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_debug_config_runs(command, debug_runs, capfd):
    code = debug_runs.run(command)
    printed = capfd.readouterr().err[-3000:]
    assert code == 0, f"nlpapp {command} --config configs/{command}/debug.yaml\n{printed}"


LEFT_BY_EVERY_RUN = ["config.yaml", "environment.json", "metrics.json", "train.log"]
LEFT_BY_TRAINING = [
    "metrics.jsonl",
    "report.html",
    "plots/curves.png",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/README.md",
]
TRAINING = ("pretrain", "finetune", "distill", "multitask", "train-lm")
NO_RUN_FOLDER = ("doctor", "report", "generate")
"""Commands that answer on the console or in one file."""


@pytest.mark.timeout(LIMIT_SECONDS)
@pytest.mark.parametrize("command", [c for c in cli.COMMANDS if c not in NO_RUN_FOLDER])
def test_debug_run_leaves_what_the_contract_says(command, debug_runs):
    assert debug_runs.run(command) == 0
    expected = LEFT_BY_EVERY_RUN + (LEFT_BY_TRAINING if command in TRAINING else [])
    missing = [part for part in expected if not (debug_runs.folder / command / part).is_file()]
    assert not missing, f"nlpapp {command} has not left {missing}"
    metrics = json.loads((debug_runs.folder / command / "metrics.json").read_text())
    not_numbers = {
        key: value for key, value in metrics.items() if not isinstance(value, float | int)
    }
    assert not not_numbers, f"metrics.json of {command} is not flat numbers: {not_numbers}"
    if command in TRAINING:
        assert {"seconds", "tokens_per_second", "steps"} <= metrics.keys()
    assert not list(debug_runs.folder.glob(f"{command}/**/*.partial"))


@pytest.mark.parametrize("path", ACCELERATE, ids=name)
def test_accelerate_config_is_one(path):
    """The launcher's own reader is the witness; it refuses keys it does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    text = "\n".join(opening_comment(path))
    assert f"accelerate launch --config_file {name(path)}" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_script_runs_the_command_of_its_name(command, monkeypatch):
    path = REPOSITORY / "scripts" / f"{command.replace('-', '_')}.py"
    called = []
    monkeypatch.setattr(cli, "main", lambda arguments: called.append(arguments) or 0)
    monkeypatch.setattr("sys.argv", [str(path), "--config", "some.yaml"])
    monkeypatch.setattr("sys.path", [str(path.parent), *sys.path])
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    with pytest.raises(SystemExit) as stop:
        exec(code, {"__name__": "__main__"})
    assert stop.value.code == 0
    # Else scripts/evaluate.py would be imported in place of the evaluate library.
    assert str(path.parent) not in sys.path
    assert called == [[command, "--config", "some.yaml"]]
