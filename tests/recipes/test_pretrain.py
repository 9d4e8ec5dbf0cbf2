"""Pretraining end to end on the sample corpus: what it leaves, exact resume, and refusals."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from nlpapp.data.cooccurrence import count_cooccurrences
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.errors import ConfigError, DataError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.recipes import make_data, pretrain
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.hub import HubConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.phases import PhaseConfig
from tests.conftest import REPOSITORY

TOKENIZER = str(REPOSITORY / "data" / "sample" / "tokenizer")
SIZE = BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32)
TRAINING = TrainingConfig(
    max_steps=40, log_every=5, tensorboard=False, optimizer=OptimizerConfig(learning_rate=0.01)
)


def make(folder, **options):
    config = make_data.Config(
        inputs=[str(REPOSITORY / "data" / "sample" / "corpus.txt")],
        tokenizer=TOKENIZER,
        output_dir=str(folder),
        **({"max_seq_length": 32, "dupe_factor": 1} | options),
    )
    make_data.run(config)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return make(tmp_path_factory.mktemp("data") / "dynamic", masking="dynamic")


def config_for(folder, data: str | None, **options) -> pretrain.Config:
    training = replace(TRAINING, **options.pop("training", {}))
    settings = {"data": data, "evaluation_data": data, "tokenizer": TOKENIZER, "size": SIZE}
    return pretrain.Config(
        output_dir=str(folder), training=training, batch_size=64, **(settings | options)
    )


def weights(folder) -> dict:
    return load_file(folder / "model" / "model.safetensors")


def check_identical(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_words_counted_in_the_data_are_a_better_start_than_their_frequencies(tmp_path, data):
    """Before the first step words are as frequent as in the text; vectors show in training."""
    plain = pretrain.run(config_for(tmp_path / "plain", data))
    counted = pretrain.run(config_for(tmp_path / "counted", data, word_start=True))
    frequencies = count_cooccurrences(PretrainingData.open(data), load_tokenizer(TOKENIZER))[0]
    shares = frequencies[frequencies > 0] / frequencies.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert counted["initial_masked_lm_loss"] == pytest.approx(entropy, abs=0.15)
    assert counted["initial_masked_lm_loss"] < plain["initial_masked_lm_loss"] - 0.5
    assert counted["masked_lm_loss"] < plain["masked_lm_loss"]


def test_words_are_counted_once_in_the_first_phase_and_not_at_a_restart(
    tmp_path, data, monkeypatch
):
    counted = []

    def count(data, tokenizer):
        counted.append(data.fingerprint)
        return count_cooccurrences(data, tokenizer)

    monkeypatch.setattr(pretrain, "count_cooccurrences", count)
    other = make(tmp_path / "other", masking="dynamic", seed=7)
    phases = [
        PhaseConfig(name="one", data=data, max_steps=4),
        PhaseConfig(name="two", data=other, max_steps=4),
    ]
    options = {"evaluation_data": None, "word_start": True, "training": {"checkpoint_every": 2}}
    config = config_for(tmp_path / "run", None, phases=phases, **options)
    pretrain.run(config)
    assert counted == [PretrainingData.open(data).fingerprint]
    before = weights(tmp_path / "run")
    for file in ("metrics.json", "one/metrics.json", "two/metrics.json"):
        (tmp_path / "run" / file).unlink()  # As if killed after the last checkpoint.
    pretrain.run(config)
    assert len(counted) == 1
    check_identical(before, weights(tmp_path / "run"))
    with pytest.raises(ConfigError, match="word_start is for random weights"):
        model = str(tmp_path / "run" / "model")
        pretrain.run(replace(config, model=model, size=BertSizeConfig()))


def test_a_run_learns_and_leaves_what_the_contract_says(tmp_path, data):
    metrics = pretrain.run(config_for(tmp_path / "run", data))
    assert metrics["masked_lm_loss"] < 0.9 * metrics["initial_masked_lm_loss"]
    for name in [
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "metrics.json",
        "train.log",
        "report.html",
        "plots/curves.png",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/README.md",
    ]:
        assert (tmp_path / "run" / name).is_file(), name
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert {"seconds", "tokens_per_second", "next_sentence_accuracy"} <= metrics.keys()
    assert {"parameters", "tokens_per_epoch", "padding_share", "flops_per_token"} <= metrics.keys()
    expected = {"memory_estimate_bytes", "model_flops_utilization", "tokens"}
    assert all(metrics[name] > 0 for name in expected)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "speed after step 20: " in log and "are shards of the training data" in log
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert PretrainingData.open(data).fingerprint in card
    # The folder is an ordinary one.
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    logits = model(**tokenizer("a [MASK] day", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer)
    # A second start finds the run complete, and changes nothing.
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert pretrain.run(config_for(tmp_path / "run", data)) == metrics
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("stop_after", [7, 23], ids=["mid-epoch", "epoch 2"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, data, monkeypatch, stop_after):
    """Dropout and dynamic masks included; evaluations agree to the last bit as well."""
    options = {"training": {"checkpoint_every": 5, "evaluate_every": 10}}
    pretrain.run(config_for(tmp_path / "whole", data, **options))
    from nlpapp.training.callbacks import MetricsLog

    real = MetricsLog.on_step

    def stop(self, trainer, sums):
        if trainer.state.step == stop_after:
            raise KeyboardInterrupt
        real(self, trainer, sums)

    monkeypatch.setattr(MetricsLog, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(config_for(tmp_path / "broken", data, **options))
    monkeypatch.setattr(MetricsLog, "on_step", real)
    pretrain.run(config_for(tmp_path / "broken", data, **options))
    check_identical(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    records = []
    for name in ("whole", "broken"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines if '"evaluation"' in line]
        records.append([{k: v for k, v in record.items() if k != "seconds"} for record in found])
    assert records[0] == records[1] and len(records[0]) == 4


def test_one_process_equals_accumulated_micro_batches(tmp_path, data):
    """The bar of the loss's definition, on the real model: 1 x 64 = 2 accumulated x 32."""
    still = replace(SIZE, dropout=0.0)
    options = {"size": still, "training": {"max_steps": 5}}
    pretrain.run(config_for(tmp_path / "whole", data, **options))
    options["training"]["gradient_accumulation_steps"] = 2
    pretrain.run(config_for(tmp_path / "parts", data, **options))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


