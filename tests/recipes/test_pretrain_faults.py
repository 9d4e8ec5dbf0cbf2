"""Whatever stops a pretraining run, it goes on as if nothing had happened, or says why it cannot.

Dropout and dynamic masks are on in every run here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.errors import CheckpointError, DataError, TrainingError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.recipes import make_data, pretrain
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.conftest import REPOSITORY

TOKENIZER = str(REPOSITORY / "data" / "sample" / "tokenizer")


def make(folder, first: int, last: int) -> None:
    """Make data with dynamic masks from some documents of the sample corpus."""
    text = (REPOSITORY / "data" / "sample" / "corpus.txt").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    source = folder.with_suffix(".txt")
    source.write_text("\n\n".join(text.split("\n\n")[first:last]), encoding="utf-8")
    config = make_data.Config(
        inputs=[str(source)],
        tokenizer=TOKENIZER,
        output_dir=str(folder),
        max_seq_length=32,
        dupe_factor=1,
        masking="dynamic",
    )
    make_data.run(config)


def config_for(folder, data: Path, *, learning_rate: float = 0.01, **training) -> pretrain.Config:
    return pretrain.Config(
        data=str(data / "train"),
        evaluation_data=str(data / "held-out"),
        tokenizer=TOKENIZER,
        output_dir=str(folder),
        size=BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32),
        batch_size=8,
        training=TrainingConfig(
            log_every=2,
            tensorboard=False,
            optimizer=OptimizerConfig(learning_rate=learning_rate),
            **({"max_steps": 24, "checkpoint_every": 3, "evaluate_every": 5} | training),
        ),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make(folder / "train", 0, 15)
    make(folder / "held-out", 15, 18)
    return folder


KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer

from nlpapp.errors import Interrupted
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.recipes import pretrain
from nlpapp.training import checkpoint
from nlpapp.training.run_folder import RunFolder
from tests.recipes.test_pretrain_faults import config_for

root, data = Path(sys.argv[1]), Path(sys.argv[2])
whole, broken = root / "whole", root / "broken"
rng = random.Random(0)
# What takes time here and decides nothing: pictures, and a disk that keeps what a kill cannot take.
pretrain.plot_curves = lambda *paths: None
os.fsync = lambda descriptor: None


def at(owner, name, moment, calls, action):
    # Count the calls of a function that are of this moment; before the n-th, do the action.
    original, left = getattr(owner, name), calls

    def counting(*arguments, **options):
        nonlocal left
        evaluates = name == "__call__" and torch.is_inference_mode_enabled()
        left -= evaluates == (moment == "evaluation")
        if left == 0:
            action()
        return original(*arguments, **options)

    setattr(owner, name, counting)


MOMENTS = {
    "step": (BertPretrainingObjective, "__call__"),
    "evaluation": (BertPretrainingObjective, "__call__"),
    "update": (AcceleratedOptimizer, "step"),
    "log": (RunFolder, "log"),
    "checkpoint begins": (checkpoint, "write_rank"),
    "checkpoint without weights": (checkpoint, "save_file"),
    "checkpoint without all checksums": (checkpoint, "file_sha256"),
    "checkpoint without its name": (checkpoint, "_sync"),
    "checkpoint before the old ones go": (checkpoint, "prune"),
}
MOST = dict.fromkeys(MOMENTS, 2) | {"step": 6, "update": 6}
MOST |= {"evaluation": 3, "checkpoint without all checksums": 8, "checkpoint without its name": 12}


def begin(folder, moment=None, action=None):
    calls = rng.randint(1, MOST.get(moment, 1))
    child = os.fork()
    if child == 0:
        code = 0
        if moment is not None:
            at(*MOMENTS[moment], moment, calls, action)
        try:
            pretrain.run(config_for(folder, data))
        except Interrupted as interrupted:
            code = interrupted.exit_code
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 1
        os._exit(code)
    return child


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def terminate_self():
    os.kill(os.getpid(), signal.SIGTERM)


start = time.monotonic()
assert code_of(begin(whole)) == 0
whole_run = time.monotonic() - start  # How long that is depends on what else the machine does.
killed, rounds, partial = [], 0, 0
to_come = [*MOMENTS, *MOMENTS, *["at random"] * 6]
rng.shuffle(to_come)
while to_come:
    moment = to_come[-1]
    if moment == "at random":
        child = begin(broken)
        time.sleep(rng.uniform(0, whole_run))
        os.kill(child, signal.SIGKILL)
    else:
        child = begin(broken, moment, kill_self)
    code = code_of(child)
    assert code in (0, -signal.SIGKILL), (moment, code)
    partial += bool(list(broken.glob("checkpoints/.step-*.partial")))
    if code == 0:  # It ended before the moment came.
        (broken / "model" / "model.safetensors").rename(root / f"finished-{rounds}.safetensors")
        shutil.rmtree(broken)
        rounds += 1
    else:
        killed.append(to_come.pop())
codes = [code_of(begin(broken, "step", terminate_self)), code_of(begin(broken))]
print(json.dumps({"killed": killed, "partial": partial, "codes": codes}))
"""


