import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification_sets import sets_of
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import BiLstmForSequenceClassification, BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.pruning import PruningConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.models.text_cnn import TextCnnSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes import distill, distill_teachers, finetune
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from nlpapp.text.wordpiece import fingerprint
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from tests.deployment.models import build_model, load_tokenizer

OFF = AugmentationConfig(n_iter=0)
THINGS = ["film", "cat", "dog", "bird", "river", "hill", "mat"]
SMALL = BiLstmSizeConfig(embedding_size=16, hidden_size=12, classifier_size=12, dropout=0.0)


def write_rows(path, header, rows):
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    words = {"good": "good", "great": "good", "bad": "bad", "awful": "bad"}
    rows = [
        (f"{opening} {thing} was {word} {end}".strip(), label)
        for opening in ("the", "a", "on the")
        for thing in THINGS
        for end in ("", ".", ", and ran")
        for word, label in words.items()
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    rows = [rows[index] for index in order]
    header = ("sentence", "label")
    return {
        "train_file": write_rows(tmp_path / "train.tsv", header, rows[60:]),
        "dev_file": write_rows(tmp_path / "dev.tsv", header, rows[:30]),
        "test_file": write_rows(tmp_path / "test.tsv", header, rows[30:60]),
    }


@pytest.fixture
def teacher(tiny_tokenizer_folder, tmp_path):
    """A classifier that knows the task, with its classes in another order than the data's."""
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bilstm", labels={0: "good", 1: "bad"}, pooling="mean")
    words = {
        word: tokenizer.convert_tokens_to_ids(word) for word in ("good", "great", "bad", "awful")
    }
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        ids = torch.randint(5, 40, (32, 6))
        names = [list(words)[index] for index in torch.randint(0, 4, (32,))]
        known = torch.tensor(list(words.values()))
        ids[torch.isin(ids, known)] = 6
        ids[torch.arange(32), torch.randint(0, 6, (32,))] = torch.tensor([words[n] for n in names])
        labels = torch.tensor([0 if name in ("good", "great") else 1 for name in names])
        loss = model(ids, torch.ones_like(ids), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    digest = fingerprint(tokenizer)
    save_model_folder(model, tmp_path / "teacher", tokenizer=tokenizer, fingerprint=digest)
    return str(tmp_path / "teacher")


def config_for(tmp_path, files, name="run", **options):
    training = TrainingConfig(
        num_epochs=12, tensorboard=False, optimizer=OptimizerConfig(learning_rate=0.01)
    )
    defaults = {"student": SMALL, "augmentation": OFF, "max_seq_length": 24, "batch_size": 32}
    return distill.Config(
        output_dir=str(tmp_path / name), **(files | defaults | {"training": training} | options)
    )


def test_a_student_learns_from_its_teacher_and_is_compared_with_it(files, teacher, tmp_path):
    config = config_for(tmp_path, files, teacher=teacher, augmentation=AugmentationConfig(n_iter=2))
    metrics = distill.run(config)
    # The teacher has the classes in another order: were they taken by position, both would fail.
    assert metrics["teacher_accuracy"] > 0.9 and metrics["test_teacher_accuracy"] > 0.9
    assert metrics["accuracy"] > 0.9 and metrics["test_accuracy"] > 0.8
    assert metrics["retained"] == pytest.approx(metrics["accuracy"] / metrics["teacher_accuracy"])
    assert metrics["agreement"] > 0.8
    assert metrics["transfer_rows"] > 252 - 60
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert isinstance(model, BiLstmForSequenceClassification)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert len(model.config.tokenizer_fingerprint) == 64
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"report.html", "predictions-dev.tsv", "predictions-test.tsv", "metrics.json"} <= left
    assert "BiLSTM" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert distill.run(config) == metrics


@pytest.mark.parametrize("kind", ["teacher", "words"])
def test_empty_texts_are_named_and_nothing_is_made_of_them(files, teacher, tmp_path, caplog, kind):
    train = tmp_path / "holes.tsv"
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    train.write_text("\n".join([lines[0], " \tgood", *lines[1:], "\tbad"]) + "\n")
    config = config_for(
        tmp_path,
        files | {"train_file": str(train)},
        teacher=teacher,
        augmentation=AugmentationConfig(n_iter=1, p_mask=1, p_ng=0),
        vocabulary=StudentVocabularyConfig(kind=kind),
        training=TrainingConfig(max_steps=8, tensorboard=False),
    )
    metrics = distill.run(config)
    assert "holes.tsv: 2 of 194 rows have an empty text (lines 2, 195)" in caplog.text
    # Texts of masks differ by their number of words alone, and none has no word.
    words = {len(line.split("\t")[0].split()) for line in lines[1:]}
    assert metrics["transfer_rows"] == 194 + len(words)
    assert np.isfinite(metrics["loss"])


def without_an_answer(monkeypatch):
    """Let every teacher that is loaded from now on refuse to answer."""
    load_teacher = distill_teachers.load_teacher

    def asked(*arguments, **options):
        raise AssertionError("the teacher was asked")

    def load(*arguments, **options):
        model, outputs = load_teacher(*arguments, **options)
        model.forward = asked
        return model, outputs

    monkeypatch.setattr(distill_teachers, "load_teacher", load)


def test_the_teachers_logits_are_kept_for_the_next_start(files, teacher, tmp_path, monkeypatch):
    options = {"teacher": teacher, "training": TrainingConfig(max_steps=2, tensorboard=False)}
    distill.run(config_for(tmp_path, files, **options))
    rows = np.load(tmp_path / "run" / "teacher-logits-part-1.npy")
    assert rows.shape == (252 - 60, 2)
    (tmp_path / "run" / "metrics.json").unlink()
    without_an_answer(monkeypatch)
    distill.run(config_for(tmp_path, files, **options))
    with pytest.raises(AssertionError, match="the teacher was asked"):
        distill.run(config_for(tmp_path / "other", files, **options))


def test_runs_share_the_teachers_logits_in_a_folder(files, teacher, tmp_path, monkeypatch):
    options = {"teacher": teacher, "training": TrainingConfig(max_steps=2, tensorboard=False)}
    options["teacher_logits"] = str(tmp_path / "logits")
    first = distill.run(config_for(tmp_path / "a", files, **options))
    without_an_answer(monkeypatch)
    second = distill.run(config_for(tmp_path / "b", files, batch_size=8, **options))
    assert first["teacher_accuracy"] == second["teacher_accuracy"]


def test_the_logits_of_a_file_are_shared_by_sets_that_have_others(
    files, teacher, tmp_path, monkeypatch
):
    options = {"teacher": teacher, "training": TrainingConfig(max_steps=2, tensorboard=False)}
    options["teacher_logits"] = str(tmp_path / "logits")
    more = []
    for name in ("cats", "dogs"):
        (tmp_path / f"{name}.txt").write_text(f"good {name}\nbad {name}\n")
        more.append(str(tmp_path / f"{name}.txt"))
        first = distill.run(config_for(tmp_path / name, files, unlabeled_file=more[-1], **options))
    without_an_answer(monkeypatch)
    both = distill.run(config_for(tmp_path / "both", files, unlabeled_file=more, **options))
    assert both["transfer_rows"] == first["transfer_rows"] + 2 == 252 - 60 + 4


def test_alpha_1_learns_labels_without_asking_a_teacher(files, tiny_tokenizer_folder, tmp_path):
    config = config_for(
        tmp_path,
        files,
        tokenizer=str(tiny_tokenizer_folder),
        objective=DistillationConfig(alpha=1.0),
    )
    metrics = distill.run(config)
    assert metrics["accuracy"] > 0.9
    # What pruning would have made smaller.
    assert metrics["nonzero_parameters"] > 0.9 * metrics["parameters"]
    assert metrics["compressed_bytes"] > 3 * metrics["parameters"]
    assert "teacher_accuracy" not in metrics and "agreement" not in metrics
    assert not list((tmp_path / "run").glob("teacher-logits*"))


def test_alpha_1_with_texts_that_have_no_labels_is_refused(files, tmp_path):
    options = {"objective": DistillationConfig(alpha=1.0)}
    for extra in ({"augmentation": AugmentationConfig()}, {"unlabeled_file": "more.txt"}):
        with pytest.raises(ConfigError, match="labels alone"):
            config_for(tmp_path, files, **options, **extra)


def test_pairs_train_a_siamese_student_of_a_joint_teacher(tiny_tokenizer_folder, tmp_path):
    rows = [
        (f"the {first}", f"a {second}", "yes" if first == second else "no")
        for first in THINGS
        for second in THINGS
    ]
    header = ("sentence1", "sentence2", "label")
    files = {
        "train_file": write_rows(tmp_path / "train.tsv", header, rows),
        "dev_file": write_rows(tmp_path / "dev.tsv", header, rows[:20]),
    }
    (tmp_path / "more.txt").write_text("the cat\ta dog\n")
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bert", labels={0: "no", 1: "yes"})
    save_model_folder(model, tmp_path / "teacher", tokenizer=tokenizer)
    config = config_for(
        tmp_path,
        files,
        teacher=str(tmp_path / "teacher"),
        unlabeled_file=str(tmp_path / "more.txt"),
        training=TrainingConfig(max_steps=3, tensorboard=False),
    )
    metrics = distill.run(config)
    assert metrics["transfer_rows"] == 50
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["siamese"] is True


def test_a_teacher_of_other_classes_is_refused(files, tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bilstm", labels={0: "spam", 1: "ham"})
    save_model_folder(model, tmp_path / "teacher", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="spam, ham; the data's are bad, good"):
        distill.run(config_for(tmp_path, files, teacher=str(tmp_path / "teacher")))


def test_a_student_can_start_from_the_teachers_embeddings(files, teacher, tmp_path):
    training = TrainingConfig(
        max_steps=1, tensorboard=False, optimizer=OptimizerConfig(learning_rate=0.0)
    )
    weights = []
    for start in ("random", "teacher"):
        run = f"from-{start}"
        config = config_for(
            tmp_path, files, run, teacher=teacher, embeddings=start, training=training
        )
        distill.run(config)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / run / "model")
        weights.append(model.get_input_embeddings().weight.detach()[1:, :12])
    source = AutoModelForSequenceClassification.from_pretrained(teacher)
    rows = len(weights[0]) + 1  # the teacher has a few more than the tokenizer needs
    expected = torch.pdist(source.get_input_embeddings().weight.detach()[1:rows])
    spread = [(torch.pdist(rows) / expected) for rows in weights]
    assert spread[1].std() < 1e-3 < spread[0].std()


def test_scores_and_missing_teacher_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="give --teacher"):
        distill.run(config_for(tmp_path, files))


