"""The command line: every error names the option, the value and the way out."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nlpapp import cli
from nlpapp.errors import ConfigError

PRETRAIN = ["--data", "d", "--tokenizer", "t", "--output_dir", "o"]


def test_options_and_files_are_merged_and_later_ones_win(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: d\ntokenizer: t\noutput_dir: o\ntraining:\n  max_steps: 7\n")
    config = cli.parse(
        "pretrain", ["--config", str(path), "--training.optimizer.learning_rate", "1e-3"]
    )
    assert config.training.max_steps == 7
    assert config.training.optimizer.learning_rate == 1e-3
    # A recipe's own defaults survive a partly given section.
    assert (
        config.training.schedule
        == cli.recipe("pretrain").Config(data="d", tokenizer="t", output_dir="o").training.schedule
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dta", "d"], "unknown option '--dta'. Did you mean 'data'?"),
        ([*PRETRAIN, "--training.max_stps", "5"], "Did you mean 'training.max_steps'?"),
        ([*PRETRAIN, "--training.max_steps", "many"], "training.max_steps"),
        ([*PRETRAIN, "--training.max_steps", "0"], "training.max_steps is 0"),
        (["--data", "d"], "required"),
        (["--config", "absent.yaml"], "there is no configuration file absent.yaml"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    assert cli.main(["pretrain", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b/c d", "--output", "page.html"],
        ["--output", "page.html", "a", "b/c d"],
        ["a", "--output=page.html", "b/c d"],
        ["--config", "report.yaml", "a", "b/c d"],
    ],
)
def test_runs_of_a_report_may_stand_by_themselves(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.yaml").write_text("runs: [other]\noutput: page.html\n")
    config = cli.parse("report", arguments)
    assert (config.runs, config.output) == (["a", "b/c d"], "page.html")


def test_runs_are_named_in_one_way():
    with pytest.raises(ConfigError, match="give a by themselves or with --runs, not both"):
        cli.parse("report", ["a", "--runs", "[b]"])


def test_other_commands_take_options_alone(capsys):
    assert cli.main(["pretrain", *PRETRAIN, "a"]) == 2
    assert "unrecognized arguments: a" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "data: d\ntraining:\n  max_step: 7\n",
            "'training.max_step'. Did you mean 'training.max_steps'",
        ),
        ("dta: d\n", "unknown key 'dta'. Did you mean 'data'"),
        ("- a\n", "must hold 'key: value' lines"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_bad_configuration_files_are_refused(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        cli.parse("pretrain", ["--config", str(path)])
    assert message in str(caught.value) and "bad.yaml" in str(caught.value)


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["pretran"]) == 2
    assert "Did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_every_option_explained(command, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for action in cli.build_parser(command)._actions:
        assert action.help, f"{command} {action.option_strings} has no help"
    assert "--config" in shown and "default" in shown


def test_print_config_shows_the_resolved_run(capsys):
    assert cli.main(["pretrain", *PRETRAIN, "--batch_size", "3", "--print_config"]) == 0
    shown = capsys.readouterr().out
    assert "batch_size: 3" in shown and "learning_rate:" in shown


def test_usage_lists_the_commands(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


def test_the_module_runs_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "nlpapp", "--version"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and result.stdout.strip()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_exits_with_its_code_and_goes_on_later(tmp_path, number, code):
    options = f"""
import sys
from tests.training.toy import ToyConfig, train
from nlpapp.training.fit import TrainingConfig
import nlpapp.cli as cli, types
def run(config):
    print("started", flush=True)
    return train(config)[1]
cli.recipe = lambda command: types.SimpleNamespace(Config=ToyConfig, run=run)
sys.exit(cli.main(["pretrain", "--output_dir", {str(tmp_path / "run")!r},
                   "--training.tensorboard", "false", "--training.max_steps", sys.argv[1],
                   "--training.checkpoint_every", "100000"]))
"""
    command = [sys.executable, "-c", options, "100000000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "The same command goes on from there" in errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
