"""FSDP2 on two processes (gloo) trains as one whole model does, and leaves the same files."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from nlpapp.errors import CheckpointError
from nlpapp.training import sharding
from tests.conftest import REPOSITORY
from tests.training.sharded_bert import (
    LAUNCHED,
    Bert,
    difference,
    optimizer_of,
    states,
    train,
    train_whole,
    whole_run,
)

PROCESSES = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharded")
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}", "--standalone"]
    command = [sys.executable, *launcher, "-m", "tests.training.sharded_bert", str(folder)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    read = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(PROCESSES)]
    return [process | {"folder": folder} for process in read]


def test_each_process_holds_a_part_and_the_embeddings_stay_tied(found):
    for process in found:
        assert process["is_sharded"] and process["kept_whole"] and process["tied"]
    assert sum(process["held"] for process in found) == found[0]["whole"]
    assert max(process["held"] for process in found) < 0.6 * found[0]["whole"]


def test_training_equals_the_whole_model(found):
    """20 steps with clipping and two micro-batches a step."""
    assert found[0]["weights"] < 1e-5
    assert found[0]["optimizer"] < 1e-5 and found[0]["groups"]
    assert found[1]["elsewhere"] == [0, 0]


def test_the_model_of_pretrain_trains_as_a_whole_one(found):
    """Its losses and weights; the last layer is cut short, and the vocabulary's loss in blocks."""
    assert all(process["pretraining"] < 1e-5 for process in found)


def test_what_was_gathered_loads_and_trains_on(found):
    assert all(process["resumed"] < 1e-5 for process in found)


def test_evaluation_where_a_process_has_no_example(found):
    for process in found:
        plain, sharded = process["evaluation"]
        assert sharded == pytest.approx(plain, abs=1e-5)
        assert process["rows"] < 1e-5


def test_weights_that_do_not_fit(found):
    expected = "bert.bert.embeddings.LayerNorm.bias is missing"
    assert all(expected in process["refusal"] for process in found)
    model = Bert(0)
    strategy = sharding.Strategy(Accelerator(cpu=True), model, optimizer_of(model))
    weights = strategy.full_weights()
    wrong = weights | {"bert.bert.pooler.dense.bias": torch.zeros(3), "more": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"more is unknown; .*\(3,\), here \(12,\)"):
        strategy.load_full_weights(wrong)


def test_a_sharded_run_leaves_the_files_of_a_plain_one(found, tmp_path):
    """The engine as a whole: checkpoints, best weights, the caller's model, and going on."""
    folder = found[0]["folder"]
    plain = whole_run(str(tmp_path / "plain"))
    for rank in range(PROCESSES):
        assert set(found[rank]["plain_result"]) == {"Parameter"}
        trained = torch.load(folder / f"trained-{rank}.pt", weights_only=True)
        assert difference(trained, plain.state_dict()) < 1e-5
    for step in (4, 8, 12):
        sharded_files, plain_files = (
            {path.name: path for path in (run / "checkpoints" / f"step-{step}").iterdir()}
            for run in (folder / "run", tmp_path / "plain")
        )
        assert sharded_files.keys() == plain_files.keys() | {"rank-1.pt"}
        pair = (sharded_files, plain_files)
        weights = [load_file(files["model.safetensors"]) for files in pair]
        assert difference(*weights) < 1e-5
        optimizers = [torch.load(files["optimizer.pt"], weights_only=True) for files in pair]
        assert difference(*[states(saved["optimizer"]) for saved in optimizers]) < 1e-5
    # One whole process goes on where two with pieces stopped.
    for later in ("step-12", "step-8"):
        shutil.rmtree(folder / "run" / "checkpoints" / later)
    assert difference(whole_run(str(folder / "run")).state_dict(), plain.state_dict()) < 1e-5


def test_a_plain_model_takes_the_same_road():
    """Whole weights: tied ones once, as safetensors keeps them, and loaded in place."""
    accelerator = Accelerator(cpu=True)
    models = [Bert(seed) for seed in range(3)]
    assert not sharding.is_sharded(models[0])
    assert sharding.model_to_train(accelerator, models[0]) is models[0]
    first, second = (
        sharding.Strategy(accelerator, model, optimizer_of(model)) for model in models[:2]
    )
    train(first, range(2))
    weights = first.full_weights()
    assert "bert.bert.embeddings.word_embeddings.weight" in weights
    assert "bert.cls.predictions.decoder.weight" not in weights
    second.load_full_weights(weights)
    # A copy, as a file is one: torch keeps the tensors it is given.
    second.load_full_optimizer(copy.deepcopy(first.full_optimizer()))
    for strategy in (first, second):
        train(strategy, range(2, 4))
    second.copy_weights(models[2])
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
        assert torch.equal(value, models[2].state_dict()[name]), name


def test_one_process_updates_as_plain_torch_does():
    models = [Bert(0), Bert(0)]
    optimizers = [optimizer_of(model) for model in models]
    train(sharding.Strategy(Accelerator(cpu=True), models[0], optimizers[0]), range(4))
    train_whole(models[1], optimizers[1], range(4))
    assert difference(models[0].state_dict(), models[1].state_dict()) < 1e-6


def test_the_config_file_gives_what_was_tested(monkeypatch):
    """Accelerate's launcher turns the file into an environment, and its plugin reads that."""
    path = REPOSITORY / "configs" / "accelerate" / "fsdp.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    arguments = _validate_launch_command(arguments)[0]
    given = prepare_multi_gpu_env(arguments)
    assert given["ACCELERATE_USE_FSDP"] == "true"
    assert {name: given[name] for name in LAUNCHED} == LAUNCHED
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    plugin = sharding.sharding_plugin("float32")
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer"]
    # With it on, the weights of one process are given out, and tied ones come apart.
    assert plugin.cpu_ram_efficient_loading is False


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_who_will_cut_the_model(monkeypatch, name):
    for known in ("FSDP", "DEEPSPEED"):
        monkeypatch.delenv(f"ACCELERATE_USE_{known}", raising=False)
    assert not sharding.will_shard()
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    assert sharding.will_shard()


def test_precision_of_the_pieces(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharding.sharding_plugin("bf16") is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    policy = sharding.sharding_plugin("bf16").mixed_precision_policy
    assert policy.param_dtype == torch.bfloat16 and policy.reduce_dtype == torch.float32
    assert sharding.sharding_plugin("float32").mixed_precision_policy is None
