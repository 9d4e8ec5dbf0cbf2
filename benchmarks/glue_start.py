"""How long `nlpapp glue` takes from the command to its first optimizer step, without a network.

The command runs in a process that refuses every connection, on SST-2 with one seed, and is ended as
soon as its first step is in metrics.jsonl. Each turn starts a new process with a new output folder;
what stays between the turns is what the machine keeps in memory of the files. The figures are
seconds by the clock and CPU seconds of the process, which other work on the machine disturbs less.

    python benchmarks/glue_start.py --model <folder> --data_dir <glue> [--task sst2] [--turns 3]
"""

import argparse
import json
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
    """Print one JSON line for each turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a pretrained model")
    parser.add_argument("--data_dir", required=True, help="folder that holds GLUE")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    for turn in range(options.turns):
        print(json.dumps({"turn": turn + 1, **seconds_to_start(options)}), flush=True)


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
        try:
            while not (logged.is_file() and logged.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(process.stderr.read().decode())
                time.sleep(0.02)
            wall = time.perf_counter() - started
            used = process.cpu_times()
        finally:
            process.kill()
            process.wait()
    return {"seconds": round(wall, 2), "cpu_seconds": round(used.user + used.system, 2)}


if __name__ == "__main__":
    main()