def evaluations(run: Path) -> list[dict]:
    """The records of evaluations, without the clock."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [record for record in records if record["split"] == "evaluation"]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in kept]


def test_killed_at_24_random_moments_it_ends_as_if_uninterrupted(tmp_path, data):
    """In a step, in an evaluation, while a checkpoint is written; then SIGTERM, as Slurm sends."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(data)]
    # Processes that are forked cannot share a device.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=250
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found["killed"]) == 24 and len(set(found["killed"])) == 10
    assert found["partial"] >= 4  # Some left a checkpoint that was being written.
    assert found["codes"] == [143, 0]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = (whole / "model" / "model.safetensors").read_bytes()
    ends = [broken / "model" / "model.safetensors", *tmp_path.glob("finished-*.safetensors")]
    assert all(path.read_bytes() == expected for path in ends)
    assert evaluations(broken) == evaluations(whole)


def test_data_that_changed_since_the_checkpoint_is_refused(tmp_path, data):
    """Made anew from other text, or a shard that another program wrote to."""
    own = tmp_path / "data"
    shutil.copytree(data, own)
    config = config_for(tmp_path / "run", own, max_steps=3)
    pretrain.run(config)
    (tmp_path / "run" / "metrics.json").unlink()  # As if it had been killed before its end.
    before = PretrainingData.open(own / "train").fingerprint
    shutil.rmtree(own / "train")
    make(own / "train", 0, 14)
    after = PretrainingData.open(own / "train").fingerprint
    with pytest.raises(CheckpointError, match=f"changed since .*step-3: it was {before}, and is"):
        pretrain.run(config)
    (shard,) = (own / "train").glob("*.parquet")
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(DataError, match=rf"{shard.name} is damaged"):
        pretrain.run(config)
    assert before != after


def test_a_loss_that_is_not_finite_leaves_the_ids_of_its_examples(tmp_path, data):
    config = config_for(tmp_path / "run", data, learning_rate=1e38, max_grad_norm=0.0)
    with pytest.raises(TrainingError, match=r"loss of step \d+ is nan.*not_finite"):
        pretrain.run(config)
    (path,) = (tmp_path / "run" / "not_finite").iterdir()
    record = json.loads(path.read_text())
    examples = PretrainingData.open(data / "train")
    (indices,), (batch,) = record["examples"], record["micro_batches"]
    assert len(indices) == len(batch["input_ids"]) == 8
    for index, ids, mask in zip(indices, batch["input_ids"], batch["attention_mask"], strict=True):
        expected = examples[index].input_ids
        assert sum(mask) == len(expected)
        # Up to 15 % of the tokens are masked.
        assert sum(a == b for a, b in zip(ids, expected, strict=False)) >= 0.7 * len(expected)
    assert record["metrics"]["masked_lm_loss"][0] == "nan"
