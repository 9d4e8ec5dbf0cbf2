import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from nlpapp.errors import DataError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.multitask import MultiTaskClassifier
from nlpapp.models.pretrained import save_model_folder
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.objectives.multitask import MultiTaskObjective
from nlpapp.recipes import evaluate, multitask
from nlpapp.recipes.multitask_tasks import TaskConfig
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.deployment.models import build_model, load_tokenizer

THINGS = ["film", "cat", "dog", "bird", "river", "hill", "mat"]
MOODS = {"good": "good", "great": "good", "bad": "bad", "awful": "bad"}
TINY = BertSizeConfig(
    num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0.1
)
SMALL = BiLstmSizeConfig(
    embedding_size=16, hidden_size=12, classifier_size=12, dropout=0.0, pooling="max"
)


def write_rows(path, header, rows):
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    return str(path)


@pytest.fixture
def tasks(tmp_path):
    """Of single texts with two classes, and of pairs with scores."""
    rng = np.random.default_rng(0)
    moods = [
        (f"{opening} {thing} was {word} .", label)
        for opening in ("the", "a", "on the")
        for thing in THINGS
        for word, label in MOODS.items()
    ]
    moods = [moods[index] for index in rng.permutation(len(moods))]
    pairs = [
        (f"the {one} was {first}", f"a {first if alike else second}", "1" if alike else "0")
        for one in THINGS
        for first, second in (("good", "bad"), ("bad", "good"), ("great", "awful"))
        for alike in (True, False)
    ]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    single, pair = ("sentence", "label"), ("sentence1", "sentence2", "label")
    return [
        TaskConfig(
            name="mood",
            train_file=write_rows(tmp_path / "mood.tsv", single, moods[20:]),
            dev_file=write_rows(tmp_path / "mood-dev.tsv", single, moods[:20]),
            test_file=write_rows(
                tmp_path / "mood-test.tsv", single[:1], [row[:1] for row in moods]
            ),
        ),
        TaskConfig(
            name="alike",
            train_file=write_rows(tmp_path / "alike.tsv", pair, pairs[10:]),
            dev_file=write_rows(tmp_path / "alike-dev.tsv", pair, pairs[:10]),
            regression=True,
        ),
    ]


@pytest.fixture
def taught(tasks, tiny_tokenizer_folder, tmp_path):
    """The tasks with a teacher each; the first has its classes in another order than the data."""
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    found = []
    for task, labels in zip(tasks, ({0: "good", 1: "bad"}, {0: "score"}), strict=True):
        folder = tmp_path / f"teacher-{task.name}"
        save_model_folder(build_model("bert", labels=labels), folder, tokenizer=tokenizer)
        found.append(TaskConfig(**vars(task) | {"teacher": str(folder)}))
    return found


@pytest.fixture
def config_for(tiny_tokenizer_folder, tmp_path):
    def build(tasks, run="run", steps=6, rate=1e-3, **options):
        given = {
            "output_dir": str(tmp_path / run),
            "tasks": tasks,
            "tokenizer": str(tiny_tokenizer_folder),
            "size": TINY,
            "max_seq_length": 24,
            "batch_size": 16,
            "training": TrainingConfig(
                max_steps=steps,
                tensorboard=False,
                log_every=1,
                optimizer=OptimizerConfig(learning_rate=rate),
            ),
        }
        return multitask.Config(**given | options)

    return build


@pytest.fixture
def no_pages(monkeypatch):
    """Leave pictures and pages out, which take longer than all the rest."""
    monkeypatch.setattr(multitask, "plot_curves", None)
    monkeypatch.setattr(multitask, "report", lambda *_: None)
    monkeypatch.setattr("nlpapp.training.callbacks.Curves._draw", lambda *_: None)


def losses_of(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in lines if record["split"] == "train"]