def test_one_process_of_64_equals_two_of_32(tmp_path, data):
    """The same on two processes (gloo), through the command line as a cluster starts it."""
    options = [
        "--data",
        data,
        "--tokenizer",
        TOKENIZER,
        "--batch_size",
        "64",
        "--size.dropout",
        "0",
    ]
    options += ["--size.num_layers", "1", "--size.hidden_size", "16", "--size.num_heads", "2"]
    options += ["--training.max_steps", "20", "--training.tensorboard", "false"]
    options += ["--word_start", "true"]  # Counted by the first process, and sent to the second.
    launch = {1: [], 2: ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]}
    for processes, words in launch.items():
        command = [sys.executable, *words, "-m", "nlpapp", "pretrain", *options]
        command += ["--output_dir", str(tmp_path / str(processes))]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr[-2000:]
        environment = json.loads((tmp_path / str(processes) / "environment.json").read_text())
        assert environment["world_size"] == processes
    first, second = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5


def test_a_pretrained_folder_goes_on_training(tmp_path, data):
    pretrain.run(config_for(tmp_path / "first", data))
    folder = str(tmp_path / "first" / "model")
    config = config_for(tmp_path / "second", data, model=folder, size=BertSizeConfig())
    second = pretrain.run(config)
    first = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert second["initial_masked_lm_loss"] == pytest.approx(first["masked_lm_loss"], rel=1e-6)


def test_data_without_pairs_trains_masked_tokens_only(tmp_path):
    data = make(tmp_path / "data", objective="none")
    metrics = pretrain.run(config_for(tmp_path / "run", data, training={"max_steps": 5}))
    assert "masked_lm_loss" in metrics and "next_sentence_loss" not in metrics


def test_refusals(tmp_path, data, tiny_tokenizer_folder):
    with pytest.raises(DataError, match="tokenizer"):
        pretrain.run(config_for(tmp_path / "a", data, tokenizer=str(tiny_tokenizer_folder)))
    short = replace(SIZE, max_position_embeddings=16)
    with pytest.raises(ConfigError, match=r"max_seq_length 3\d is over the model's 16 positions"):
        pretrain.run(config_for(tmp_path / "b", data, size=short))
    with pytest.raises(DataError, match="absent"):
        pretrain.run(config_for(tmp_path / "c", str(tmp_path / "absent")))


def test_steps_by_tokens(tmp_path, data):
    budget = {"tokens_per_batch": 512, "training": {"max_steps": 5}}
    assert pretrain.run(config_for(tmp_path / "run", data, **budget))["steps"] == 5
    with pytest.raises(ConfigError, match="over tokens_per_batch 8"):
        pretrain.run(config_for(tmp_path / "a", data, tokens_per_batch=8))
    with pytest.raises(ConfigError, match="turn group_by_length on"):
        pretrain.run(config_for(tmp_path / "b", data, tokens_per_batch=512, group_by_length=False))