def test_a_text_cnn_of_words_learns_from_two_teachers(files, teacher, tmp_path):
    config = config_for(
        tmp_path,
        files,
        teacher=[teacher, teacher],
        architecture="text_cnn",
        student=BiLstmSizeConfig(),
        text_cnn=TextCnnSizeConfig(embedding_size=16, filters=8, filter_widths=[1, 2], dropout=0.0),
        vocabulary=StudentVocabularyConfig(kind="words"),
        objective=DistillationConfig(final_alpha=1.0),
    )
    metrics = distill.run(config)
    assert metrics["accuracy"] > 0.9 and metrics["teacher_accuracy"] > 0.9
    first, second = (
        np.load(tmp_path / "run" / f"teacher-logits-part-1{end}.npy") for end in ("", "-2")
    )
    np.testing.assert_array_equal(first, second)
    model = tmp_path / "run" / "model"
    words = AutoTokenizer.from_pretrained(model)
    assert metrics["vocabulary_size"] == len(words) < 30
    assert words("good film")["input_ids"] == [words.get_vocab()[w] for w in ("good", "film")]
    assert json.loads((model / "config.json").read_text())["model_type"] == "text_cnn"
    assert "TextCNN" in (model / "README.md").read_text()


@pytest.mark.parametrize("vocabulary", ["teacher", "pruned"])
def test_a_bert_student_learns_from_its_teachers_layers(
    files, tiny_tokenizer_folder, tmp_path, vocabulary
):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bert", labels={0: "good", 1: "bad"})
    save_model_folder(model, tmp_path / "teacher", tokenizer=tokenizer)
    config = config_for(
        tmp_path,
        files,
        teacher=str(tmp_path / "teacher"),
        architecture="bert",
        student=BiLstmSizeConfig(),
        bert=StudentBertConfig(layers=[1]),
        vocabulary=StudentVocabularyConfig(kind=vocabulary),
        objective=DistillationConfig(hidden_weight=1.0, attention_weight=1.0),
        training=TrainingConfig(
            max_steps=24,
            tensorboard=False,
            log_every=1,
            optimizer=OptimizerConfig(learning_rate=3e-3),
        ),
    )
    metrics = distill.run(config)
    assert metrics["parameters"] < metrics["teacher_parameters"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if r["split"] == "train"]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert student.config.num_hidden_layers == 1 and student.config.id2label[0] == "bad"
    known = len(AutoTokenizer.from_pretrained(tmp_path / "run" / "model"))
    assert known == metrics["vocabulary_size"] <= student.config.vocab_size
    assert (known < len(tokenizer)) == (vocabulary == "pruned")