def test_one_encoder_learns_two_tasks_and_leaves_a_model_for_each(tasks, config_for, tmp_path):
    run = tmp_path / "run"
    options = {"architecture": "bilstm", "bilstm": SMALL, "size": BertSizeConfig()}
    config = config_for(tasks, steps=60, rate=1e-2, **options)
    metrics = multitask.run(config)
    assert metrics["mood_accuracy"] > 0.9 and metrics["alike_pearson"] > 0.7
    assert metrics["mean_score"] == (metrics["mood_accuracy"] + metrics["alike_pearson"]) / 2
    assert metrics["mood_accuracy_low"] <= metrics["mood_accuracy"]
    assert multitask.run(config) == metrics
    shared = MultiTaskClassifier.from_pretrained(run / "model")
    assert shared.task_names == ("mood", "alike")
    assert metrics["parameters"] == shared.num_parameters()
    for name, first in (("mood", "accuracy"), ("alike", "pearson")):
        folder = run / "tasks" / name
        alone = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        assert alone.config.siamese == (name == "alike")  # a BiLSTM reads pairs apart
        for weight, other in zip(
            alone.base_model.parameters(), shared.encoder.parameters(), strict=True
        ):
            assert torch.equal(weight, other)
        # What evaluate finds of the plain folder is what the run has told.
        found = evaluate.run(
            evaluate.Config(
                model=str(folder / "model"),
                file=str(tmp_path / f"{name}-dev.tsv"),
                output_dir=str(tmp_path / f"evaluate-{name}"),
                max_seq_length=24,
            )
        )
        assert found[first] == pytest.approx(metrics[f"{name}_{first}"], abs=1e-6)
    assert len((run / "tasks/mood/predictions-test.tsv").read_text().splitlines()) == 1 + 84
    assert {"report.html", "plots", "metrics.json"} <= {path.name for path in run.iterdir()}
    assert not list(run.glob("**/*.partial"))


def test_the_best_weights_are_those_of_the_best_mean(tasks, config_for, tmp_path, no_pages):
    training = TrainingConfig(
        max_steps=8,
        evaluate_every=2,
        tensorboard=False,
        optimizer=OptimizerConfig(learning_rate=3e-2),
    )
    metrics = multitask.run(config_for(tasks, training=training))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    found = {r["step"]: r["mean_score"] for r in lines if r["split"] == "evaluation"}
    assert len(found) == 4
    assert metrics["mean_score"] == max(found.values()) == found[int(metrics["best_step"])]
    assert metrics["mean_score"] == (metrics["mood_accuracy"] + metrics["alike_pearson"]) / 2


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    taught, config_for, tmp_path, monkeypatch, no_pages
):
    training = TrainingConfig(
        max_steps=12, checkpoint_every=3, tensorboard=False, log_every=1, keep_checkpoints=5
    )
    options = {"size_exponent": 0.5, "training": training}
    multitask.run(config_for(taught, "whole", **options))
    plain, calls = MultiTaskObjective.__call__, []

    def fail_in_the_tenth_step(self, *arguments):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskObjective, "__call__", fail_in_the_tenth_step)
        with pytest.raises(KeyboardInterrupt):
            multitask.run(config_for(taught, "parts", **options))
    asked = []
    monkeypatch.setattr("nlpapp.training.teacher_logits._compute", lambda *_, **__: asked.append(1))
    multitask.run(config_for(taught, "parts", **options))
    assert not asked  # the teachers' logits were kept
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert len(losses_of(tmp_path / "whole")) == 12
    first, second = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_labels_count_for_nothing_where_the_teachers_alone_teach(
    taught, config_for, tmp_path, no_pages
):
    alone = {"objective": DistillationConfig(teacher_loss="kl", alpha=0.0)}
    metrics = multitask.run(config_for(taught, "first", **alone))
    assert {"mood_agreement", "mood_teacher_f1", "alike_teacher_pearson"} <= metrics.keys()
    for task, old, new in ((taught[0], "good", "bad"), (taught[1], "1", "7")):
        path = Path(task.train_file)
        header, *rows = path.read_text().splitlines()
        swapped = [  # the first half of the rows gets other labels
            row.rpartition("\t")[0] + "\t" + new if number < len(rows) // 2 else row
            for number, row in enumerate(rows)
        ]
        assert swapped != rows and old in rows[-1] + rows[-2] + rows[-3] + rows[-4]
        path.write_text("\n".join([header, *swapped]) + "\n")
    multitask.run(config_for(taught, "second", **alone))
    assert losses_of(tmp_path / "first") == losses_of(tmp_path / "second")
    multitask.run(config_for(taught, "third"))  # half-way to the labels
    assert losses_of(tmp_path / "third")[:2] != losses_of(tmp_path / "first")[:2]


def test_a_bad_row_of_one_task_stops_before_anything_is_trained(tasks, config_for, tmp_path):
    with open(tasks[1].train_file, "a") as file:
        file.write("the cat\ta dog\tmany\n")
    with pytest.raises(DataError, match="alike.tsv.*'many'"):
        multitask.run(config_for(tasks))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
