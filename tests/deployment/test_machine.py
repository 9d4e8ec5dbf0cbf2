"""Checks of the machine: each status from made-up facts, and never a crash or an endless wait."""

import http.server
import importlib.metadata
import os
import threading

import psutil
import pytest

from nlpapp.deployment import machine
from nlpapp.deployment.machine import GIB, Check


def only(checks):
    (check,) = checks
    return check


def assert_says_the_way_out(check):
    assert check.status in ("warn", "problem")
    assert check.meaning.endswith(".")
    assert len(check.meaning) > 20


def test_python_versions():
    assert only(machine.check_python((3, 10, 0))).status == "ok"
    old = only(machine.check_python((3, 9, 18)))
    assert (old.status, old.found) == ("problem", "3.9.18")
    assert_says_the_way_out(old)


def test_packages_present_old_and_missing():
    torch = importlib.metadata.version("torch")
    checks = machine.check_packages(
        [
            "torch>=1.0",
            "numpy>=999",
            "no-such-package-anywhere>=1",
            'skipped-on-this-system>=1; sys_platform == "nowhere"',
            'numpy>=1.0; extra == "good"',
            'no-such-extra-package; extra == "bad"',
        ]
    )
    assert [(check.name, check.status) for check in checks] == [
        ("torch", "ok"),
        ("numpy", "problem"),
        ("no-such-package-anywhere", "problem"),
        ("extra good", "ok"),
        ("extra bad", "warn"),
    ]
    assert checks[0].found == torch
    assert "needs >=999" in checks[1].found
    assert "pip install 'no-such-package-anywhere>=1'" in checks[2].meaning
    assert "'.[bad]'" in checks[4].meaning


def test_packages_of_the_installed_nlpapp_are_named():
    shown = {check.name for check in machine.check_packages()}
    assert shown >= {"nlpapp", *machine.SHOWN_PACKAGES}


def test_torch_is_asked_in_its_own_process():
    checks = machine.check_devices()
    assert "threads" in [check.name for check in checks]
    assert all(check.status in ("ok", "warn") for check in checks)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import time; time.sleep(60)", "no answer in 0 s"),
        ("raise ImportError('libcuda is gone')", "ImportError: libcuda is gone"),
        ("import os; os.abort()", "exit code"),
    ],
)
def test_broken_torch_is_a_problem_and_no_crash(code, found):
    timeout = 0.2 if "sleep" in code else 60
    check = only(machine.check_devices(code, timeout))
    assert check.status == "problem"
    assert found in check.found
    assert_says_the_way_out(check)


def test_devices_from_what_torch_says(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2.0)
    probe = {
        "threads": 8,
        "mps": False,
        "cuda_build": "12.8",
        "devices": [
            {"name": "A", "free": 30 * GIB, "total": 40 * GIB},
            {"name": "B", "free": 1 * GIB, "total": 40 * GIB},
            {"name": "C", "free": 30 * GIB, "total": 40 * GIB, "error": "no kernel image"},
        ],
    }
    checks = machine._judge_devices(probe)
    assert [(check.name, check.status) for check in checks] == [
        ("gpu 0", "ok"),
        ("gpu 1", "warn"),
        ("gpu 2", "problem"),
        ("threads", "warn"),
    ]
    assert checks[0].found == "A, 30.0 of 40.0 GiB free"
    assert "no kernel image" in checks[2].found
    assert "OMP_NUM_THREADS=2" in checks[3].meaning