def test_scores_of_pairs_are_distilled(tiny_tokenizer_folder, tmp_path):
    rows = [
        (f"the {first}", f"a {second}", "4.5" if first == second else "0.5")
        for first in THINGS
        for second in THINGS
    ]
    header = ("sentence1", "sentence2", "label")
    files = {
        "train_file": write_rows(tmp_path / "train.tsv", header, rows),
        "dev_file": write_rows(tmp_path / "dev.tsv", header, rows[:20]),
        "regression": True,
    }
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    save_model_folder(
        build_model("bert", labels={0: "score"}), tmp_path / "teacher", tokenizer=tokenizer
    )
    options = {"teacher": str(tmp_path / "teacher"), "augmentation": AugmentationConfig(n_iter=1)}
    training = TrainingConfig(max_steps=3, tensorboard=False)
    config = config_for(
        tmp_path, files, objective=DistillationConfig(alpha=0.5), training=training, **options
    )
    metrics = distill.run(config)
    assert metrics["transfer_rows"] > len(rows)
    assert np.isfinite(metrics["loss"]) and "teacher_pearson" in metrics
    assert "agreement" not in metrics
    for objective, message in (
        (DistillationConfig(teacher_loss="kl"), "scores, which have no kl"),
        (DistillationConfig(alpha=0.5, label_smoothing=0.1), "leave objective.label_smoothing out"),
    ):
        with pytest.raises(ConfigError, match=message):
            distill.run(config_for(tmp_path, files, "other", objective=objective, **options))


