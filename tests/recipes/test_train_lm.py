import gzip
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.language_models import TransformerXLSizeConfig
from nlpapp.models.pretrained import load_classifier
from nlpapp.recipes import evaluate_lm, finetune, train_lm
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig

SIZE = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "inner_size": 32, "mem_len": 16}
ABSOLUTE = {"mem_len": 0, "absolute_positions": True}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Sentences in which a name is followed by "is", or by the line's end: memory tells which."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for split, lines in (("train", 400), ("valid", 40), ("test", 40)):
        names = rng.integers(0, 10, lines)
        text = "".join(f"n{name} is the name of one who says n{name}\n" for name in names)
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return folder


def config(texts, output_dir, *, size=None, training=None, **options):
    training = {"max_steps": 6, "log_every": 2, "tensorboard": False} | (training or {})
    return train_lm.Config(
        **{
            "train_file": str(texts / "train.txt"),
            "valid_file": str(texts / "valid.txt"),
            "output_dir": str(output_dir),
            "size": TransformerXLSizeConfig(**SIZE | (size or {})),
            "segment_length": 4,
            "batch_size": 4,
            "training": TrainingConfig(
                optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0), **training
            ),
        }
        | options
    )


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )


def test_training_leaves_a_model_that_is_better_with_its_memory(texts, tmp_path):
    options = config(
        texts,
        tmp_path / "run",
        test_file=str(texts / "test.txt"),
        size={"hidden_size": 32, "inner_size": 64, "dropout": 0.0},
        training={"max_steps": 400, "log_every": 100},
    )
    metrics = train_lm.run(options)
    assert metrics["test_perplexity"] < 0.8 * metrics["test_perplexity_without_memory"]
    # Two names out of ten in ten tokens: all else is certain.
    assert metrics["test_loss"] == pytest.approx(2 * np.log(10) / 10, abs=0.03)
    assert metrics["test_perplexity"] == pytest.approx(np.exp(metrics["test_loss"]))
    assert {"valid_loss", "valid_perplexity", "seconds", "tokens_per_second"} <= metrics.keys()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    for name in ("model/README.md", "model/vocabulary.json", "plots/curves.png", "report.html"):
        assert (tmp_path / "run" / name).is_file(), name

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    vocabulary = load_vocabulary(tmp_path / "run" / "model")
    assert model.config.tokenizer_fingerprint == vocabulary.fingerprint()
    scored = evaluate_lm.run(
        evaluate_lm.Config(
            model=str(tmp_path / "run" / "model"),
            text_file=str(texts / "test.txt"),
            segment_length=4,
            output_dir=str(tmp_path / "scored"),
        )
    )
    assert scored["loss"] == pytest.approx(metrics["test_loss"], abs=1e-6)
    assert scored["predicted_tokens"] == 40 * 10


def test_resumed_in_the_middle_is_bit_equal_to_uninterrupted(texts, tmp_path):
    """The memory is part of the checkpoint: step 3 goes on with what step 2 remembered."""
    training = {"max_steps": 6, "checkpoint_every": 2, "keep_checkpoints": 9, "evaluate_every": 6}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_lm.run(config(texts, whole, training=training))
    shutil.copytree(whole, resumed)
    forget_after(resumed, 2)
    train_lm.run(config(texts, resumed, training=training))
    assert_same(weights(resumed), weights(whole), atol=0, rtol=0)
    carry = torch.load(whole / "checkpoints/step-2/rank-0.pt", weights_only=True)["carry"]
    assert [tuple(old.shape) for old in carry[0]] == [(4, 8, 16)] * 2


def test_resumed_without_its_memory_would_differ(texts, tmp_path):
    """The test above can fail: the memory does change the weights."""
    results = []
    for mem_len in (16, 0):
        run = tmp_path / str(mem_len)
        train_lm.run(config(texts, run, size={"mem_len": mem_len}))
        results.append(weights(run)["softmax.bias"])
    assert not torch.equal(*results)


def test_two_micro_batches_give_the_update_of_one(texts, tmp_path):
    for accumulation in (1, 2):
        training = {"gradient_accumulation_steps": accumulation}
        train_lm.run(
            config(texts, tmp_path / str(accumulation), size={"dropout": 0.0}, training=training)
        )
    assert_same(weights(tmp_path / "2"), weights(tmp_path / "1"), atol=1e-5, rtol=1e-5)


