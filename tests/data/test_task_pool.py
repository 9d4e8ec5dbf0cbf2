"""One result for every task, whoever does it; errors arrive whole; no process is left behind."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from nlpapp.data.task_pool import TaskPool, usable_cores
from nlpapp.errors import ConfigError, DataError, Interrupted
from tests.conftest import REPOSITORY
from tests.data import pool_work

TASKS = list(range(40))
SQUARES = {task: 5 + task * task for task in TASKS}


@pytest.fixture(scope="module")
def pool():
    with TaskPool(workers=2) as pool:
        yield pool


def own_workers():
    return {p.pid for p in multiprocessing.active_children() if p.name == "nlpapp worker"}


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_results_do_not_depend_on_the_number_of_workers(workers):
    progress = []
    before = own_workers()
    with TaskPool(workers=workers) as pool:
        pairs = list(
            pool.run(pool_work.square, 5, TASKS, on_progress=lambda *done: progress.append(done))
        )
    assert len(pairs) == len(TASKS)
    assert dict(pairs) == SQUARES
    assert sum(size for size, _ in progress) == sum(TASKS) + len(TASKS)
    assert sum(tokens for _, tokens in progress) == sum(10 + 2 * task for task in TASKS)
    assert own_workers() == before


def test_workers_serve_several_runs(pool):
    pool.start()
    first = {result for _, result in pool.run(pool_work.process_id, None, TASKS)}
    second = {result for _, result in pool.run(pool_work.process_id, None, TASKS)}
    assert first == second
    assert len(first) == 2
    assert os.getpid() not in first


def test_one_worker_is_this_process(tmp_path):
    with TaskPool(workers=1) as pool:
        assert list(pool.run(pool_work.process_id, None, [0])) == [(0, os.getpid())]
        with pytest.raises(DataError, match="line 7"):
            list(pool.run(pool_work.fail_on_third, (str(tmp_path), "data"), [2]))


def test_no_task_no_result_no_worker():
    with TaskPool(workers=3) as pool:
        assert list(pool.run(pool_work.square, 5, [])) == []
        assert pool._backend.workers == []


def test_no_more_workers_than_tasks():
    with TaskPool(workers=8) as pool:
        assert dict(pool.run(pool_work.square, 5, [0, 1, 2])) == {0: 5, 1: 6, 2: 9}
        assert len(pool._backend.workers) == 3


def test_workers_import_nothing_heavy_and_have_one_thread(pool):
    (_, (imported, arrow_threads, environment)), *_ = pool.run(pool_work.describe_worker, None, [0])
    heavy = {"torch", "transformers", "datasets", "pytest", "numpy", "yaml", "nlpapp.cli"}
    assert not heavy & set(imported)
    assert arrow_threads == 1
    assert environment == ["1", "false", "1"]


class CountedTasks:
    """A million tasks that exist only while they are asked for."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        self.asked += 1
        return index


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_fed_as_workers_come_free(workers):
    tasks = CountedTasks()
    with TaskPool(workers=workers) as pool:
        results = pool.run(pool_work.square, 0, tasks)
        taken = [next(results) for _ in range(20)]
        results.close()
    assert all(result == index * index for index, result in taken)
    # A message each of both workers may have come in together.
    assert 20 <= tasks.asked <= 20 + 2 * workers


def test_a_run_that_is_given_up_leaves_a_usable_pool(pool):
    results = pool.run(pool_work.square, 5, TASKS)
    next(results)
    with pytest.raises(RuntimeError, match="at work"):
        next(pool.run(pool_work.square, 5, TASKS))
    results.close()
    assert dict(pool.run(pool_work.square, 5, TASKS)) == SQUARES


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("data", DataError, r"^books\.txt, line 7: not UTF-8\.$"),
        ("config", ConfigError, r"^max_seq_length is 3; at least 8\.$"),
        ("interrupted", Interrupted, "^stopped$"),
        ("other", RuntimeError, r"(?s)^Task 2 \(2\) failed.*in fail_on_third.*EOFError: the end"),
        ("local", RuntimeError, "SpecialError: of a class that cannot be sent"),
    ],
)
def test_the_first_error_ends_the_run(pool, tmp_path, kind, error, text):
    finished = []
    with pytest.raises(error, match=text) as caught:
        for pair in pool.run(pool_work.fail_on_third, (str(tmp_path), kind), range(1000)):
            finished.append(pair)
    assert type(caught.value) is error
    if kind == "interrupted":
        assert caught.value.exit_code == 128 + 15
    begun = len(list(tmp_path.iterdir()))
    # The other worker may have gone on until the error was there; it comes long before the end.
    assert 2 <= begun <= 50
    assert all(index == result != 2 for index, result in finished)
    assert dict(pool.run(pool_work.square, 5, TASKS)) == SQUARES


