"""Whether a server keeps its promises under load: throughput, latency, overload, recovery, stop.

    python benchmarks/serving.py --bundle runs/export/bundle --texts data/sample/sentiment/dev.tsv
    python benchmarks/serving.py --seconds 5 --steady-seconds 10 --fuzz-seconds 0   # a quick look

Without --bundle a random model of MiniLM's size (6 layers of 384) is exported and served. The load
comes from the same machine, so it takes time from the server. Needs wrk for the throughput at 64
connections (Debian: apt-get install wrk); the other loads are made here. Prints JSON.
"""

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nlpapp.deployment.runtime import open_bundle
from nlpapp.deployment.serve_process import available_cores, bind

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"


def main() -> None:
    """Run the measurements that the options leave in."""
    options = parse()
    cores = available_cores()
    texts = read_texts(options.texts)
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or random_bundle(Path(folder))
        found: dict[str, Any] = {"bundle": str(bundle), "cores": cores, "texts": len(texts)}
        with server(bundle, options, Path(folder) / "log") as (url, process):
            found["turns"] = turns = [
                turn(bundle, url, process, texts, cores, options, Path(folder))
                for _ in range(options.turns)
            ]
            for name in ("share_of_offline", "share_of_offline_by_cpu"):
                found[name] = float(np.median([entry[name] for entry in turns]))
            rate = float(np.median([entry["wrk"]["requests_per_second"] for entry in turns]))
            steady = open_loop(url, texts, 0.8 * rate, options.steady_seconds)
            found["at_80_percent"] = steady
            found["at_3_times"] = overload(url, process, texts, 3 * rate, options)
            if options.fuzz_seconds:
                found["fuzz"] = fuzz(url, options.fuzz_seconds, Path(folder))
            found["stop"] = stop_under_load(url, process, texts)
    print(json.dumps(found, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=2), encoding="utf-8")


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--bundle", help="a classifier exported by nlpapp export")
    parser.add_argument("--texts", default=str(SAMPLE / "sentiment" / "dev.tsv"))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int, default=0, help="0: one for four cores")
    parser.add_argument("--threads", type=int, default=0, help="batches at a time; 0: the cores")
    parser.add_argument(
        "--turns", type=int, default=3, help="offline and server, one after another"
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20, help="of throughput and of overload")
    parser.add_argument("--steady-seconds", type=float, default=300, help="at 80 percent")
    parser.add_argument("--fuzz-seconds", type=int, default=20, help="of schemathesis; 0: none")
    parser.add_argument("--output", help="a file for the JSON as well")
    return parser.parse_args()


def read_texts(path: str) -> list[str]:
    """Return the first column of a TSV with a head line, without empty texts."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()[1:]
    return [text for text in (line.split("\t")[0].strip() for line in lines) if text]


def random_bundle(folder: Path) -> Path:
    """Export a random classifier of MiniLM's size."""
    from transformers import BertConfig, BertForSequenceClassification

    from nlpapp.deployment.export import export_classifier
    from nlpapp.text.wordpiece import load_tokenizer

    tokenizer = load_tokenizer(str(SAMPLE / "tokenizer"))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    model = BertForSequenceClassification(config).eval()
    export_classifier(
        model, tokenizer, folder / "random", max_seq_length=128, int8=False, batches=2
    )
    return folder / "random"


def turn(
    bundle: Any, url: str, process: Any, texts: list[str], cores: int, options: Any, folder: Path
) -> dict[str, Any]:
    """Return offline batches, then the server, and how they compare."""
    alone = offline(bundle, texts, cores, options)
    served = wrk(url, process, texts, options, folder)
    return {
        "offline": alone,
        "wrk": served,
        "share_of_offline": served["requests_per_second"] / alone["texts_per_second"],
        # By processor time, of which neither wrk nor other jobs on the machine have a part.
        "share_of_offline_by_cpu": alone["cpu_ms_per_text"] / served["server_cpu_ms_per_request"],
    }


