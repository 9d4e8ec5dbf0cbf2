"""Golden losses: a change of the code that is not meant to change training must reproduce them.

A file tests/golden/<command>.txt has a line "step loss" for each of the first steps of a run on the
sample data. Where a change is meant, run it with NLPAPP_WRITE_GOLDEN=1 and say why.
"""

import json
import os

import pytest

from nlpapp import cli
from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
OPTIONS = [
    "--training.max_steps",
    "8",
    "--training.log_every",
    "1",
    "--training.tensorboard",
    "false",
]
TOKENIZER = ["--tokenizer", "data/sample/tokenizer"]
TINY = ["--size.num_layers", "1", "--size.hidden_size", "16", "--size.num_heads", "2"]
SENTIMENT = [
    *("--train_file", "data/sample/sentiment/train.tsv"),
    *("--dev_file", "data/sample/sentiment/dev.tsv"),
]
TEXT = [
    word for name in ("train", "valid") for word in (f"--{name}_file", "data/sample/corpus.txt")
]
RUNS = {
    "pretrain": [*TOKENIZER, *TINY, "--batch_size", "16"],
    "finetune": [*TOKENIZER, *TINY, *SENTIMENT],
    "train-lm": [*TEXT, *TINY, "--size.inner_size", "16", "--size.mem_len", "8"],
}


@pytest.mark.parametrize("command", RUNS)
def test_the_first_losses_are_those_recorded(command, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    options = [*RUNS[command], *OPTIONS, "--output_dir", str(tmp_path / "run")]
    if command == "pretrain":
        corpus = ["--inputs", '["data/sample/corpus.txt"]', "--max_seq_length", "32"]
        assert (
            cli.main(["make-data", *corpus, *TOKENIZER, "--output_dir", str(tmp_path / "data")])
            == 0
        )
        options += ["--data", str(tmp_path / "data")]
    assert cli.main([command, *options]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["split"] == "train"]
    found = {record["step"]: record["loss"] for record in records}
    path = GOLDEN / f"{command}.txt"
    if os.environ.get("NLPAPP_WRITE_GOLDEN"):
        path.write_text("".join(f"{step} {loss:.6f}\n" for step, loss in found.items()))
    expected = {int(step): float(loss) for step, loss in map(str.split, path.open())}
    # Processors add in different orders; another order of examples or masks is far beyond this.
    assert found == pytest.approx(expected, rel=2e-4)
