import asyncio
import threading

import numpy as np
import pytest

from nlpapp.deployment.serve_batching import (
    COMPUTATION_POSITIONS,
    AbandonedError,
    Batcher,
    ExpiredError,
    OverloadedError,
    cheapest_window,
)


class Doubling:
    """Doubles numbers, remembers the batches, and can be held up."""

    def __init__(self):
        self.batches = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def __call__(self, key, rows):
        self.batches.append((key, list(rows)))
        self.entered.set()
        assert self.go_on.wait(10)
        if "bad" in rows:
            raise ValueError("bad row")
        return [2 * row for row in rows]

    def hold(self):
        self.go_on.clear()
        self.entered.clear()


def run(scenario, **options):
    """Run ``scenario(batcher, compute)`` beside a started batcher, and stop that."""
    compute = Doubling()

    async def whole():
        batcher = Batcher(compute, **options)
        batcher.start()
        try:
            return await scenario(batcher, compute)
        finally:
            compute.go_on.set()
            await batcher.stop()

    return asyncio.run(asyncio.wait_for(whole(), 20))


async def hold_up(batcher, compute, row=0):
    """Return the task of a row that is being computed until compute.go_on is set."""
    compute.hold()
    task = asyncio.create_task(batcher.submit([row]))
    await asyncio.to_thread(compute.entered.wait, 10)
    return task


async def submit_all(batcher, requests, **options):
    tasks = [asyncio.create_task(batcher.submit(rows, **options)) for rows in requests]
    await asyncio.sleep(0)
    return tasks


def test_what_comes_while_the_model_computes_is_computed_together():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[1, 2], [3], [4, 5]])
        compute.go_on.set()
        results = await asyncio.gather(first, *tasks)
        assert results == [[0], [2, 4], [6], [8, 10]]
        assert compute.batches == [(None, [0]), (None, [1, 2, 3, 4, 5])]

    run(scenario)


def test_batches_have_at_most_max_rows_and_keep_the_order():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[n] for n in range(1, 8)])
        compute.go_on.set()
        await asyncio.gather(first, *tasks)
        assert [rows for _, rows in compute.batches] == [[0], [1, 2, 3], [4, 5, 6], [7]]

    run(scenario, max_rows=3)


def test_rows_of_different_keys_are_not_mixed():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = []
        for key, row in [("a", 1), ("b", 2), ("a", 3), ("b", 4)]:
            tasks += await submit_all(batcher, [[row]], key=key)
        compute.go_on.set()
        assert await asyncio.gather(*tasks) == [[2], [4], [6], [8]]
        await first
        assert compute.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]

    run(scenario)


def test_a_full_queue_refuses_at_once_and_takes_again_when_it_is_empty():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[1, 2], [3]])
        with pytest.raises(OverloadedError, match="3 rows wait already, at most 3 may") as caught:
            await batcher.submit([4])
        assert 1 <= caught.value.retry_after <= 60
        assert not isinstance(caught.value, ExpiredError)
        compute.go_on.set()
        await asyncio.gather(first, *tasks)
        assert batcher.queued_rows == 0
        assert await batcher.submit([4]) == [8]

    run(scenario, max_queue_rows=3)


def test_rows_that_waited_too_long_are_not_computed():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        (late,) = await submit_all(batcher, [[1]])
        await asyncio.sleep(0.6)
        compute.go_on.set()
        with pytest.raises(ExpiredError, match="waited for more than 0.5 s"):
            await late
        await first
        assert [rows for _, rows in compute.batches] == [[0]]
        assert batcher.queued_rows == 0

    run(scenario, max_queue_seconds=0.5)


def test_a_request_that_is_being_computed_does_not_wait_too_long():
    async def scenario(batcher, compute):
        compute.hold()
        task = asyncio.create_task(batcher.submit([1, 2, 3]))
        await asyncio.to_thread(compute.entered.wait, 10)
        await asyncio.sleep(0.3)  # longer than rows may wait
        compute.go_on.set()
        assert await task == [2, 4, 6]
        assert len(compute.batches) == 3

    run(scenario, max_rows=1, max_queue_seconds=0.2)


def test_a_fault_of_what_is_called_ends_the_requests_and_not_the_batcher():
    seen = []

    def observe(rows, seconds):
        seen.append(rows)
        if len(seen) == 1:
            raise RuntimeError("no figures")

    def is_gone():
        raise RuntimeError("nobody knows")

    async def scenario(batcher, compute):
        with pytest.raises(RuntimeError, match="no figures"):
            await batcher.submit([1])
        with pytest.raises(RuntimeError, match="nobody knows"):
            await batcher.submit([2], is_gone=is_gone)
        assert batcher.alive and batcher.queued_rows == 0
        assert await batcher.submit([3]) == [6]

    run(scenario, observe=observe)


def test_rows_that_nobody_waits_for_are_not_computed():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        (left,) = await submit_all(batcher, [[1]], is_gone=lambda: True)
        cancelled, kept = await submit_all(batcher, [[2], [3]])
        cancelled.cancel()
        compute.go_on.set()
        assert await kept == [6]
        await first
        assert [rows for _, rows in compute.batches] == [[0], [3]]
        with pytest.raises(AbandonedError):
            await left

    run(scenario)


def test_a_bad_request_does_not_spoil_the_others_of_its_batch():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        good, bad, other = await submit_all(batcher, [[1], ["bad"], [2]])
        compute.go_on.set()
        assert await good == [2]
        assert await other == [4]
        with pytest.raises(ValueError, match="bad row"):
            await bad
        await first
        assert batcher.alive

    run(scenario)