def test_a_pruned_student_is_trained_on_and_keeps_its_zeros(files, teacher, tmp_path):
    config = config_for(
        tmp_path, files, teacher=teacher, pruning=PruningConfig(sparsity=0.6, max_steps=20)
    )
    metrics = distill.run(config)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    weights = list(student.parameters())
    for weight in weights:
        if weight.dim() > 1:
            assert (weight == 0).sum() == round(0.6 * weight.numel())
    left = sum(int(weight.count_nonzero()) for weight in weights)
    assert metrics["nonzero_parameters"] == left < 0.5 * metrics["parameters"]
    assert metrics["accuracy"] > 0.9 and metrics["accuracy_before_pruning"] > 0.9
    assert (tmp_path / "run" / "pruned" / "metrics.jsonl").is_file()
    # Interrupted after the training: the same zeros, and the steps after them are not repeated.
    (tmp_path / "run" / "metrics.json").unlink()
    again = distill.run(config)
    timed = {"seconds", "tokens_per_second"}
    assert {k: x for k, x in again.items() if k not in timed} == {
        k: x for k, x in metrics.items() if k not in timed
    }


def test_dev_rows_taken_from_train_do_not_depend_on_the_seed_or_the_command(files):
    found = []
    for config in (
        finetune.Config(output_dir="a", seed=1, train_file=files["train_file"]),
        distill.Config(output_dir="b", seed=2, teacher="t", train_file=files["train_file"]),
        distill.Config(output_dir="c", seed=3, teacher="t", train_file=files["train_file"]),
    ):
        found.append(sets_of(config).dev["dev"].texts_a)
    assert found[0] == found[1] == found[2]
    for command in (finetune, distill):
        given = {"teacher": "t"} if command is distill else {}
        other = command.Config(
            output_dir="a", split_seed=1, train_file=files["train_file"], **given
        )
        assert sets_of(other).dev["dev"].texts_a != found[0]


def test_what_is_evaluated_is_the_model_that_the_training_hands_over(
    files, teacher, tmp_path, monkeypatch
):
    class Stop(Exception):
        pass

    def fit(*, model, evaluate, **_):
        # Sharded and wrapped models are other objects than the one that was built.
        other = copy.deepcopy(model)
        for parameter in other.classifier.parameters():
            torch.nn.init.zeros_(parameter)
        raise Stop(evaluate(other)["loss"])

    monkeypatch.setattr(distill, "fit", fit)
    with pytest.raises(Stop) as stopped:
        distill.run(config_for(tmp_path, files, teacher=teacher))
    assert stopped.value.args == (pytest.approx(np.log(2)),)
