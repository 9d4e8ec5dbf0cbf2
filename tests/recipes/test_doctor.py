"""The doctor command: a line for each finding, counts, and a record only where it is asked for."""

import json

import pytest

from nlpapp.deployment import machine
from nlpapp.deployment.machine import Check
from nlpapp.errors import ConfigError
from nlpapp.recipes import doctor

FINDINGS = [
    Check("python", "ok", "3.11.7"),
    Check("hub", "warn", "no answer", "Names cannot be downloaded: " + "use local folders " * 8),
    Check("memory", "problem", "0.2 GiB free", "Training is killed: close other programs."),
]


@pytest.fixture
def no_torch(monkeypatch):
    """Leave out the one slow check; tests/deployment/test_machine.py has it."""
    monkeypatch.setattr(machine, "check_devices", lambda: [Check("gpu", "ok", "CPU only")])


def test_findings_are_lines_with_their_meaning_below():
    text = doctor.as_text(FINDINGS)
    lines = text.splitlines()
    assert lines[0] == "ok      python  3.11.7"
    assert lines[1] == "warn    hub     no answer"
    assert lines[2].startswith(" " * 16 + "Names cannot be downloaded: ")
    assert "problem memory  0.2 GiB free" in lines
    assert lines[-1] == "1 problem, 1 warning."
    assert max(map(len, lines)) <= 100
    assert doctor.count(FINDINGS) == {"checks": 3.0, "warnings": 1.0, "problems": 1.0}


def test_without_problems_it_says_what_comes_next():
    assert doctor.as_text(FINDINGS[:2]).endswith(
        "0 problems, 1 warning. Ready: try `nlpapp quickstart`."
    )


def test_doctor_prints_and_writes_nothing_unasked(no_torch, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    metrics = doctor.run(doctor.Config())
    printed = capsys.readouterr().out
    for name in (
        "python",
        "nlpapp",
        "torch",
        "gpu",
        "cores",
        "memory",
        "output",
        "hub",
        "encoding",
    ):
        assert f" {name} " in printed
    assert metrics["checks"] >= 12
    assert not list(tmp_path.iterdir())


def test_doctor_leaves_its_record_in_output_dir(no_torch, tmp_path):
    folder = tmp_path / "runs"
    metrics = doctor.run(doctor.Config(output_dir=str(folder)))
    record = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
    assert {name: record[name] for name in metrics} == metrics
    assert len(record["findings"]) == metrics["checks"]
    doctor.run(doctor.Config(output_dir=str(folder)))  # the facts of today replace those of before
    assert [path.name for path in folder.iterdir()] == ["doctor.json"]


def test_output_dir_that_is_a_file(no_torch, tmp_path, capsys):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*doctor\.json"):
        doctor.run(doctor.Config(output_dir=str(tmp_path / "runs")))
    assert "problem output" in capsys.readouterr().out


def test_a_broken_check_does_not_stop_the_others(no_torch, monkeypatch, capsys):
    def fail():
        raise OSError("no such sensor")

    monkeypatch.setattr(machine, "check_memory", fail)
    assert doctor.run(doctor.Config())["warnings"] >= 1
    printed = capsys.readouterr().out
    assert "could not be checked (OSError: no such sensor)" in printed
    assert " encoding " in printed
