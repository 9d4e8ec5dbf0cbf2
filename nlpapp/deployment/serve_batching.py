"""Dynamic batches of a server: what waits while the model computes is computed together next.

One thread computes; the queue before it is bounded in rows and in time. What does not fit is
refused at once, so that memory stays flat and nobody waits for an answer that comes too late.
"""

import asyncio
import collections
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from nlpapp.errors import NlpappError

Compute = Callable[[Hashable, Sequence[Any]], Sequence[Any]]
"""(key, rows) -> one result a row; runs in the batcher's thread."""


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
class _Waiting:
    key: Hashable
    rows: Sequence[Any]
    future: asyncio.Future
    is_gone: Callable[[], Awaitable[bool]] | None
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects rows of many requests into batches for one model."""

    def __init__(
        self,
        compute: Compute,
        *,
        max_rows: int = 64,
        max_wait: float = 0.002,
        max_queue_rows: int = 512,
        max_queue_seconds: float = 5.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Make a batcher; `start` it inside a running event loop.

        Args:
            compute: what gives the results; called in a thread of its own, one call at a time.
            max_rows: rows of a batch; a request of more rows is a batch by itself.
            max_wait: seconds that the first row of a batch waits for company; it does so only while
                requests come together, for a lone client would wait for nothing.
            max_queue_rows: rows that may wait; what comes after is refused.
            max_queue_seconds: seconds that rows may wait before they are refused.
            observe: told (rows, seconds that the oldest waited) of every batch.
        """
        self._compute = compute
        self._max_rows = max_rows
        self._max_wait = max_wait
        self._max_queue_rows = max_queue_rows
        self._max_queue_seconds = max_queue_seconds
        self._observe = observe
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._news = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task: asyncio.Task | None = None
        self._stopping = False
        self._in_company = False
        self._rate = 0.0  # rows a second, smoothed; 0 until the first batch
        self.queued_rows = 0
        """Rows that wait now."""

    @property
    def alive(self) -> bool:
        """Whether rows that are submitted now will be computed."""
        return self._task is not None and not self._task.done() and not self._stopping

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Compute what waits, then end the thread; rows that come later are refused."""
        self._stopping = True
        self._news.set()
        if self._task is not None:
            await self._task
        self._executor.shutdown(wait=True)

    async def submit(
        self,
        rows: Sequence[Any],
        *,
        key: Hashable = None,
        is_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> Sequence[Any]:
        """Return one result a row.

        Args:
            rows: what ``compute`` reads.
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
        if self._rate and self.queued_rows / self._rate > self._max_queue_seconds:
            # Better refused now than expired later, when nothing is left of the client's time.
            raise OverloadedError(
                f"the wait would be longer than {self._max_queue_seconds:g} s.",
                retry_after=self.retry_after(),
            )
        future = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(key, rows, future, is_gone))
        self.queued_rows += len(rows)
        self._news.set()
        return await future

    def retry_after(self) -> int:
        """Return the whole seconds, 1 to 60, in which the present queue should be done."""
        seconds = self.queued_rows / self._rate if self._rate else 1.0
        return int(min(60, max(1, -(-seconds // 1))))

    async def _work(self) -> None:
        while True:
            if not self._queue:
                if self._stopping:
                    return
                self._news.clear()
                await self._news.wait()
                continue
            await self._wait_for_company()
            batch = await self._take()
            if batch:
                self._in_company = len(batch) > 1
                await self._run(batch)

    async def _wait_for_company(self) -> None:
        in_company = self._in_company or len(self._queue) > 1
        while (
            in_company and self._queue and self.queued_rows < self._max_rows and not self._stopping
        ):
            left = self._queue[0].since + self._max_wait - time.monotonic()
            if left <= 0:
                return
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except asyncio.TimeoutError:
                return

    async def _take(self) -> list[_Waiting]:
        """Take the oldest rows and those of the same key, without those nobody waits for."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        rows = 0
        while self._queue and rows < self._max_rows:
            item = self._queue.popleft()
            if await self._is_void(item):
                self.queued_rows -= len(item.rows)
            elif batch and (item.key != batch[0].key or rows + len(item.rows) > self._max_rows):
                others.append(item)
            else:
                batch.append(item)
                rows += len(item.rows)
                self.queued_rows -= len(item.rows)
        self._queue.extendleft(reversed(others))
        return batch

    async def _is_void(self, item: _Waiting) -> bool:
        if item.future.done():  # cancelled
            return True
        if item.is_gone is not None and await item.is_gone():
            item.future.set_exception(AbandonedError("the client went away."))
            return True
        if not self._stopping and time.monotonic() - item.since > self._max_queue_seconds:
            message = f"the rows waited for more than {self._max_queue_seconds:g} s."
            item.future.set_exception(ExpiredError(message, retry_after=self.retry_after()))
            return True
        return False

    async def _run(self, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        rows = [row for item in batch for row in item.rows]
        if self._observe is not None:
            self._observe(len(rows), start - batch[0].since)
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._compute, batch[0].key, rows)
        except Exception as error:
            await self._blame(batch, error)
            return
        seconds = max(time.monotonic() - start, 1e-6)
        self._rate += (len(rows) / seconds - self._rate) * (0.1 if self._rate else 1.0)
        done = 0
        for item in batch:
            if not item.future.done():
                item.future.set_result(results[done : done + len(item.rows)])
            done += len(item.rows)

    async def _blame(self, batch: list[_Waiting], error: Exception) -> None:
        """Give ``error`` to the request it belongs to; the others of the batch are not at fault."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        logging.getLogger("nlpapp.serve").debug("a batch failed: its requests run one by one")
        for item in batch:
            await self._run([item])