def offline(bundle: Any, texts: list[str], cores: int, options: Any) -> dict[str, float]:
    """Return the texts a second of the library, all cores on one list of texts."""
    predictor: Any = open_bundle(bundle, precision=options.precision, threads=cores)
    many = list(itertools.islice(itertools.cycle(texts), 1024))
    predictor.predict(many[:64])
    rates, end = [], time.monotonic() + options.seconds
    while time.monotonic() < end or len(rates) < 3:
        start = time.monotonic()
        predictor.predict(many)
        rates.append(len(many) / (time.monotonic() - start))
    # Threads of one batch wait for each other, which is processor time as well: so with one.
    predictor = open_bundle(bundle, precision=options.precision, threads=1)
    predictor.predict(many[:64])
    start = time.process_time()
    predictor.predict(many)
    spent = time.process_time() - start
    return {
        "texts_per_second": float(np.median(rates)),
        "rounds": len(rates),
        "cpu_ms_per_text": 1000 * spent / len(many),
    }


@contextlib.contextmanager
def server(bundle: Any, options: Any, log: Path) -> Any:
    """Yield (url, process) of a server of its own."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nlpapp.deployment.serve_command", str(bundle)]
    command += ["--port", str(port), "--workers", str(options.workers)]
    command += ["--threads", str(options.threads)]
    command += ["--precision", options.precision]
    url = f"http://127.0.0.1:{port}"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        while not is_ready(url):
            if process.poll() is not None:
                raise SystemExit(log.read_text(encoding="utf-8"))
            time.sleep(0.1)
        yield url, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def is_ready(url: str) -> bool:
    """Return whether the server answers."""
    try:
        return urllib.request.urlopen(f"{url}/ready", timeout=2).status == 200
    except OSError:
        return False


def wrk(url: str, process: Any, texts: list[str], options: Any, folder: Path) -> dict[str, Any]:
    """Return what wrk finds with many connections that each ask one text after another."""
    bodies = ",\n".join(json.dumps(json.dumps({"texts": [text]})) for text in texts)
    script = folder / "post.lua"
    script.write_text(
        f"local bodies = {{{bodies}}}\nlocal n = 0\n"
        "function request() n = n % #bodies + 1;"
        ' return wrk.format("POST", "/predict", nil, bodies[n]) end\n'
        "function done(summary, latency)\n"
        ' print(string.format("RESULT %f %f %f %d %d %d",'
        " summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,"
        " latency:percentile(99) / 1e3, summary.errors.status,"
        " summary.errors.connect + summary.errors.read + summary.errors.timeout,"
        " summary.requests)) end\n",
        encoding="utf-8",
    )
    command = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds:g}s"]
    command += ["-s", str(script), url]
    subprocess.run([*command[:3], "-d2s", *command[4:]], check=True, capture_output=True)
    before = cpu_seconds(process), sum(os.times()[2:4])
    idle, start = psutil.cpu_times().idle, time.monotonic()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    server_spent, own = cpu_seconds(process) - before[0], sum(os.times()[2:4]) - before[1]
    idle = (psutil.cpu_times().idle - idle) / (time.monotonic() - start)
    numbers = next(line for line in output.splitlines() if line.startswith("RESULT"))
    rate, median, tail, refused, failed, answers = map(float, numbers.split()[1:])
    return {
        "connections": options.connections,
        "requests_per_second": rate,
        "p50_ms": median,
        "p99_ms": tail,
        "refused": int(refused),
        "failed": int(failed),
        "server_cpu_ms_per_request": 1000 * server_spent / answers,
        "wrk_cpu_ms_per_request": 1000 * own / answers,
        "idle_cores": idle,
    }


def family(process: Any) -> list[psutil.Process]:
    """Return a server's processes."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(process: Any) -> float:
    """Return the processor seconds that a server's processes have taken so far."""
    return sum(sum(child.cpu_times()[:2]) for child in family(process))


