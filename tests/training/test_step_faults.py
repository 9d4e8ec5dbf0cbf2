"""A step that cannot be done stops the run with what is needed to go on."""

import json
import math
from dataclasses import replace

import pytest
import torch

from nlpapp.data.annealing import AnnealedSteps
from nlpapp.errors import TrainingError
from tests.training import toy as toy_job
from tests.training.toy import ToyObjective, make_steps, train
from tests.training.toy_runs import check_identical, state_of, toy


def test_a_loss_that_is_not_finite_leaves_its_batch(tmp_path):
    """Step 14 of 9 an epoch is the fifth of the second; its second half of four rows is broken."""
    training = {"gradient_accumulation_steps": 2, "checkpoint_every": 13}
    config = toy(tmp_path / "run", explode_at=28, training=training)
    with pytest.raises(TrainingError, match=r"loss of step 14 is nan.*not_finite.*step-13"):
        train(config)
    record = json.loads((tmp_path / "run" / "not_finite" / "step-14-rank-0.json").read_text())
    assert (record["step"], record["epoch"], record["step_in_epoch"]) == (14, 1, 4)
    steps = make_steps(8, seed=config.seed)
    planned = steps.plan(1)[4]
    assert record["examples"] == [planned[:4].tolist(), planned[4:].tolist()]
    batches = steps.micro_batches(1, 4, rank=0, world_size=1, accumulation=2)
    assert len(batches) == len(record["micro_batches"]) == 2
    for batch, left in zip(batches, record["micro_batches"], strict=True):
        assert left["input_ids"] == batch["input_ids"].tolist()
    assert [math.isfinite(float(loss)) for loss in record["losses"]] == [True, False]
    assert record["metrics"]["loss"][0] == "nan"


def test_the_examples_of_annealed_steps_are_named(tmp_path, monkeypatch):
    plain = toy_job.make_steps

    def annealed(*arguments, **options):
        return AnnealedSteps(plain(*arguments, **options), 18)

    monkeypatch.setattr(toy_job, "make_steps", annealed)
    config = toy(tmp_path / "run", explode_at=3)
    with pytest.raises(TrainingError, match="loss of step 3 is nan"):
        train(config)
    record = json.loads((tmp_path / "run" / "not_finite" / "step-3-rank-0.json").read_text())
    assert record["examples"] == [plain(8, seed=config.seed).plan(0)[2].tolist()]


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path, monkeypatch):
    """A finite loss may have one, as the root of zero does."""
    options = {"training": {"checkpoint_every": 13}}
    whole, _ = train(toy(tmp_path / "whole", **options))
    real, calls = ToyObjective.__call__, []

    def call(self, model, *arguments):
        calls.append(arguments)
        output = real(self, model, *arguments)
        if len(calls) != 14:
            return output
        return replace(output, loss=output.loss + (0 * model.head.bias).sqrt().sum())

    monkeypatch.setattr(ToyObjective, "__call__", call)
    folder = tmp_path / "run"
    config = toy(folder, **options)
    with pytest.raises(TrainingError, match=r"gradient's norm of step 14 is nan; .*step-13"):
        train(config)
    record = json.loads((folder / "not_finite" / "step-14-rank-0.json").read_text())
    assert record["examples"] and math.isfinite(float(record["losses"][0]))
    resumed, _ = train(config)
    check_identical(state_of(whole), state_of(resumed))


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


FAILURES = {
    "device": out_of_memory,
    "host": lambda: torch.empty(1 << 58, dtype=torch.uint8),
    "numpy": lambda: bytearray(1 << 60),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_batch_that_does_not_fit_gives_advice_that_works(tmp_path, name, monkeypatch):
    """The run goes on from its checkpoint in smaller parts, to the weights of the whole ones."""
    whole, _ = train(toy(tmp_path / "whole"))
    real, calls = ToyObjective.__call__, []

    def call(self, *arguments):
        calls.append(arguments)
        if len(calls) == 15:
            FAILURES[name]()
        return real(self, *arguments)

    monkeypatch.setattr(ToyObjective, "__call__", call)
    with pytest.raises(TrainingError) as caught:
        train(toy(tmp_path / "run", training={"checkpoint_every": 10}))
    message = str(caught.value)
    assert message.startswith("step 15 does not fit into memory: ")
    assert "more training.gradient_accumulation_steps (now 1" in message and "step-10" in message
    training = {"checkpoint_every": 10, "gradient_accumulation_steps": 2}
    resumed, metrics = train(toy(tmp_path / "run", training=training))
    assert metrics["steps"] == 24 and len(calls) == 15 + 2 * 14
    for key, value in state_of(whole).items():
        torch.testing.assert_close(state_of(resumed)[key], value, atol=1e-6, rtol=0)


def test_other_errors_are_left_alone(tmp_path, monkeypatch):
    def call(self, *arguments):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ToyObjective, "__call__", call)
    with pytest.raises(RuntimeError, match="shapes"):
        train(toy(tmp_path / "run"))


def test_the_first_evaluation_gives_the_same_advice(tmp_path):
    with pytest.raises(TrainingError, match=r"does not fit into memory: .* a smaller evaluation b"):
        train(toy(tmp_path / "run"), evaluate=lambda _: out_of_memory(), evaluate_at_start=True)
