from types import SimpleNamespace

import numpy as np
import pytest

from nlpapp.data.classification import Examples
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.errors import ConfigError
from nlpapp.models.teacher import Reader
from nlpapp.recipes import distill_teachers
from nlpapp.recipes.distill import Config
from nlpapp.recipes.distill_teachers import ask, load_teachers

TRAIN = Examples(
    texts_a=["the cat", "the dog"], labels=np.array([0, 1]), label_names=("a", "b"), source="s"
)


def test_a_teacher_without_a_mask_token_cannot_read_masked_words(monkeypatch):
    tokenizer = SimpleNamespace(mask_token=None)
    monkeypatch.setattr(distill_teachers, "load_tokenizer", lambda name: tokenizer)
    sets = ClassificationSets(train=TRAIN, dev={}, test={}, metrics=())
    with pytest.raises(ConfigError, match="of words has no mask token .* augmentation.p_mask 0.1"):
        load_teachers(Config(output_dir="run", tokenizer="words"), sets)


def test_each_teacher_reads_its_own_mask_token(monkeypatch, tmp_path):
    seen = []

    def encode(config, reader, examples):
        seen.append(examples.texts_a)
        return SimpleNamespace(input_ids=[], input_ids_b=None, lengths=[])

    monkeypatch.setattr(distill_teachers, "encode", encode)
    monkeypatch.setattr(distill_teachers, "cached_logits", lambda *_, **__: np.zeros((1, 2)))
    readers = [
        Reader(
            model=None, tokenizer=SimpleNamespace(mask_token=mask, pad_token_id=0), outputs=[0, 1]
        )
        for mask in ("[MASK]", "<mask>")
    ]
    transfer = Examples(texts_a=["a [MASK]"], source="s")
    config = Config(output_dir="run", teacher=["one", "two"], teacher_logits=str(tmp_path))
    assert ask(config, readers, transfer, None, "logits").shape == (1, 2)
    assert seen == [["a [MASK]"], ["a <mask>"]]
