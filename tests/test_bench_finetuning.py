"""The benchmark of fine-tuning compares with what transformers does by itself."""

import argparse
import importlib
import sys

import pytest
import torch
import transformers

from tests.source_files import REPOSITORY

LABELS = ("not_entailment", "entailment")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "ran"]


@pytest.fixture
def folder(tmp_path):
    """A pretrained BERT without a head, and its tokenizer."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def finetuning(monkeypatch):
    """The module as the command loads it: beside the others of its folder."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    yield importlib.import_module("finetuning")
    for name in ("finetuning", "finetuning_figures"):
        sys.modules.pop(name, None)


def replaced(model):
    """Return the layers whose forward is not that of their class."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def compared(finetuning, folder, task_folder, monkeypatch):
    """Return the models that the sides of the speed train, in the order of their making."""
    models = []
    for maker in ("plain_step", "our_step"):
        make = getattr(finetuning, maker)

        def record(model, *arguments, make=make):
            models.append(model)
            return make(model, *arguments)

        monkeypatch.setattr(finetuning, maker, record)
    options = argparse.Namespace(
        model=folder,
        data_dir=task_folder,
        turns=1,
        rows=2,
        batch_size=2,
        tokens_per_batch=None,
        max_seq_length=16,
        rate=0.0,
    )
    finetuning.compare("rte", options)
    return models


def test_only_our_side_has_our_layers_and_all_start_alike(
    finetuning, folder, tmp_path, monkeypatch
):
    rows = ["index\tsentence1\tsentence2\tlabel"]
    rows += [f"{i}\tthe cat sat\tthe cat ran\t{LABELS[i % 2]}" for i in range(4)]
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    padded, dynamic, ours = compared(finetuning, folder, tmp_path, monkeypatch)
    assert replaced(padded) == replaced(dynamic) == [] and "classifier" in replaced(ours)
    for plain in (padded, dynamic):
        assert type(plain) is type(ours) is transformers.BertForSequenceClassification
        assert plain.training and ours.training
        assert plain.config.id2label == ours.config.id2label
        weights = plain.state_dict()
        assert weights.keys() == ours.state_dict().keys()
        # At a rate of 0 the weights are still those of the start.
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=0)


def test_the_plain_side_of_the_figures_is_transformers_alone(
    finetuning, folder, tmp_path, monkeypatch
):
    figures = finetuning.finetuning_figures
    seen = {}

    class Stopped(Exception):
        """Raised where the training would begin."""

    def train(trainer):
        seen["model"] = trainer.model
        raise Stopped

    monkeypatch.setattr(figures, "encoded", lambda *arguments: [])
    monkeypatch.setattr(figures, "read_task", lambda *arguments: None)
    monkeypatch.setattr(transformers.Trainer, "train", train)
    options = argparse.Namespace(model=folder, rate=1e-4, epochs=1, batch_size=2, max_seq_length=16)
    with pytest.raises(Stopped):
        figures.train_plainly(figures.get_task("rte"), tmp_path, 7, tmp_path / "run", options)
    transformers.set_seed(7)
    expected = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=2)
    model = seen["model"]
    assert replaced(model) == []
    assert set(model.config.id2label.values()) == set(LABELS)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