def test_sentence_order_is_trained_and_scored_under_its_own_name(tmp_path):
    data = make(tmp_path / "sop", objective="sop", masking="dynamic")
    metrics = pretrain.run(config_for(tmp_path / "run", data, training={"max_steps": 5}))
    assert {"sentence_order_loss", "sentence_order_accuracy"} <= metrics.keys()
    assert "next_sentence_loss" not in metrics


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> str:
    return make(tmp_path_factory.mktemp("data") / "short", masking="dynamic", max_seq_length=16)


def two_phases(folder, short: str, data: str, **changes) -> pretrain.Config:
    """Phase 1 on 16 tokens, phase 2 on 32, with a batch, rate and evaluation of its own."""
    phases = [
        PhaseConfig(name="phase1", data=short, max_steps=6),
        PhaseConfig(
            name="phase2", data=data, evaluation_data=data, batch_size=16, max_steps=4,
            learning_rate=1e-3, **changes,
        ),
    ]  # fmt: skip
    options = {"checkpoint_every": 2, "log_every": 1}
    config = config_for(folder, data, training=options)
    return replace(config, data=None, evaluation_data=None, phases=phases)


@pytest.fixture(scope="module")
def both(tmp_path_factory, data, short):
    """The folder of a run in two phases."""
    folder = tmp_path_factory.mktemp("phases") / "both"
    pretrain.run(two_phases(folder, short, data))
    return folder


def test_two_phases_equal_two_runs_and_leave_one(tmp_path, data, short, both):
    options = {"checkpoint_every": 2, "log_every": 1}
    first = config_for(
        tmp_path / "1", short, evaluation_data=None, training=options | {"max_steps": 6}
    )
    pretrain.run(first)
    optimizer = OptimizerConfig(learning_rate=1e-3)
    second = config_for(
        tmp_path / "2", data, training=options | {"max_steps": 4, "optimizer": optimizer}
    )
    folder = str(tmp_path / "1" / "model")
    by_hand = pretrain.run(replace(second, model=folder, size=BertSizeConfig(), batch_size=16))
    metrics = json.loads((both / "metrics.json").read_text())
    check_identical(weights(both), weights(tmp_path / "2"))
    assert metrics["masked_lm_loss"] == metrics["phase2_masked_lm_loss"]
    assert metrics["masked_lm_loss"] == by_hand["masked_lm_loss"]
    assert (metrics["steps"], metrics["phase1_steps"], metrics["phase2_steps"]) == (10, 6, 4)
    for name in ("model/README.md", "report.html", "plots/curves.png", "metrics.json"):
        assert (both / name).is_file(), name
    lines = [json.loads(line) for line in (both / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if row["split"] == "train"] == list(range(1, 11))
    assert pretrain.run(two_phases(both, short, data)) == metrics


def test_a_restart_goes_on_with_the_open_phase(tmp_path, data, short, both, monkeypatch):
    from nlpapp.training.callbacks import MetricsLog

    real = MetricsLog.on_step

    def stop(self, trainer, sums):
        if self.run.path.name == "phase2" and trainer.state.step == 3:
            raise KeyboardInterrupt
        real(self, trainer, sums)

    monkeypatch.setattr(MetricsLog, "on_step", stop)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(two_phases(broken, short, data))
    monkeypatch.setattr(MetricsLog, "on_step", real)
    first = (broken / "phase1" / "metrics.jsonl").read_bytes()
    assert not (broken / "metrics.json").exists()
    pretrain.run(two_phases(broken, short, data))
    assert (broken / "phase1" / "metrics.jsonl").read_bytes() == first
    assert "going on from" in (broken / "train.log").read_text()
    check_identical(weights(both), weights(broken))


def test_phases_that_cannot_be_are_refused_before_the_first_step(tmp_path, data, short):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="'phase2' has sequences of 16 tokens, shorter than"):
        pretrain.run(two_phases(folder, data, short))
    narrow = replace(SIZE, max_position_embeddings=16)
    with pytest.raises(ConfigError, match="32 tokens, but the model has 16 positions"):
        pretrain.run(replace(two_phases(folder, short, data), size=narrow))
    with pytest.raises(DataError, match="absent"):
        pretrain.run(two_phases(folder, short, str(tmp_path / "absent")))
    assert not (folder / "phase1").exists()
    with pytest.raises(ConfigError, match="phases have their own data"):
        replace(two_phases(folder, short, data), data=data)
    with pytest.raises(ConfigError, match="data is missing"):
        replace(config_for(folder, data), data=None)
    with pytest.raises(ConfigError, match="batch_size is 0; it must be at least 1"):
        replace(config_for(folder, data), batch_size=0)
    wrong = two_phases(folder, short, data)
    wrong = replace(wrong, phases=[wrong.phases[0], replace(wrong.phases[1], max_steps=0)])
    with pytest.raises(ConfigError, match="training.max_steps is 0"):
        pretrain.run(wrong)
    assert not (folder / "phase1").exists()


