from types import SimpleNamespace

import numpy as np
import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification import Examples
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes import distill_models
from nlpapp.recipes.distill import Config
from nlpapp.recipes.distill_models import (
    Reader,
    ask,
    build_objective,
    build_student,
    load_teachers,
)
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from tests.deployment.models import build_model, load_tokenizer

OFF = AugmentationConfig(n_iter=0)
BERT = {"architecture": "bert", "bert": StudentBertConfig(layers=[1])}
TRAIN = Examples(
    texts_a=["the cat", "the dog"], labels=np.array([0, 1]), label_names=("a", "b"), source="s"
)


def test_layers_are_compared_along_the_map():
    options = {"teacher": "teacher", "augmentation": OFF}
    plain = Config(output_dir="run", **options)
    student, teacher = build_model("bert", num_hidden_layers=1), build_model("bert")
    assert build_objective(plain, teacher, student).layers is None
    objective = DistillationConfig(attention_weight=0.5, attention_loss="mse")
    config = Config(output_dir="run", **options, **BERT, objective=objective)
    found = build_objective(config, teacher, student).layers
    assert found.layer_map == [2] and found.attention_weight == 0.5
    assert found.attention_loss == "mse"
    assert student.config._attn_implementation == teacher.config._attn_implementation == "eager"


def test_a_teacher_without_a_mask_token_cannot_read_masked_words(monkeypatch):
    tokenizer = SimpleNamespace(mask_token=None)
    monkeypatch.setattr(distill_models, "load_tokenizer", lambda name: tokenizer)
    sets = ClassificationSets(train=TRAIN, dev={}, test={}, metrics=())
    with pytest.raises(ConfigError, match="of words has no mask token .* augmentation.p_mask 0.1"):
        load_teachers(Config(output_dir="run", tokenizer="words"), sets)


def test_each_teacher_reads_its_own_mask_token(monkeypatch, tmp_path):
    seen = []

    def encode(config, reader, examples):
        seen.append(examples.texts_a)
        return SimpleNamespace(input_ids=[], input_ids_b=None, lengths=[])

    monkeypatch.setattr(distill_models, "encode", encode)
    monkeypatch.setattr(distill_models, "cached_logits", lambda *_, **__: np.zeros((1, 2)))
    readers = [
        Reader(
            model=None, tokenizer=SimpleNamespace(mask_token=mask, pad_token_id=0), outputs=[0, 1]
        )
        for mask in ("[MASK]", "<mask>")
    ]
    transfer = Examples(texts_a=["a [MASK]"], source="s")
    config = Config(output_dir="run", teacher=["one", "two"])
    assert ask(config, readers, transfer, None, tmp_path).shape == (1, 2)
    assert seen == [["a [MASK]"], ["a <mask>"]]


def test_a_vocabulary_of_words_counts_unlabelled_texts_too(tiny_tokenizer_folder, tmp_path):
    (tmp_path / "more.txt").write_text("a bird flew\nbird , cat\n")
    sets = ClassificationSets(train=TRAIN, dev={}, test={}, metrics=())
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    teacher = Reader(model=None, tokenizer=tokenizer, outputs=[0, 1])
    found = []
    for more in (None, str(tmp_path / "more.txt")):
        config = Config(
            output_dir="run",
            teacher="teacher",
            unlabeled_file=more,
            student=BiLstmSizeConfig(embedding_size=4, hidden_size=3, classifier_size=3),
            vocabulary=StudentVocabularyConfig(kind="words"),
        )
        vocabulary = build_student(config, sets, teacher).tokenizer.get_vocab()
        found.append({word for word in vocabulary if word.isalpha()})
    assert found == [{"the"}, {"the", "cat", "bird"}]
