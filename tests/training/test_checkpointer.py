"""What a checkpoint is bound to, and what it leaves when it is interrupted."""

import json
import shutil

import pytest
import torch

from nlpapp.errors import CheckpointError
from nlpapp.training import checkpoint
from nlpapp.training.checkpointer import Checkpointer
from tests.training.toy import train
from tests.training.toy_runs import StopAt, kill, run_processes, toy


def test_data_that_has_changed_is_refused_and_both_are_named(tmp_path):
    train(toy(tmp_path / "run"), data_fingerprint="70 instances in shards a1")
    expected = "was 70 instances in shards a1, and is 71 instances in shards b2"
    with pytest.raises(CheckpointError, match=expected):
        train(toy(tmp_path / "run"), data_fingerprint="71 instances in shards b2")
    with pytest.raises(CheckpointError, match="and is None"):
        train(toy(tmp_path / "run"))
    _, metrics = train(toy(tmp_path / "run"), data_fingerprint="70 instances in shards a1")
    assert metrics["steps"] == 24


def test_a_checkpoint_that_does_not_know_its_data_is_taken(tmp_path):
    train(toy(tmp_path / "run"))
    _, metrics = train(toy(tmp_path / "run"), data_fingerprint="70 instances")
    assert metrics["steps"] == 24


def test_weights_of_another_model_are_refused(tmp_path):
    train(toy(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints" / "step-24"
    weights = checkpoint.read_weights(folder)
    weights["other"] = weights.pop("head.bias")
    checkpoint.save_file(weights, folder / "model.safetensors")
    sums = json.loads((folder / "checksums.json").read_text())
    sums["model.safetensors"] = checkpoint.file_sha256(folder / "model.safetensors")
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=r"step-24: .*head.bias is missing.*other is unknown"):
        train(toy(tmp_path / "run"))


def test_one_state_is_written_once(tmp_path, monkeypatch):
    """A kill after SIGTERM, while the same state is written again, would find none of it."""
    written, real = [], checkpoint.write_main

    def write_main(checkpoints, step, *rest):
        written.append(step)
        return real(checkpoints, step, *rest)

    monkeypatch.setattr(checkpoint, "write_main", write_main)
    on_step = Checkpointer.on_step

    def twice(self, trainer, sums):
        on_step(self, trainer, sums)
        if trainer.state.step == 10:
            assert self.save(trainer) == tmp_path / "run" / "checkpoints" / "step-10"

    monkeypatch.setattr(Checkpointer, "on_step", twice)
    train(toy(tmp_path / "run", training={"checkpoint_every": 10}))
    assert written == [10, 20, 24]


def test_what_a_kill_left_is_removed(tmp_path):
    config = toy(tmp_path / "run")
    train(config)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    leftover = checkpoint.partial_folder(tmp_path / "run" / "checkpoints", 24)
    leftover.mkdir(parents=True)
    (leftover / "rank-1.pt").write_bytes(b"of a run on two processes")
    train(config)
    saved = tmp_path / "run" / "checkpoints" / "step-24"
    assert not leftover.exists() and saved.is_dir() and not (saved / "rank-1.pt").exists()


def test_a_run_that_starts_anew_replaces_the_checkpoints_there(tmp_path):
    """Later ones would otherwise push the new ones out, and be gone on from."""
    training = {"checkpoint_every": 4, "evaluate_every": 5}
    train(toy(tmp_path / "run", training=training))
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-20", "step-24"]
    with pytest.raises(KeyboardInterrupt):
        train(
            toy(tmp_path / "run", training=training | {"resume": "never"}),
            evaluate=StopAt(2, kill),
        )
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-4", "step-8"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 5, 10]


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_the_same_examples(tmp_path):
    """From two to one and from one to two, in the middle of an epoch: the end of one alone."""
    one = run_processes(tmp_path / "1", 1, "checkpoint_every=6")["state"]
    halfway = checkpoint.read_weights(tmp_path / "1" / "checkpoints" / "step-6")
    assert any(not torch.allclose(halfway[name], value) for name, value in one.items())
    run_processes(tmp_path / "2", 2, "checkpoint_every=6")
    for processes, folder in ((1, "2"), (2, "1")):
        shutil.rmtree(tmp_path / folder / "checkpoints" / "step-12")
        resumed = run_processes(tmp_path / folder, processes, "checkpoint_every=6")["state"]
        for name, value in one.items():
            torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0)
        state = checkpoint.read_state(tmp_path / folder / "checkpoints" / "step-12")
        assert state["world_size"] == processes
