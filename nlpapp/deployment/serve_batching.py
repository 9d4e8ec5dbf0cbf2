"""Dynamic batches of a server: rows that wait while the model computes are computed together next.

What is computed next is the row that waits longest, with those others of about its length whose
padding costs less than it saves to compute them at once. The queue is bounded in rows and in time.
What does not fit is refused at once, so that memory stays flat and nobody waits for an answer that
comes too late.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlpapp.errors import NlpappError

Read = Callable[[Hashable, Sequence[Any]], Sequence[tuple[Any, int]]]
"""(key, rows) -> of each row what `Compute` is given, and how long that is; runs in a thread."""
Compute = Callable[[Hashable, Sequence[Any]], Sequence[Any]]
"""(key, rows as read) -> one result a row; runs in a thread."""

COMPUTATION_POSITIONS = 16
"""What it costs to begin a computation, however few rows it has, in positions of padding. A MiniLM
on a CPU reads its weights from memory for each: as long as 21 positions take. To reckon with a
little less is best, because rows that are left behind are better company for those that come."""


class OverloadedError(NlpappError):
    """The queue is full; try again after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExpiredError(OverloadedError):
    """The rows waited longer than they may, or the server stops."""


class AbandonedError(NlpappError):
    """Nobody waits for the results any more, so they were not computed."""


