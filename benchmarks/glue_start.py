"""How long `nlpapp glue` takes from the command to its first optimizer step, without a network.

The command runs in a process that refuses every connection, on SST-2 with one seed, and is ended as
soon as its first step is in metrics.jsonl. Each turn starts two new processes, each with a new
output folder: "cold", before which the files of data and model leave the memory of the machine, and
"warm", straight after it. The figures are medians over the turns of seconds by the clock and of CPU
seconds of the process, which other work on the machine disturbs less.

    python benchmarks/glue_start.py --model <folder> --data_dir <glue> [--task sst2] [--turns 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

REFUSE = """
import socket, sys

def refuse(*arguments, **options):
    raise OSError("the network is refused")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from nlpapp.cli import main
sys.exit(main(sys.argv[1:]))
"""


def main() -> None:
    """Print one JSON line for each process, and one with the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a pretrained model")
    parser.add_argument("--data_dir", required=True, help="folder that holds GLUE")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(options.turns):
        for state, runs in found.items():
            if state == "cold":
                forget([options.model, Path(options.data_dir)])
            runs.append(seconds_to_start(options))
            print(json.dumps({"state": state, **runs[-1]}), flush=True)
    medians = {
        state: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for state, runs in found.items()
    }
    print(json.dumps({"medians": medians}))


def forget(folders: list[Path]) -> None:
    """Let the machine drop what it keeps in memory of the files below ``folders``."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_start(options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds, by the clock and of CPU, until the first step is logged."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-c", REFUSE, "glue", "--output_dir", folder),
            *("--model", str(options.model), "--data_dir", options.data_dir),
            *("--tasks", f"[{options.task}]", "--seeds", "1", "--training.log_every", "1"),
        ]
        logged = Path(folder, options.task, "seed-42", "metrics.jsonl")
        started = time.perf_counter()
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with process:
            while not (logged.is_file() and logged.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(process.stderr.read().decode())
                time.sleep(0.02)
            wall = time.perf_counter() - started
            used = process.cpu_times()
            process.kill()
    return {"seconds": round(wall, 2), "cpu_seconds": round(used.user + used.system, 2)}


if __name__ == "__main__":
    main()