@pytest.mark.parametrize(
    ("changes", "group_by_length", "message"),
    [
        ({"batch_size": 7}, True, "batch_size is 7, fewer examples than the 8 processes"),
        ({"tokens_per_batch": 128}, True, "holds 4 of the longest .* fewer than the 8 processes"),
        ({"tokens_per_batch": 8}, True, "over tokens_per_batch 8"),
        ({"tokens_per_batch": 0}, True, "tokens_per_batch is 0; it must be at least 1"),
        ({"tokens_per_batch": 512}, False, "turn group_by_length on"),
    ],
)
def test_batches_of_a_later_phase_are_checked_before_the_first(
    tmp_path, data, short, monkeypatch, changes, group_by_length, message
):
    monkeypatch.setattr(pretrain, "process_state", lambda: SimpleNamespace(num_processes=8))
    config = two_phases(tmp_path / "run", short, data)
    phases = [config.phases[0], PhaseConfig(name="phase2", data=data, max_steps=4, **changes)]
    with pytest.raises(ConfigError, match=f"the phase 'phase2': .*{message}"):
        pretrain.run(replace(config, phases=phases, group_by_length=group_by_length))
    assert not (tmp_path / "run" / "phase1").exists()


def test_the_hub_is_asked_first_and_gets_the_finished_model(tmp_path, data, monkeypatch):
    asked = []
    hub = HubConfig(repository="me/model")
    monkeypatch.setattr(pretrain, "check_hub", lambda config: asked.append(("check", config)))
    monkeypatch.setattr(
        pretrain,
        "push_folder",
        lambda config, folder: asked.append(((folder / "README.md").is_file(), config)),
    )
    config = config_for(tmp_path / "run", data, hub=hub, training={"max_steps": 2})
    pretrain.run(config)
    assert asked == [("check", hub), (True, hub)]


def test_a_push_that_a_kill_prevented_is_made_by_the_restart(tmp_path, data, monkeypatch):
    def kill(config, folder):
        raise KeyboardInterrupt

    config = config_for(tmp_path / "run", data, training={"max_steps": 2})
    monkeypatch.setattr(pretrain, "push_folder", kill)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(config)
    pushed = []
    monkeypatch.setattr(pretrain, "push_folder", lambda config, folder: pushed.append(folder))
    assert pretrain.run(config)["steps"] == 2
    assert pushed == [tmp_path / "run" / "model"]


def test_a_finished_run_is_pushed_where_the_option_is_new(tmp_path, data, monkeypatch):
    config = config_for(tmp_path / "run", data, training={"max_steps": 2})
    metrics = pretrain.run(config)
    asked, hub = [], HubConfig(repository="me/model")
    monkeypatch.setattr(pretrain, "check_hub", asked.append)
    monkeypatch.setattr(pretrain, "push_folder", lambda *given: asked.append(given))
    assert pretrain.run(replace(config, hub=hub)) == metrics
    assert asked == [hub, (hub, tmp_path / "run" / "model")]


def test_lamb_with_rates_by_layer_and_activations_computed_twice(tmp_path, data):
    """Gradient checkpointing changes no number; LAMB and the decay do."""
    found = {}
    for name, options in {
        "adamw": {},
        "lamb": {"optimizer": OptimizerConfig(name="lamb", layer_decay=0.5)},
        "lamb, twice": {
            "optimizer": OptimizerConfig(name="lamb", layer_decay=0.5),
            "gradient_checkpointing": True,
        },
    }.items():
        size = replace(SIZE, num_layers=2)
        config = config_for(tmp_path / name, data, size=size, training=options | {"max_steps": 3})
        found[name] = pretrain.run(config)["masked_lm_loss"]
    assert found["lamb, twice"] == pytest.approx(found["lamb"], rel=1e-6)
    assert found["adamw"] != pytest.approx(found["lamb"], rel=1e-4)


def test_unpadded_training_is_the_same_training(tmp_path, data):
    still = replace(SIZE, dropout=0.0)
    options = {"size": still, "training": {"max_steps": 3}, "group_by_length": False}
    padded = pretrain.run(config_for(tmp_path / "padded", data, **options))
    unpadded = pretrain.run(config_for(tmp_path / "unpadded", data, unpad=True, **options))
    assert padded["padding_share"] > 0
    assert unpadded["masked_lm_loss"] == pytest.approx(padded["masked_lm_loss"], rel=1e-5)
    assert unpadded["next_sentence_loss"] == pytest.approx(padded["next_sentence_loss"], rel=1e-5)