@pytest.mark.parametrize(
    ("driver", "build", "status"),
    [
        ("/usr/bin/nvidia-smi", None, "warn"),
        (None, None, "ok"),
        ("/usr/bin/nvidia-smi", "12", "ok"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_pointed_out(monkeypatch, driver, build, status):
    monkeypatch.setattr(machine.shutil, "which", lambda name: driver)
    probe = {"threads": 1, "mps": False, "cuda_build": build, "devices": []}
    gpu, _ = machine._judge_devices(probe)
    assert gpu.status == status
    assert "CPU only" in gpu.found


def test_container_limits_count(tmp_path):
    machine_cores = machine.usable_cores(tmp_path / "absent")
    assert 1 <= machine_cores <= (os.cpu_count() or 1)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores(tmp_path) == machine_cores
    (tmp_path / "memory.max").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 4}\n")
    assert machine.usable_memory(tmp_path) == (GIB // 2, GIB // 4)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.usable_memory(tmp_path)[0] == psutil.virtual_memory().total


def test_the_processor_is_named_where_the_system_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert machine.describe_processor(facts) == "Some CPU @ 2 GHz, 1.5 usable cores"
    name = machine.describe_processor(tmp_path / "absent")
    assert name.endswith(", 1.5 usable cores") and not name.startswith(",")


@pytest.mark.parametrize(("cores", "status"), [(0.5, "warn"), (1, "warn"), (2, "ok"), (64, "ok")])
def test_cores(cores, status):
    assert only(machine.check_cores(cores)).status == status


@pytest.mark.parametrize(("free", "status"), [(0.5, "problem"), (2, "warn"), (8, "ok")])
def test_memory(free, status):
    check = only(machine.check_memory(16 * GIB, int(free * GIB)))
    assert check.status == status
    assert check.found == f"{free:.1f} of 16.0 GiB free"


@pytest.mark.parametrize(("free", "status"), [(0.1, "problem"), (2, "warn"), (80, "ok")])
def test_disk_space_where_the_folder_would_be_made(tmp_path, monkeypatch, free, status):
    usage = machine.shutil.disk_usage(tmp_path)._replace(free=int(free * GIB))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    check = only(machine.check_folder("output", tmp_path / "runs" / "new"))
    assert check.status == status
    assert str(tmp_path) in check.found
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    check = only(machine.check_folder("output", tmp_path))
    assert (check.status, "Permission denied" in check.found) == ("problem", True)
    assert_says_the_way_out(check)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    check = only(machine.check_folder("output", tmp_path / "runs" / "a"))
    assert (check.status, "is a file" in check.found) == ("problem", True)


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    found = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(("code", "status"), [(200, "ok"), (403, "ok"), (503, "warn")])
def test_hub_that_answers(server, monkeypatch, code, status):
    monkeypatch.setattr(Answer, "status", code)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert only(machine.check_hub({"HF_ENDPOINT": server})).status == status


def test_hub_that_cannot_be_reached():
    # Port 9 of this machine: nothing listens there, and no name has to be looked up.
    check = only(machine.check_hub({"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert check.status == "warn"
    assert_says_the_way_out(check)


def test_hub_that_keeps_silent(monkeypatch):
    silent = threading.Event()
    monkeypatch.setattr(machine, "_ask", lambda address, timeout: silent.wait(60))
    check = only(machine.check_hub({}, timeout=0.05))
    silent.set()
    assert (check.status, "no answer in 0.05 s" in check.found) == ("warn", True)


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_hub_is_not_asked_offline(monkeypatch, value):
    monkeypatch.setattr(machine, "_ask", lambda address, timeout: pytest.fail("asked"))
    check = only(machine.check_hub({"HF_HUB_OFFLINE": value}))
    assert (check.status, "HF_HUB_OFFLINE" in check.found) == ("ok", True)


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("UTF-8", "ok"), ("utf8", "ok"), ("ANSI_X3.4-1968", "warn"), ("cp1252", "warn")],
)
def test_encoding(encoding, status):
    assert only(machine.check_encoding(encoding)).status == status


def test_place(tmp_path):
    assert only(machine.check_place(tmp_path)).status == "warn"
    (tmp_path / "configs" / "doctor").mkdir(parents=True)
    (tmp_path / "configs" / "doctor" / "debug.yaml").write_text("")
    assert only(machine.check_place(tmp_path)).status == "ok"


def test_a_check_that_fails_or_hangs_becomes_a_warning():
    def fail():
        raise RuntimeError("sensor on fire")

    check = only(machine.guarded("heat", fail))
    assert (check.name, check.status) == ("heat", "warn")
    assert "sensor on fire" in check.found
    forever = threading.Event()
    check = only(machine.guarded("disk", lambda: forever.wait(60), limit=0.05))
    forever.set()
    assert (check.name, check.found) == ("disk", "could not be checked in 0.05 s")
    assert machine.guarded("fine", lambda: [Check("fine", "ok", "yes")]) == [
        Check("fine", "ok", "yes")
    ]
