"""SIGTERM (as clusters send it) and SIGINT (Ctrl-C) ask a run to save and stop."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignals:
    """Remember the first stop signal while active; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self.received = 0
        """The signal's number, or 0."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        # Only the main thread may set handlers; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