def forget_after(run, step):
    """Leave of a finished run what a kill after ``step`` leaves."""
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    shutil.rmtree(run / "model")
    (run / "metrics.json").unlink()


def test_resumed_in_other_micro_batches_every_row_keeps_its_memory(texts, tmp_path):
    """Four rows in one batch, then in two of two, then in three: the update of the whole run."""
    saved = {"checkpoint_every": 1, "keep_checkpoints": 9, "evaluate_every": 6}
    run, options = tmp_path / "run", {"size": {"dropout": 0.0}}
    train_lm.run(config(texts, run, training=saved, **options))
    whole = weights(run)
    for step, accumulation in ((4, 2), (5, 3)):
        forget_after(run, step)
        changed = saved | {"gradient_accumulation_steps": accumulation}
        train_lm.run(config(texts, run, training=changed, **options))
        assert_same(weights(run), whole, atol=1e-6, rtol=1e-5)


def test_another_training_text_is_refused_whatever_the_vocabulary(texts, tmp_path):
    text = tmp_path / "train.txt"
    shutil.copy(texts / "train.txt", text)
    options = {"vocabulary": "bytes", "train_file": str(text)}
    run = tmp_path / "run"
    train_lm.run(config(texts, run, training={"checkpoint_every": 2}, **options))
    forget_after(run, 4)
    text.write_text(text.read_text().replace("name", "game"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="training data has changed .* tokens .* tokens"):
        train_lm.run(config(texts, run, training={"checkpoint_every": 2}, **options))


@pytest.mark.parametrize("vocabulary", ["characters", "bytes", "tokenizer"])
def test_other_vocabularies(texts, tmp_path, tiny_tokenizer_folder, vocabulary):
    name = str(tiny_tokenizer_folder) if vocabulary == "tokenizer" else vocabulary
    metrics = train_lm.run(config(texts, tmp_path / "run", vocabulary=name))
    assert metrics["valid_perplexity_without_memory"] > 1
    loaded = load_vocabulary(tmp_path / "run" / "model")
    assert loaded.decode(loaded.encode("the name of one")) == "the name of one"


def test_figures_of_all_vocabularies_are_of_one_text(texts, tmp_path):
    """Words are predicted piece by piece, and compared word by word."""
    text = (texts / "valid.txt").read_text(encoding="utf-8")
    for vocabulary, tokens in (("words", 40 * 10), ("bytes", len(text))):
        found = train_lm.run(config(texts, tmp_path / vocabulary, vocabulary=vocabulary))
        assert found["valid_predicted_tokens"] == tokens
        assert found["valid_characters"] == found["valid_bytes"] == len(text)
        nats = found["valid_loss"] * tokens
        assert found["valid_word_perplexity"] == pytest.approx(np.exp(nats / 400))
        assert found["valid_bits_per_byte"] == pytest.approx(nats / np.log(2) / len(text))


def test_the_report_shows_texts_and_what_memory_is_worth(texts, tmp_path):
    training = {"evaluate_every": 2}
    options = {"memory_ablation": [0, 32], "sample_tokens": 7, "training": training}
    metrics = train_lm.run(config(texts, tmp_path / "run", **options))
    assert metrics["valid_perplexity_mem_len_32"] > 1
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 3
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What the memory is worth" in page and "mem len 32" in page
    assert json.loads(lines[-1])["text"].split()[0] in page


def test_text_from_a_folder_and_a_table_gives_the_weights_of_one_file(texts, tmp_path):
    """Packed, in two files, as JSON lines: the same lines, so the same ids and weights."""
    lines = (texts / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    folder = tmp_path / "text"
    folder.mkdir()
    with gzip.open(folder / "a.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines[:150])
    rows = "".join(json.dumps({"text": line.rstrip("\n")}) + "\n" for line in lines[150:])
    (folder / "b.jsonl").write_text(rows, encoding="utf-8")
    for name, source in (("file", str(texts / "train.txt")), ("folder", [str(folder)])):
        train_lm.run(config(texts, tmp_path / name, train_file=source))
    assert_same(weights(tmp_path / "folder"), weights(tmp_path / "file"), atol=0, rtol=0)


def test_shuffled_lanes_of_varying_segments_resume_bit_equal(texts, tmp_path):
    """In the second epoch, whose lanes and segments are others than those of the first."""
    training = {"num_epochs": 2, "max_steps": None, "checkpoint_every": 4, "keep_checkpoints": 99}
    options = {"shuffle_lanes": True, "variable_segment_length": True, "batch_size": 40}
    options |= {"segment_length": 12, "training": training | {"evaluate_every": 1000}}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_lm.run(config(texts, whole, **options))
    shutil.copytree(whole, resumed)
    numbers = sorted(int(path.name[5:]) for path in (whole / "checkpoints").glob("step-*"))
    forget_after(resumed, numbers[len(numbers) * 2 // 3 - 1])
    train_lm.run(config(texts, resumed, **options))
    assert_same(weights(resumed), weights(whole), atol=0, rtol=0)


def test_the_memory_goes_on_in_the_next_epoch(texts, tmp_path):
    """One lane that is read twice is a text that is written twice: at its start stands <eos>."""
    text = (texts / "valid.txt").read_text(encoding="utf-8")  # 400 tokens, 20 segments
    (tmp_path / "twice.txt").write_text(text + text, encoding="utf-8")
    training = {
        "max_steps": 40,
        "checkpoint_every": 20,
        "keep_checkpoints": 9,
        "evaluate_every": 40,
    }
    options = {"batch_size": 1, "segment_length": 20, "training": training}
    train_lm.run(config(texts, tmp_path / "read", train_file=str(texts / "valid.txt"), **options))
    again = {"train_file": str(tmp_path / "twice.txt"), **options}
    train_lm.run(config(texts, tmp_path / "written", **again))
    assert_same(weights(tmp_path / "read"), weights(tmp_path / "written"), atol=0, rtol=0)

    # Resumed at the very end of the first epoch.
    for name in ("checkpoints/step-40", "model"):
        shutil.rmtree(tmp_path / "read" / name)
    (tmp_path / "read" / "metrics.json").unlink()
    train_lm.run(config(texts, tmp_path / "read", train_file=str(texts / "valid.txt"), **options))
    assert_same(weights(tmp_path / "read"), weights(tmp_path / "written"), atol=0, rtol=0)


def test_adaptive_softmax_and_its_options(texts, tmp_path):
    size = {"cutoffs": [5, 12], "div_val": 2, "pre_norm": True, "clamp_len": 8}
    metrics = train_lm.run(config(texts, tmp_path / "run", size=size | {"attention_dropout": 0.1}))
    assert metrics["valid_loss"] < np.log(20)


def test_a_language_model_becomes_a_classifier(texts, tmp_path, tiny_tokenizer_folder):
    """The vocabulary is a tokenizer, so finetune reads the folder as any other."""
    train_lm.run(config(texts, tmp_path / "run", vocabulary=str(tiny_tokenizer_folder)))
    rng = np.random.default_rng(1)
    for split, rows in (("train", 200), ("dev", 40)):
        lines = ["sentence\tlabel"]
        for _ in range(rows):
            words = rng.choice(["the", "cat", "dog", "film", "was"], size=rng.integers(1, 6))
            label = int(rng.integers(2))
            lines.append(
                f"{' '.join(words)} {('awful', 'great')[label]} .\t{('bad', 'good')[label]}"
            )
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    optimizer = OptimizerConfig(learning_rate=1e-2)
    metrics = finetune.run(
        finetune.Config(
            model=str(tmp_path / "run" / "model"),
            train_file=str(tmp_path / "train.tsv"),
            dev_file=str(tmp_path / "dev.tsv"),
            output_dir=str(tmp_path / "classifier"),
            max_seq_length=16,
            batch_size=16,
            training=TrainingConfig(num_epochs=4, tensorboard=False, optimizer=optimizer),
        )
    )
    assert metrics["accuracy"] >= 0.95
    model = load_classifier(tmp_path / "classifier" / "model")
    assert type(model).__name__ == "TransformerXLForSequenceClassification"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": {"mem_len": -1}}, "mem_len: -1 is negative"),
        ({"evaluation_mem_len": -2}, "mem_len: -2 is negative"),
        ({"size": {"clamp_len": 0}}, "clamp_len: 0"),
        ({"size": {"cutoffs": [12, 5]}}, "5 follows 12"),
        ({"size": {"cutoffs": [5, 5000]}}, "5000 is not below the vocabulary's 18 entries"),
        ({"size": {"div_val": 0}}, "div_val: 0"),
        ({"memory_ablation": [0, -3]}, "mem_len: -3 is negative"),
        ({"size": ABSOLUTE | {"mem_len": 5}}, "mem_len: 5 positions of memory"),
        ({"size": ABSOLUTE, "evaluation_mem_len": 6}, "mem_len: 6 positions of memory"),
        ({"size": ABSOLUTE, "memory_ablation": [0, 7]}, "mem_len: 7 positions of memory"),
        ({"sample_tokens": 0}, "sample_tokens: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        (
            {"batch_size": 2, "training": {"gradient_accumulation_steps": 3}},
            "batch_size: 2 lanes are fewer than the 3 micro-batches",
        ),
        ({"evaluation_segment_length": 0}, "evaluation_segment_length: 0"),
        (
            {"batch_size": 100, "segment_length": 100},
            "train.txt has 4000 tokens, fewer than one batch",
        ),
        ({"vocabulary": "character"}, "'character' is neither .* Did you mean 'characters'"),
    ],
)
def test_options_that_cannot_work_are_named(texts, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train_lm.run(config(texts, tmp_path / "run", **options))
    if "positions of memory" in message:
        assert not (tmp_path / "run").exists()  # known before anything is read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No file .*valid.txt'"),
        (b"", "valid.txt is empty"),
        (b"\n\n\n", "has only empty lines"),
        (b"n1 is\nthe n\xe4me\n", "valid.txt, line 2, byte offset 11: not UTF-8"),
        (b"n1 is\nthe neme\n", "valid.txt, line 2: 'neme'.*Did you mean 'name'"),
    ],
)
def test_text_that_cannot_be_used_is_named(texts, tmp_path, content, message):
    path = tmp_path / "valid.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        train_lm.run(config(texts, tmp_path / "run", valid_file=str(path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [[], ["--shuffle_lanes", "true", "--size.cutoffs", "[5,12]", "--size.div_val", "2"]]
)
def test_two_processes_read_the_stream_of_one(texts, tmp_path, options):
    """Five lanes, so that the processes have different numbers of them; the last is padded."""
    size = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "inner_size": 16, "dropout": 0}
    words = [word for name, value in size.items() for word in (f"--size.{name}", str(value))]
    words += ["--train_file", str(texts / "valid.txt"), "--valid_file", str(texts / "valid.txt")]
    words += ["--batch_size", "5", "--segment_length", "7", "--training.num_epochs", "2"]
    words += ["--training.tensorboard", "false", "--min_frequency", "1", *options]
    words += ["--training.checkpoint_every", "4", "--training.keep_checkpoints", "99"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    launch = {1: [], 2: torchrun}

    def train(processes, name, program="nlpapp"):
        command = [sys.executable, *launch[processes], "-m", program, "train-lm", *words]
        command += ["--output_dir", str(tmp_path / name)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr[:4000]
        return weights(tmp_path / name)

    one = train(1, "1")
    sharded = train(2, "pieces", "tests.recipes.sharded_language_model")
    assert_same(sharded, one, atol=1e-5, rtol=1e-5)
    assert_same(train(2, "2"), one, atol=1e-5, rtol=1e-5)
    for processes in (2, 1):  # from the middle of the first epoch, and of the second
        numbers = sorted(int(p.name[5:]) for p in (tmp_path / "2" / "checkpoints").glob("step-*"))
        forget_after(tmp_path / "2", numbers[len(numbers) * processes // 3 - 1] // 4 * 4)
        assert_same(train(processes, "2"), one, atol=1e-5, rtol=1e-5)
    figures = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in "12"]
    for name in ("valid_loss", "valid_predicted_tokens", "valid_loss_without_memory"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-5)
