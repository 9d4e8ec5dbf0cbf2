"""The Slurm script, with stand-ins for Slurm's commands and for Python."""

import os
import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.training.sharded_bert import LAUNCHED

STANDINS = {
    # Two machines of two processes each, one after the other.
    "srun": """shift
for task in 0 1 2 3; do
  export SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) SLURM_NTASKS=4 SLURM_NTASKS_PER_NODE=2
  "$@" || status=$?
done
exit ${status:-0}""",
    "scontrol": """if [ "$1" = show ]; then printf 'first\\nsecond\\n'
else echo "requeue $2" >> "$TOLD"; fi""",
    "python": """env | grep -E '^(RANK|LOCAL_RANK|WORLD_|LOCAL_WORLD_|MASTER|ACCELERATE|FSDP)' \\
  | sort | tr '\\n' ' ' >> "$TOLD"
echo "$@" >> "$TOLD"
exit $EXIT_WITH""",
}


def submit(folder, exit_with: int, **variables) -> tuple[int, list[str]]:
    """Run the script as a job; return its exit status and what the stand-ins were told."""
    for name, body in STANDINS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    given = {"TOLD": str(folder / "told"), "EXIT_WITH": str(exit_with)}
    given |= {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-2]"} | variables
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **given}
    command = ["bash", "scripts/pretrain.slurm", "--data", "a folder", "--seed", "1"]
    result = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True)
    return result.returncode, (folder / "told").read_text().splitlines()


def test_each_process_knows_its_place(tmp_path):
    status, told = submit(tmp_path, 0)
    assert status == 0
    assert told == [
        f"LOCAL_RANK={rank % 2} LOCAL_WORLD_SIZE=2 MASTER_ADDR=first MASTER_PORT=20041 RANK={rank} "
        "WORLD_SIZE=4 scripts/pretrain.py --data a folder --seed 1"
        for rank in range(4)
    ]


@pytest.mark.parametrize(("status", "again"), [(143, True), (1, False), (2, False)])
def test_only_a_stopped_job_is_queued_again(tmp_path, status, again):
    returned, told = submit(tmp_path, status)
    assert returned == status
    assert told.count("requeue 41") == again


def test_sharding_asks_for_what_the_config_file_does(tmp_path):
    _, told = submit(tmp_path, 0, SHARD="true")
    words = told[0].split()
    assert {f"{name}={value}" for name, value in LAUNCHED.items()} <= set(words)


def test_the_signal_comes_before_the_limit():
    text = (REPOSITORY / "scripts" / "pretrain.slurm").read_text()
    assert "#SBATCH --signal=TERM@120\n" in text and "#SBATCH --requeue\n" in text
