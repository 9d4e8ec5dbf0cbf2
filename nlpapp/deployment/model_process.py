"""The asking side of `deployment.timed_process`: a model in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nlpapp import errors
from nlpapp.errors import CheckpointError, NlpappError

PREDICTED_AT_ONCE = 32
CLOSING_SECONDS = 10.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Of PyTorch, its matrix library, and the tokenizers."""


class ModelProcess:
    """A process that has loaded one model; use it in a ``with``, or call `close`."""

    def __init__(
        self,
        specification: Mapping[str, Any],
        *,
        name: str,
        threads: int = 1,
        command: Sequence[str] | None = None,
        paths: Sequence[Path] = (Path(__file__).parents[2],),
    ) -> None:
        """Start the process and wait until the model is loaded.

        Args:
            specification: the model, as `deployment.timed_process` reads it.
            name: what to call it in messages.
            threads: processor threads that it may use.
            command: the program; the specification becomes its last argument.
            paths: folders where it finds nlpapp, whether installed or not.

        Raises:
            CheckpointError: the model cannot be loaded.
        """
        self.name = name
        self.peak_bytes = 0
        """Largest resident memory of the process until its last answer."""
        command = command or (sys.executable, "-m", "nlpapp.deployment.timed_process")
        environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        known = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *known])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, json.dumps(dict(specification))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            self.facts: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise
        self.start_ms = (time.perf_counter() - start) * 1000
        """From starting the interpreter to a loaded model."""

    def __enter__(self) -> "ModelProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def time(self, batches: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the seconds of a prediction of each batch: {"texts": [...], "pairs": [...]}."""
        return list(self._ask({"time": list(batches)})["seconds"])

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[dict[str, Any]] | None:
        """Return a prediction for each text as `runtime.Predictor.predict`; None of an encoder."""
        predictions: list[dict[str, Any]] = []
        for start in range(0, len(texts), PREDICTED_AT_ONCE):
            part = slice(start, start + PREDICTED_AT_ONCE)
            batch = {"texts": texts[part], "pairs": None if pairs is None else pairs[part]}
            found = self._ask({"predict": batch})["predictions"]
            if found is None:
                return None
            predictions += found
        return predictions

    def close(self) -> None:
        """End the process; closing twice does no harm."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # it may have ended before
                    stream.close()
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        found = dict(json.loads(line))
        if "error" in found:
            kind = getattr(errors, str(found.get("kind")), NlpappError)
            raise kind(f"{self.name}: {found['error']}")
        self.peak_bytes = int(found.get("peak_bytes", 0))
        return found

    def _ended(self) -> CheckpointError:
        try:
            code: int | None = self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        meaning = " (killed: most likely there was not enough memory)" if code == -9 else ""
        return CheckpointError(
            f"the process of {self.name} ended with code {code}{meaning}: {last}. "
            "Try the model by itself with nlpapp predict."
        )