def test_a_result_that_cannot_be_sent_is_an_error(pool):
    with pytest.raises(RuntimeError, match="(?i)pickle"):
        list(pool.run(pool_work.unsendable, None, [0]))


def test_work_that_workers_cannot_import_is_an_error(pool, monkeypatch):
    def work(context, task, report):
        return None

    monkeypatch.setattr(work, "__module__", "__main__")
    with pytest.raises(ValueError, match="main module"):
        list(pool.run(work, None, [0]))


def test_a_context_that_workers_cannot_import_is_an_error(pool, monkeypatch):
    module = type(sys)("only_here")
    module.Odd = type("Odd", (), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(RuntimeError, match="No module named 'only_here'"):
        list(pool.run(pool_work.square, module.Odd(), [0, 1]))


@pytest.mark.parametrize(
    ("signal_number", "text"),
    [
        (signal.SIGKILL, "was killed \\(SIGKILL; the memory of the machine is likely used up\\)"),
        (signal.SIGSEGV, "was killed \\(SIGSEGV\\)"),
        (None, "ended with exit code 3"),
    ],
)
def test_a_lost_worker_is_an_error_that_names_its_task(pool, signal_number, text):
    finished = []
    pattern = f"{text} while on task 5 of 1000: 5\\..* fewer workers"
    with pytest.raises(DataError, match=pattern):
        for pair in pool.run(pool_work.kill_on, (5, signal_number), range(1000)):
            finished.append(pair)
    # Task 5 is given out when at least four of the five before it are finished.
    assert len({index for index, _ in finished} & set(range(5))) >= 4
    assert all(index == result != 5 for index, result in finished)
    assert dict(pool.run(pool_work.square, 5, TASKS)) == SQUARES


def test_a_worker_lost_between_runs_is_replaced(pool):
    pool.start()
    victim = pool._backend.workers[0].process
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert dict(pool.run(pool_work.square, 5, TASKS)) == SQUARES
    assert victim not in [worker.process for worker in pool._backend.workers]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_comes_from_within_a_task(workers):
    """More than one report for a task of 0.6 s, though it reports thirty times; none is lost."""
    progress = []
    with TaskPool(workers=workers) as pool:
        list(pool.run(pool_work.tell_slowly, None, [0], on_progress=lambda *d: progress.append(d)))
    assert [sum(column) for column in zip(*progress, strict=True)] == [3000, 210]
    assert 2 <= len(progress) < 30


def test_log_records_arrive_in_the_parent(pool, caplog):
    with caplog.at_level(logging.INFO, logger="nlpapp"):
        list(pool.run(pool_work.warn, None, [3, 4]))
    assert sorted(caplog.messages) == ["line 3 is long", "line 4 is long"]
    assert {record.name for record in caplog.records} == {"nlpapp.text"}


def test_options_are_checked():
    with pytest.raises(ConfigError, match="executor 'rai' is unknown.*Did you mean 'ray'"):
        TaskPool(executor="rai")
    with pytest.raises(ConfigError, match="workers is 0"):
        TaskPool(workers=0)
    with pytest.raises(ConfigError, match="ray_address is 'head:6379', but executor is local"):
        TaskPool(ray_address="head:6379")


def test_usable_cores_is_what_the_system_says():
    if not hasattr(os, "sched_getaffinity"):
        assert usable_cores() == os.cpu_count()
        return
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from nlpapp.data.task_pool import usable_cores; print(usable_cores())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "1", run.stderr


PROGRAM = """
import signal, sys
# A job in the background of a shell is started with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {repository!r})
open({folder!r} + "/imported", "a").write("once ")
from nlpapp.data.task_pool import TaskPool
from tests.data import pool_work
with TaskPool(workers=2) as pool:
    list(pool.run(pool_work.wait_beside, {folder!r}, range(4)))
"""


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)


def is_running(pid):
    """Say whether a process is there and no zombie that waits for somebody to notice."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, signal_number):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(repository=str(REPOSITORY), folder=str(tmp_path)))
    with subprocess.Popen(
        [sys.executable, str(program)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        try:
            wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
            workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
            assert all(map(is_running, workers))
            if signal_number == signal.SIGINT:  # Ctrl-C goes to all processes of a terminal
                os.killpg(parent.pid, signal_number)
            else:
                os.kill(parent.pid, signal_number)
            _, errors = parent.communicate(timeout=20)
            wait_until(lambda: not any(map(is_running, workers)))
        finally:
            if parent.poll() is None:
                os.killpg(parent.pid, signal.SIGKILL)
    # The script has no guard, and yet ran once: workers do not import the main module.
    assert (tmp_path / "imported").read_text() == "once "
    if signal_number == signal.SIGINT:
        assert errors.count("Traceback") == 1
        assert errors.strip().endswith("KeyboardInterrupt")
        assert "resource_tracker" not in errors
    else:
        assert errors == ""
