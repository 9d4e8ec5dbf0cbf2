from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nlpapp.data.classification import Examples, encode_for
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.multitask import Config
from nlpapp.recipes.multitask_models import (
    ask_teacher,
    build_model,
    build_objective,
    predict,
)
from nlpapp.recipes.multitask_tasks import Task, TaskConfig
from tests.deployment.models import build_model as build_classifier
from tests.deployment.models import load_tokenizer

TEXTS = ["the cat sat", "a bad film .", "the dog ran on the hill", "good", "a great bird flew over"]
TINY = BertSizeConfig(
    num_layers=1, hidden_size=16, num_heads=2, max_position_embeddings=32, dropout=0.0
)


def task_of(name, labels, names, *, pairs=False, teacher=None):
    """A task whose train and dev sets are the same five rows."""
    texts_b = TEXTS[::-1] if pairs else None
    rows = Examples(
        texts_a=TEXTS, texts_b=texts_b, labels=np.array(labels), label_names=names, source=name
    )
    sets = ClassificationSets(train=rows, dev={"dev": rows}, test={}, metrics=("accuracy",))
    options = TaskConfig(name=name, train_file=name, teacher=teacher)
    return Task(name=name, options=options, sets=sets)


def words(**options):
    return task_of("words", [0, 1, 0, 2, 2], ("bad", "fine", "good"), **options)


def scores(**options):
    return task_of("scores", np.float32([0.5, 1, 0, 2, 3]), (), pairs=True, **options)


@pytest.fixture
def config(tiny_tokenizer_folder):
    return Config(
        output_dir="run",
        tasks=[TaskConfig(name=name, train_file=name, teacher="t") for name in ("a", "b")],
        tokenizer=str(tiny_tokenizer_folder),
        size=TINY,
        max_seq_length=24,
        evaluation_batch_size=2,
    )


def test_the_tasks_of_a_model_answer_in_the_order_of_the_rows(config):
    tokenizer, model = build_model(config, [words(), scores()])
    assert model.task_names == ("words", "scores")
    for task in (words(), scores()):
        read = encode_for(model.classifier(task.name), tokenizer, task.dev, max_seq_length=24)
        found = predict(config, model, task.name, read, tokenizer.pad_token_id)
        assert found.shape == (5, task.dev.num_labels)
        for row in range(5):
            one = {
                "input_ids": torch.tensor(read.input_ids[row])[None].long(),
                "token_type_ids": torch.tensor(read.token_type_ids[row])[None].long(),
            }
            expected = forward_logits(model.classifier(task.name).eval(), one)
            np.testing.assert_allclose(found[row], expected[0].detach(), atol=1e-5)


def test_a_bilstm_takes_pairs_apart(config):
    options = vars(config) | {"architecture": "bilstm", "size": BertSizeConfig()}
    size = BiLstmSizeConfig(embedding_size=8, hidden_size=4, classifier_size=6)
    config = Config(**options | {"bilstm": size})
    tokenizer, model = build_model(config, [words(), scores()])
    assert model.classifier("scores").encoder is model.classifier("words").encoder
    read = encode_for(model.classifier("scores"), tokenizer, scores().dev, max_seq_length=24)
    assert read.input_ids_b is not None
    found = predict(config, model, "scores", read, tokenizer.pad_token_id)
    assert found.shape == (5, 1) and np.unique(found).size == 5


def test_sequences_beyond_the_models_positions_are_refused(config):
    long = Config(**vars(config) | {"max_seq_length": 33})
    with pytest.raises(ConfigError, match="max_seq_length 33 is over the model's 32 positions"):
        build_model(long, [words(), scores()])


def test_each_task_learns_as_it_can():
    options = DistillationConfig(teacher_loss="kl", temperature=2.0, final_alpha=1.0)
    tasks = [words(teacher="t"), scores(teacher="t"), task_of("own", [0, 1, 0, 1, 1], ("a", "b"))]
    found = build_objective(SimpleNamespace(objective=options), tasks)
    assert found.names == ["words", "scores", "own"]
    told = [(one.teacher_loss, one.alpha, one.final_alpha) for one in found.objectives]
    assert told == [("kl", 0.0, 1.0), ("mse", 0.0, 1.0), ("kl", 1.0, None)]


def test_a_teachers_classes_are_put_in_the_datas_order(config, tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    teacher = build_classifier("bert", labels={0: "good", 1: "bad", 2: "fine"})
    save_model_folder(teacher, tmp_path / "teacher", tokenizer=tokenizer)
    task = words(teacher=str(tmp_path / "teacher"))
    found = ask_teacher(config, task, tmp_path)
    read = encode_for(teacher, tokenizer, task.dev, max_seq_length=24)
    one = {
        "input_ids": torch.tensor(read.input_ids[4])[None].long(),
        "token_type_ids": torch.tensor(read.token_type_ids[4])[None].long(),
    }
    expected = forward_logits(teacher, one)[0].detach().numpy()[[1, 2, 0]]
    for split in ("train", "dev"):
        np.testing.assert_allclose(found[split][4], expected, rtol=1e-4)
    kept = np.load(tmp_path / "teacher-logits.npy")
    np.testing.assert_array_equal(found["train"], kept[:, [1, 2, 0]])


def test_a_teacher_of_other_classes_is_refused_by_task(config, tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    save_model_folder(
        build_classifier("bert", labels={0: "spam", 1: "ham"}), tmp_path / "t", tokenizer=tokenizer
    )
    for task in (words(teacher=str(tmp_path / "t")), scores(teacher=str(tmp_path / "t"))):
        with pytest.raises(ConfigError, match=f"teacher of {task.name}, .*classes are spam, ham"):
            ask_teacher(config, task, tmp_path)
