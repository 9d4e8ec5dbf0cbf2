"""Ray gives what local workers give, also when one of its workers is killed."""

import importlib.util
import logging
import os
import socket
import sys

import pytest

from nlpapp.data.ray_pool import RayTasks
from nlpapp.data.task_pool import TaskPool
from nlpapp.errors import ConfigError, DataError
from tests.data import pool_work

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'"
)
TASKS = list(range(12))


def test_without_ray_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[ray\]"):
        TaskPool(executor="ray")


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_an_error(scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"{scheme}127.0.0.1:{port}"
    with (
        pytest.raises(ConfigError, match=f"No Ray cluster answers at '{address}' .*refused"),
        TaskPool(executor="ray", ray_address=address) as pool,
    ):
        pool.start()


@needs_ray
def test_an_address_of_the_wrong_form_is_an_error():
    with (
        pytest.raises(ConfigError, match="No Ray cluster answers at 'head'"),
        TaskPool(executor="ray", ray_address="head") as pool,
    ):
        pool.start()


@needs_ray
@pytest.mark.parametrize(
    "wanted, gpus, workers, share",
    [(True, 4, 2, 1), (True, 2, 2, 1), (True, 2, 3, 1 / 2), (True, 2, 5, 1 / 3), (True, 0, 2, 0)]
    + [(False, 4, 2, 0), (True, 4, None, 1 / 2)],
)
def test_all_workers_have_a_gpu_or_an_equal_part(wanted, gpus, workers, share, monkeypatch):
    tasks = RayTasks(workers=workers, address=None, gpus=wanted)
    found = {"CPU": 8.0} | ({"GPU": float(gpus)} if gpus else {})
    monkeypatch.setattr(tasks.ray, "cluster_resources", lambda: found)
    assert tasks._gpus_of_a_task() == share


@needs_ray
@pytest.mark.slow
def test_a_task_sees_its_gpu_alone():
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False)
    try:
        for gpus, expected in ((True, {"0", "1"}), (False, {""})):
            with TaskPool(executor="ray", workers=2, gpus=gpus) as pool:
                seen = dict(pool.run(pool_work.visible_gpus, None, TASKS[:6]))
            assert set(seen.values()) <= expected
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def pool():
    import ray

    with TaskPool(executor="ray", workers=2) as pool:
        pool.start()
        assert ray.cluster_resources()["CPU"] == 2
        yield pool
    assert not ray.is_initialized()


@needs_ray
@pytest.mark.slow
def test_tasks_run_in_the_folder_of_the_program(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The workers were started in another.
    assert [folder for _, folder in pool.run(pool_work.folder, None, [0])] == [str(tmp_path)]


@needs_ray
@pytest.mark.slow
def test_results_and_progress_equal_those_of_local_workers(pool):
    progress = []
    pairs = list(
        pool.run(pool_work.square, 5, TASKS, on_progress=lambda *done: progress.append(done))
    )
    assert len(pairs) == len(TASKS)
    with TaskPool(workers=2) as local:
        assert dict(pairs) == dict(local.run(pool_work.square, 5, TASKS))
    assert [sum(column) for column in zip(*progress, strict=True)] == [
        sum(TASKS) + len(TASKS),
        sum(10 + 2 * task for task in TASKS),
    ]


@needs_ray
@pytest.mark.slow
def test_a_task_whose_worker_is_killed_runs_again(pool, tmp_path):
    progress = []
    results = pool.run(
        pool_work.killed_once, str(tmp_path), TASKS, on_progress=lambda *d: progress.append(d)
    )
    assert dict(results) == {task: task * task for task in TASKS}
    assert (tmp_path / "tried").exists()
    assert (tmp_path / "again").exists()
    # What the killed one had reported is not counted twice.
    assert [sum(column) for column in zip(*progress, strict=True)] == [sum(TASKS), len(TASKS)]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("data", DataError, r"^books\.txt, line 7: not UTF-8\.$"),
        ("other", RuntimeError, r"(?s)^Task 2 \(2\) failed.*in fail_on_third.*EOFError: the end"),
    ],
)
def test_the_first_error_ends_the_run(pool, tmp_path, kind, error, text):
    with pytest.raises(error, match=text):
        list(pool.run(pool_work.fail_on_third, (str(tmp_path), kind), range(1000)))
    assert len(list(tmp_path.iterdir())) < 50
    assert dict(pool.run(pool_work.square, 5, TASKS)) == {task: 5 + task * task for task in TASKS}


@needs_ray
@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_named(pool):
    with pytest.raises(DataError, match=r"lost 4 times .* while on task 5 of 12: 5\."):
        list(pool.run(pool_work.kill_on, (5, 9), TASKS))


@needs_ray
@pytest.mark.slow
def test_workers_have_one_thread_and_send_their_log(pool, caplog):
    (_, (_, arrow_threads, environment)), *_ = pool.run(pool_work.describe_worker, None, [0])
    assert arrow_threads == 1
    assert environment == ["1", "false", "1"]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    with caplog.at_level(logging.INFO, logger="nlpapp"):
        list(pool.run(pool_work.warn, None, [3, 4]))
    assert sorted(m for m in caplog.messages if "line" in m) == ["line 3 is long", "line 4 is long"]


@needs_ray
@pytest.mark.slow
def test_tasks_are_fed_as_workers_come_free(pool):
    asked = []

    class Tasks:
        def __len__(self):
            return 1_000_000

        def __getitem__(self, index):
            asked.append(index)
            return index

    results = pool.run(pool_work.square, 0, Tasks())
    taken = [next(results) for _ in range(10)]
    results.close()
    assert all(result == index * index for index, result in taken)
    assert 10 <= len(asked) <= 10 + 4
