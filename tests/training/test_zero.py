"""DeepSpeed's ZeRO on two processes (gloo) trains as one whole model does; the same files."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from safetensors.torch import load_file

from nlpapp.errors import ConfigError
from nlpapp.training import zero
from nlpapp.training.lamb import Lamb
from tests.conftest import REPOSITORY
from tests.training.sharded_bert import difference, states, whole_run

PROCESSES = 2
STAGES = ("1", "2", "3")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("zero")
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}", "--standalone"]
    command = [*launcher, "-m", "tests.training.zero_bert", str(folder), *STAGES]
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    environment["DS_ACCELERATOR"] = "cpu"
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=900, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    read = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(PROCESSES)]
    return [process | {"folder": folder} for process in read]


@pytest.mark.parametrize("stage", STAGES)
def test_training_equals_the_whole_model(found, stage):
    """20 steps with clipping, two micro-batches a step, and an evaluation between them."""
    main, other = (process[stage] for process in found)
    assert main["weights"] < 1e-5
    assert main["optimizer"] < 1e-5 and main["groups"]
    assert other["elsewhere"] == [0, 0]
    for process in (main, other):
        plain, cut = process["evaluation"]
        assert cut == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_gathered_loads_and_trains_on(found, stage):
    for process in found:
        assert process[stage]["resumed"] < 1e-5
        assert process[stage]["is_bit_equal"]
        assert "bert.bert.embeddings.LayerNorm.bias is missing" in process[stage]["refusal"]


def test_only_stage_3_cuts_weights_and_transformers_cuts_none(found):
    for process in found:
        assert process["1"]["held"] == process["2"]["held"] == process["1"]["whole"]
        assert process["3"]["held"] < 0.6 * process["3"]["whole"]
        assert process["3"]["loads_whole"]


def test_bf16_is_that_of_autocast(found):
    assert [process["bf16"] for process in found] == [0, 0]


def test_the_model_of_pretraining(found):
    """With weights in pieces (ZeRO-3)."""
    assert all(process["pretraining"] < 1e-5 for process in found)


def test_a_loss_that_is_not_finite_stops_before_the_update(found):
    assert all("stopped before the update" in process["not finite"] for process in found)
    saved = found[0]["folder"] / "broken" / "checkpoints" / "step-2" / "model.safetensors"
    assert all(value.isfinite().all() for value in load_file(saved).values())


def test_a_run_leaves_the_files_of_a_plain_one(found, tmp_path):
    """The engine as a whole: checkpoints, best weights, the caller's model, and going on."""
    folder = found[0]["folder"]
    plain = whole_run(str(tmp_path / "plain"))
    for rank in range(PROCESSES):
        assert found[rank]["resumed run"] == 0
        trained = torch.load(folder / f"trained-{rank}.pt", weights_only=True)
        assert difference(trained, plain.state_dict()) < 1e-5
    pair = [folder / "step-8", tmp_path / "plain" / "checkpoints" / "step-8"]
    names = [{path.name for path in step.iterdir()} for step in pair]
    assert names[0] == names[1] | {"rank-1.pt"}
    assert difference(*[load_file(step / "model.safetensors") for step in pair]) < 1e-5
    saved = [torch.load(step / "optimizer.pt", weights_only=True) for step in pair]
    assert difference(*[states(one["optimizer"]) for one in saved]) < 1e-5
    # One plain process goes on where two with ZeRO stopped.
    for step in (8, 12):
        newer = folder / "run" / "checkpoints" / f"step-{step}"
        newer.rename(folder / f"again-{step}")
    assert difference(whole_run(str(folder / "run")).state_dict(), plain.state_dict()) < 1e-5


@pytest.mark.parametrize("stage", [2, 3])
def test_the_config_files_give_what_was_tested(stage, monkeypatch):
    """Accelerate's launcher turns the file into an environment, and its plugin reads that."""
    pytest.importorskip("deepspeed")
    path = REPOSITORY / "configs" / "accelerate" / f"deepspeed_zero{stage}.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    arguments = _validate_launch_command(arguments)[0]
    arguments.deepspeed_fields_from_accelerate_config = ""  # As the launcher has it next.
    _, given = prepare_deepspeed_cmd_env(arguments)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    plugin = zero.zero_plugin(0.5)
    assert plugin.zero_stage == stage and not plugin.zero3_init_flag
    config = plugin.deepspeed_config
    assert config["gradient_clipping"] == 0.5 and config["gradient_accumulation_steps"] == 1
    assert config["zero_optimization"]["stage"] == stage


def test_without_the_launcher_there_is_none(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert zero.zero_plugin(1.0) is None


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(zero, "is_deepspeed_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[deepspeed\]"):
        zero.zero_plugin(1.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0", "zero_stage is 0; expected 1, 2 or 3"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer_device is cpu"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "offload_param_device is nvme"),
    ],
)
def test_what_is_refused(name, value, words, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        zero.zero_plugin(1.0)


def test_a_file_that_decides_what_options_decide(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(ConfigError, match="section 'bf16'; leave it out, --training.precision"):
        zero.zero_plugin(1.0)


@pytest.mark.parametrize(
    ("optimizer", "precision", "compiled", "words"),
    [
        (Lamb([torch.ones(2)], lr=0.1), "float32", False, "needs the norm of each matrix"),
        (None, "fp16", False, "training.precision is fp16"),
        (None, "bf16", True, "training.compile is not supported with DeepSpeed"),
    ],
)
def test_options_that_do_not_go_together_with_it(optimizer, precision, compiled, words):
    with pytest.raises(ConfigError, match=words):
        zero.ZeroStrategy(None, None, optimizer, precision, compiled=compiled)