class Connections:
    """Connections that are kept and used again; counts what comes of each request."""

    def __init__(self, url: str) -> None:
        """Make a pool for the server at ``url``."""
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    async def ask(self, body: bytes, due: float) -> str:
        """Send a request that was due at ``due``; returns its status or the kind of failure."""
        result = "refused connection"
        try:
            reader, writer = self._idle() or await self._open()
            result = "lost"
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            fields = dict(
                line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:] if line
            )
            await reader.readexactly(int(fields[b"content-length"]))
            result = answer[9:12].decode()
            if fields.get(b"connection") == b"close":
                writer.close()
            else:
                self.free.append((reader, writer))
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # the result says where it happened
        self.counts[result] += 1
        if result == "200":
            self.seconds.append(time.monotonic() - due)
        return result

    def _idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a kept connection that the server has not closed since, as any client does."""
        while self.free:
            reader, writer = self.free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    def figures(self) -> dict[str, Any]:
        """Return counts and latencies."""
        found: dict[str, Any] = {"answers": dict(self.counts)}
        for share in (50, 99):
            if self.seconds:
                found[f"p{share}_ms"] = 1000 * float(np.percentile(self.seconds, share))
        return found


def bodies_of(texts: list[str]) -> Any:
    """Return the bodies of requests for one text each, without end."""
    return itertools.cycle([json.dumps({"texts": [text]}).encode() for text in texts])


def open_loop(url: str, texts: list[str], rate: float, seconds: float) -> dict[str, Any]:
    """Ask ``rate`` times a second, whether or not answers come; latency counts from when due."""

    async def whole() -> dict[str, Any]:
        connections, bodies = Connections(url), bodies_of(texts)
        tasks = set()
        start = time.monotonic()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            task = asyncio.create_task(connections.ask(next(bodies), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        sent = (time.monotonic() - start) or 1
        await asyncio.gather(*tasks)
        achieved = {"asked_per_second": int(rate * seconds) / sent, "seconds": sent}
        return {"rate": rate, **achieved, **connections.figures()}

    return asyncio.run(whole())


def overload(url: str, process: Any, texts: list[str], rate: float, options: Any) -> dict[str, Any]:
    """Return what the server does with more than it can, its memory, and when it is well again."""
    open_loop(url, texts, rate, 3)  # the memory of a first rush does not come back
    before = memory(process)
    found = open_loop(url, texts, rate, options.seconds)
    found["rss_mb_before_and_after"] = [before, memory(process)]
    start = time.monotonic()
    body = json.dumps({"texts": texts[:1]}).encode()
    while True:
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/predict", body, timeout=10)
            break
    found["recovered_after_seconds"] = time.monotonic() - start
    return found


def memory(process: Any) -> float:
    """Return the resident megabytes of a server's processes."""
    return sum(child.memory_info().rss for child in family(process)) / 2**20


def stop_under_load(url: str, process: Any, texts: list[str]) -> dict[str, Any]:
    """Send SIGTERM while 64 clients ask; returns what they got."""

    async def whole() -> dict[str, Any]:
        connections, bodies = Connections(url), bodies_of(texts)

        async def client() -> None:
            while await connections.ask(next(bodies), time.monotonic()) != "refused connection":
                pass

        tasks = [asyncio.create_task(client()) for _ in range(64)]
        await asyncio.sleep(3)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        await asyncio.gather(*tasks)
        code = await asyncio.to_thread(process.wait, 60)
        seconds = time.monotonic() - start
        return {"exit_code": code, "seconds_to_end": seconds, **connections.figures()}

    return asyncio.run(whole())


def fuzz(url: str, seconds: int, folder: Path) -> dict[str, Any]:
    """Let schemathesis send what its reading of the OpenAPI description gives it."""
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    command = [sys.executable, "-c", program, "fuzz", "--max-time", str(seconds), "--no-color"]
    command += ["--checks", "not_a_server_error,status_code_conformance"]
    result = subprocess.run(
        [*command, f"{url}/openapi.json"], capture_output=True, text=True, cwd=folder
    )
    return {"seconds": seconds, "exit_code": result.returncode, "end": result.stdout[-400:]}


if __name__ == "__main__":
    main()