def test_stopping_computes_what_waits_and_refuses_what_comes():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[1], [2]])
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        assert not batcher.alive
        with pytest.raises(ExpiredError, match="stops"):
            await batcher.submit([3])
        compute.go_on.set()
        assert await asyncio.gather(first, *tasks) == [[0], [2], [4]]
        await stopping

    run(scenario)


def test_a_request_of_more_rows_than_the_queue_is_taken_when_nothing_waits():
    async def scenario(batcher, compute):
        assert await batcher.submit(list(range(9))) == [2 * n for n in range(9)]

    run(scenario, max_rows=2, max_queue_rows=4)


def test_clients_who_were_answered_are_waited_for():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)

        async def ask_twice():
            await batcher.submit([1])
            return await batcher.submit([10])

        tasks = [asyncio.create_task(ask_twice()), *await submit_all(batcher, [[2], [3]])]
        compute.go_on.set()
        assert await asyncio.gather(first, *tasks) == [[0], [20], [4], [6]]
        # Without waiting the row 3 would be computed alone.
        assert [rows for _, rows in compute.batches] == [[0], [1, 2], [3, 10]]

    run(scenario, max_rows=2, max_wait=30)


def test_clients_who_do_not_come_back_are_waited_for_a_short_time_only():
    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[1], [2], [3]])
        compute.go_on.set()
        assert await asyncio.gather(first, *tasks) == [[0], [2], [4], [6]]
        assert [rows for _, rows in compute.batches] == [[0], [1, 2], [3]]

    run(scenario, max_rows=2, max_wait=0.05)


def test_batches_are_observed():
    seen = []

    async def scenario(batcher, compute):
        await batcher.submit([1, 2, 3])
        assert [rows for rows, seconds in seen] == [3]
        assert seen[0][1] >= 0

    run(scenario, observe=lambda *entry: seen.append(entry))


def test_rows_that_would_expire_in_the_queue_are_refused_at_once():
    async def scenario(batcher, compute):
        compute.hold()
        slow = asyncio.create_task(batcher.submit([0]))
        await asyncio.sleep(0.2)
        compute.go_on.set()
        await slow  # at most 5 rows a second, as far as the batcher knows
        first = await hold_up(batcher, compute)
        tasks = await submit_all(batcher, [[1, 2, 3, 4]])
        with pytest.raises(OverloadedError, match="the wait would be longer than 0.5 s"):
            await batcher.submit([5])
        compute.go_on.set()
        await asyncio.gather(first, *tasks)

    run(scenario, max_queue_seconds=0.5)


def test_rows_of_like_length_are_computed_together_around_the_oldest():
    def read(key, rows):
        return [(row, row) for row in rows]

    async def scenario(batcher, compute):
        first = await hold_up(batcher, compute, row=1)
        tasks = await submit_all(batcher, [[100], [10], [101, 11], [102], [12]])
        compute.go_on.set()
        assert await asyncio.gather(first, *tasks) == [[2], [200], [20], [202, 22], [204], [24]]
        assert [rows for _, rows in compute.batches] == [[1], [100, 101, 102], [10, 11, 12]]

    run(scenario, read=read)


def test_the_cheapest_rows_are_those_of_a_search_through_all():
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = np.sort(rng.integers(0, 80, size=rng.integers(1, 30)))
        place, most = int(rng.integers(len(lengths))), int(rng.integers(1, 12))
        found = cheapest_window(lengths, place, most, 200)
        costs = {}
        for start in range(place + 1):
            for end in range(place + 1, len(lengths) + 1):
                rows, longest = end - start, int(lengths[end - 1])
                if rows == 1 or (rows <= most and rows * longest <= 200):
                    padding = sum(longest - int(length) for length in lengths[start:end])
                    costs[start, end] = (COMPUTATION_POSITIONS + padding) / rows
        assert costs[found] == min(costs.values())


def test_rows_that_come_while_others_are_read_are_read_before_they_are_computed():
    reading, go_on = threading.Event(), threading.Event()

    def read(key, rows):
        reading.set()
        assert go_on.wait(10)
        return [(row + 0.5, 1) for row in rows]

    async def scenario(batcher, compute):
        first = asyncio.create_task(batcher.submit([1]))
        await asyncio.to_thread(reading.wait, 10)
        tasks = await submit_all(batcher, [[2], [3]])
        go_on.set()
        assert await asyncio.gather(first, *tasks) == [[3.0], [5.0], [7.0]]

    run(scenario, read=read)


def test_a_row_that_cannot_be_read_fails_its_request_alone():
    def read(key, rows):
        return [(int(row), 1) for row in rows]

    async def scenario(batcher, compute):
        compute.hold()
        first = asyncio.create_task(batcher.submit(["0"]))
        await asyncio.to_thread(compute.entered.wait, 10)
        good, bad = await submit_all(batcher, [["1"], ["2", "x"]])
        compute.go_on.set()
        assert await good == [2]
        with pytest.raises(ValueError, match="invalid literal"):
            await bad
        await first
        assert [rows for _, rows in compute.batches] == [[0], [1]]
        assert batcher.queued_rows == 0 and batcher.alive

    run(scenario, read=read)


def test_several_threads_compute_at_the_same_time():
    together = threading.Barrier(2)

    def compute(key, rows):
        together.wait(10)  # fails where one waits for the other
        return rows

    async def whole():
        batcher = Batcher(compute, threads=2, max_rows=1)
        batcher.start()
        tasks = await submit_all(batcher, [[1], [2], [3], [4]])
        assert await asyncio.gather(*tasks) == [[1], [2], [3], [4]]
        await batcher.stop()
        assert not batcher.alive

    asyncio.run(asyncio.wait_for(whole(), 20))