@dataclass(eq=False)
class _Request:
    key: Hashable
    results: list[Any]
    future: asyncio.Future
    is_gone: Callable[[], bool] | None
    missing: int
    since: float = field(default_factory=time.monotonic)
    started: bool = False
    """Whether a row of it was taken: the others then do not wait too long, they come in turn."""

    def answer(self, place: int, result: Any) -> None:
        """Keep the result of the row at ``place``; the last one completes the request."""
        self.results[place] = result
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.results)

    def fail(self, error: Exception) -> None:
        """End the request; rows of it that still wait are not computed."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Row:
    request: _Request
    place: int
    content: Any
    length: int = -1  # until it is read; no token at all is a length as well

    @property
    def key(self) -> Hashable:
        """Rows of different keys are not computed together."""
        return self.request.key


def without_read(key: Hashable, rows: Sequence[Any]) -> list[tuple[Any, int]]:
    """Return rows as they are, all of one length."""
    return [(row, 1) for row in rows]


class Batcher:
    """Collects rows of many requests into batches for one model."""

    def __init__(
        self,
        compute: Compute,
        *,
        read: Read = without_read,
        threads: int = 1,
        max_rows: int = 64,
        max_positions: int = 4096,
        max_wait: float = 0.002,
        max_queue_rows: int = 512,
        max_queue_seconds: float = 5.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Make a batcher; `start` it inside a running event loop.

        Args:
            compute: what gives the results; called in threads of the batcher.
            read: what is done with rows before their lengths are known.
            threads: batches that are computed at the same time.
            max_rows: rows of a batch.
            max_positions: rows of a batch times the length of its longest, which bounds memory.
            max_wait: seconds that a batch waits for company after its first row has come, and after
                the last answers, because clients who are answered ask again; it does so only while
                requests come together, for a lone client would wait for nothing.
            max_queue_rows: rows that may wait; what comes after is refused.
            max_queue_seconds: seconds until the first row of a request is taken, or it is refused.
            observe: told (rows, seconds that the oldest waited) of every batch.
        """
        self._compute = compute
        self._read = read
        self._threads = threads
        self._max_rows = max_rows
        self._max_positions = max_positions
        self._max_wait = max_wait
        self._max_queue_rows = max_queue_rows
        self._max_queue_seconds = max_queue_seconds
        self._observe = observe
        self._queue: list[_Row] = []  # the oldest first
        self._news = asyncio.Event()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._tasks: list[asyncio.Task] = []
        self._stopping = False
        self._wanted = 1  # rows for which somebody waits
        self._in_company = False
        self._answered, self._expected = 0.0, 1  # when rows were last; how many wait if they return
        self._done_rows = self._done_seconds = 0.0  # of the last batches, the latest counts most

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether rows that are submitted now will be computed."""
        running = bool(self._tasks) and not any(task.done() for task in self._tasks)
        return running and not self._stopping

    def start(self) -> None:
        """Begin to compute."""
        loop, taking = asyncio.get_running_loop(), asyncio.Lock()
        self._tasks = [loop.create_task(self._work(taking)) for _ in range(self._threads)]

    async def stop(self) -> None:
        """Compute what waits, then end the threads; rows that come later are refused."""
        self._stopping = True
        self._news.set()
        await asyncio.gather(*self._tasks)
        self._executor.shutdown(wait=True)

    async def submit(
        self,
        rows: Sequence[Any],
        *,
        key: Hashable = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Sequence[Any]:
        """Return one result a row.

        Args:
            rows: what ``read`` reads.
            key: rows of different keys are not computed together.
            is_gone: says whether nobody waits for the results any more; asked before computing.

        Raises:
            OverloadedError: the queue is full, or so slow that the rows would expire in it.
            ExpiredError: the rows waited too long, or the server stops.
            AbandonedError: nobody waits for them any more.
        """
        if self._stopping:
            raise ExpiredError("the server stops.", retry_after=1)
        if self.queued_rows + len(rows) > self._max_queue_rows and self.queued_rows:
            raise OverloadedError(
                f"{self.queued_rows} rows wait already, at most {self._max_queue_rows} may.",
                retry_after=self.retry_after(),
            )
        if self._wait() > self._max_queue_seconds:
            # Better refused now than expired later, when nothing is left of the client's time.
            raise OverloadedError(
                f"the wait would be longer than {self._max_queue_seconds:g} s.",
                retry_after=self.retry_after(),
            )
        future = asyncio.get_running_loop().create_future()
        request = _Request(key, [None] * len(rows), future, is_gone, missing=len(rows))
        self._queue += [_Row(request, place, row) for place, row in enumerate(rows)]
        if self.queued_rows >= self._wanted:
            self._news.set()
        return await future

    def retry_after(self) -> int:
        """Return the whole seconds, 1 to 60, in which the present queue should be done."""
        return int(min(60, max(1, -(-self._wait() // 1))))

    def _wait(self) -> float:
        """Return the seconds in which the present queue should be done; 0 before the first rows."""
        if not self._done_rows:
            return 0.0
        return self.queued_rows * self._done_seconds / self._done_rows / self._threads

    async def _work(self, taking: asyncio.Lock) -> None:
        """Compute batches until the end; ``taking`` is held by who takes one from the queue."""
        while True:
            batch: list[_Row] = []
            try:
                async with taking:
                    while not self._queue and not self._stopping:
                        await self._until(1)
                    if not self._queue:
                        return
                    await self._wait_for_company()
                    batch = await self._take()
                if batch:
                    await self._run(batch)
            except Exception as error:  # of this code or of what it calls: nobody waits for ever
                if not batch:
                    batch, self._queue = self._queue, []
                for row in batch:
                    row.request.fail(error)

    async def _until(self, rows: int, seconds: float | None = None) -> None:
        """Return when so many rows wait, after ``seconds``, or at the end."""
        self._wanted = rows
        self._news.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    async def _wait_for_company(self) -> None:
        if not self._in_company and len(self._queue) == 1:
            return
        wanted = min(self._max_rows, self._expected)
        since = max(self._queue[0].request.since, self._answered)
        left = since + self._max_wait - time.monotonic()
        if self.queued_rows < wanted and left > 0 and not self._stopping:
            await self._until(wanted, left)

    async def _take(self) -> list[_Row]:
        """Take the oldest row, and others of its key that are cheap to compute with it."""
        while True:
            await self._read_rows()
            # Without those that were cancelled, or cannot be read.
            self._queue = [row for row in self._queue if not row.request.future.done()]
            if not self._queue:
                return []
            oldest = self._queue[0]
            if oldest.length < 0:  # it came while others were read
                continue
            pool = [row for row in self._queue if row.length >= 0 and row.key == oldest.key]
            pool.sort(key=lambda row: row.length)  # of equal lengths the older ones stay first
            start, end = cheapest_window(
                np.array([row.length for row in pool]),
                pool.index(oldest),
                self._max_rows,
                self._max_positions,
            )
            batch = pool[start:end]
            requests = {row.request for row in batch}
            if not any([self._is_void(request) for request in requests]):
                for request in requests:
                    request.started = True
                taken = set(batch)
                self._queue = [row for row in self._queue if row not in taken]
                self._in_company = len(requests) > 1
                return batch

    async def _read_rows(self) -> None:
        """Read the rows that came since the last batch."""
        unread: dict[Hashable, list[_Row]] = {}
        for row in self._queue:
            if row.length < 0:
                unread.setdefault(row.key, []).append(row)
        for rows in unread.values():
            for row, found in zip(rows, await self._in_thread(self._read, rows), strict=True):
                if isinstance(found, Exception):
                    row.request.fail(found)
                else:
                    row.content, row.length = found

    def _is_void(self, request: _Request) -> bool:
        """End a request that nobody waits for, or that waited too long; return whether it did."""
        may_expire = not (request.started or self._stopping)
        if request.is_gone is not None and request.is_gone():
            request.fail(AbandonedError("the client went away."))
        elif may_expire and time.monotonic() - request.since > self._max_queue_seconds:
            message = f"the rows waited for more than {self._max_queue_seconds:g} s."
            request.fail(ExpiredError(message, retry_after=self.retry_after()))
        return request.future.done()

    async def _run(self, batch: list[_Row]) -> None:
        start = time.monotonic()
        if self._observe is not None:
            oldest = min(row.request.since for row in batch)
            self._observe(len(batch), start - oldest)
        results = await self._in_thread(self._compute, batch)
        self._answered, self._expected = time.monotonic(), self.queued_rows + len(batch)
        self._done_rows = 0.9 * self._done_rows + len(batch)
        self._done_seconds = 0.9 * self._done_seconds + self._answered - start
        for row, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                row.request.fail(result)
            else:
                row.request.answer(row.place, result)

    async def _in_thread(self, function: Compute, rows: Sequence[_Row]) -> Sequence[Any]:
        """Return the result of each row, or the error of those that are at fault."""
        loop, key = asyncio.get_running_loop(), rows[0].key
        try:
            contents = [row.content for row in rows]
            return await loop.run_in_executor(self._executor, function, key, contents)
        except Exception as error:
            if len(rows) == 1:
                return [error]
        logging.getLogger("nlpapp.serve").debug("a batch failed: its rows run one by one")
        return [(await self._in_thread(function, [row]))[0] for row in rows]


def cheapest_window(
    lengths: np.ndarray, place: int, max_rows: int, max_positions: int
) -> tuple[int, int]:
    """Return (start, end) of the rows around ``place`` that waste the least, per row.

    What is wasted is the beginning of a computation and the padding to the longest of its rows.

    Args:
        lengths: of the rows, in ascending order.
        place: the row that must be among them.
        max_rows: the most rows.
        max_positions: the most rows times positions of the longest, if it is not a row alone.
    """
    before = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.arange(max(0, place + 1 - max_rows), place + 1)[:, None]
    ends = np.arange(place + 1, min(len(lengths), place + max_rows) + 1)[None]
    rows = ends - starts
    positions = rows * lengths[ends - 1]
    waste = (COMPUTATION_POSITIONS + positions - (before[ends] - before[starts])) / rows
    waste[(rows > max_rows) | ((positions > max_positions) & (rows > 1))] = np.inf
    row, column = np.unravel_index(waste.argmin(), waste.shape)
    return int(starts[row, 0]), int(ends[0, column])
