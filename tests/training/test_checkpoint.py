"""Checkpoints are whole or absent: damage is found, a full disk loses nothing."""

import os

import pytest
import torch
from safetensors import SafetensorError

from nlpapp.errors import CheckpointError
from nlpapp.training import checkpoint
from tests.training.toy import train
from tests.training.toy_runs import check_identical, state_of, toy


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    options = {"training": {"checkpoint_every": 5, "keep_checkpoints": 4}}
    whole, _ = train(toy(tmp_path / "run", **options))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert checkpoint.steps_on_disk(checkpoints) == [10, 15, 20, 24]
    for step, name in ((24, "model.safetensors"), (20, "optimizer.pt")):
        path = checkpoints / f"step-{step}" / name
        path.write_bytes(path.read_bytes()[:-10])
    with caplog.at_level("WARNING", logger="nlpapp"):
        resumed, _ = train(toy(tmp_path / "run", **options))
    assert "step-24/model.safetensors is damaged" in caplog.text
    assert "step-20/optimizer.pt is damaged" in caplog.text
    check_identical(state_of(whole), state_of(resumed))


def test_a_named_checkpoint_that_is_damaged_is_refused(tmp_path):
    train(toy(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints" / "step-24"
    (folder / "rank-0.pt").unlink()
    with pytest.raises(CheckpointError, match="rank-0.pt is missing"):
        train(toy(tmp_path / "run", training={"resume": str(folder)}))
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        train(toy(tmp_path / "run", training={"resume": str(folder) + "9"}))


@pytest.mark.parametrize(
    ("saved", "restored"),
    [(None, None), ([], None), (["0", "1"], "1"), (["0"], None)],
    ids=["own", "before, no GPU", "before, as many GPUs", "before, fewer GPUs"],
)
def test_the_generator_of_the_own_gpu_is_restored(tmp_path, monkeypatch, saved, restored):
    """A process on the second GPU goes on, also where files of before hold another number of GPUs.

    Those held the states of all of them.
    """
    states = {name: torch.tensor([number]) for number, name in enumerate(("0", "1", "own"))}
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: states["own"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    checkpoint.write_rank(tmp_path, 3, 0, [None])
    folder = checkpoint.partial_folder(tmp_path, 3)
    if saved is None:
        restored = "own"
    else:
        file = folder / "rank-0.pt"
        state = torch.load(file, weights_only=True)
        torch.save(state | {"cuda": [states[name] for name in saved]}, file)
    checkpoint.read_rank(folder, 0)
    assert given == ([] if restored is None else [states[restored]])


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError(FULL)],
    ids=["disk", "safetensors"],
)
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path, monkeypatch, error):
    real = checkpoint.save_file

    def full(weights, path, **options):
        if "step-20" in str(path):
            raise error
        real(weights, path, **options)

    monkeypatch.setattr(checkpoint, "save_file", full)
    config = toy(tmp_path / "run", training={"checkpoint_every": 10})
    with pytest.raises(CheckpointError, match=r"the disk is full.*step-10"):
        train(config)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-10"]
    monkeypatch.setattr(checkpoint, "save_file", real)
    resumed, _ = train(config)
    whole, _ = train(toy(tmp_path / "whole", training={"checkpoint_every": 10}))
    check_identical(state_of(whole), state_of(resumed))
