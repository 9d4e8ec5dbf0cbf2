import gzip
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nlpapp.errors import ConfigError, DataError
from nlpapp.recipes.train_tokenizer import Config, run
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from tests.conftest import REPOSITORY

CORPUS = str(REPOSITORY / "data" / "sample" / "corpus.txt")


def config(folder, **options):
    return Config(**({"inputs": [CORPUS], "output_dir": str(folder), "vocab_size": 600} | options))


def test_the_folder_loads_and_the_figures_are_left(tmp_path):
    metrics = run(config(tmp_path / "out"))
    assert metrics["vocab_size"] == 600 and metrics["unknown_rate"] == 0.0
    assert 1.0 < metrics["tokens_per_word"] < 3.0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert len(tokenizer) == 600
    # The run's folder may be given where a tokenizer is wanted.
    assert fingerprint(load_tokenizer(tmp_path / "out")) == fingerprint(tokenizer)


def test_the_figures_tell_the_special_tokens_and_the_text(tmp_path, caplog):
    caplog.set_level("INFO", logger="nlpapp")
    metrics = run(config(tmp_path / "out"))
    names = ("pad", "unk", "cls", "sep", "mask")
    assert [metrics[f"{name}_token_id"] for name in names] == [0, 1, 2, 3, 4]
    assert metrics["long_words"] == 0 and 0.5 < metrics["vocabulary_used"] <= 1.0
    assert "[PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4" in caplog.text
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.mark.parametrize("form", ["auto", "jsonl"])
def test_rows_of_text_train_the_same_tokenizer_as_lines(tmp_path, form):
    sentences = Path(CORPUS).read_text(encoding="utf-8").split("\n")
    rows = tmp_path / "rows.jsonl.gz"
    with gzip.open(rows, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": "x", "body": text}) + "\n" for text in sentences)
    options = {"inputs": [str(rows)], "input_format": form, "text_column": "body"}
    run(config(tmp_path / "rows", **options))
    run(config(tmp_path / "lines"))
    prints = [fingerprint(load_tokenizer(tmp_path / name)) for name in ("rows", "lines")]
    assert prints[0] == prints[1]
    with pytest.raises(DataError, match="Did you mean 'body'"):
        run(config(tmp_path / "bad", **(options | {"text_column": "bdy"})))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = run(config(tmp_path / "out"))
    monkeypatch.setattr("nlpapp.recipes.train_tokenizer.train_wordpiece", None)
    assert run(config(tmp_path / "out")) == first


def test_a_sample_of_the_documents_is_drawn_by_the_seed(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        run(config(folder, max_bytes=20_000, vocab_size=300, seed=seed))
    prints = [fingerprint(load_tokenizer(folder)) for folder in folders]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("option", [{"vocab_size": 5}, {"min_frequency": 0}, {"max_bytes": 0}])
def test_bad_options_are_named(tmp_path, option):
    (name,) = option
    with pytest.raises(ConfigError, match=name):
        config(tmp_path, **option)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"corpos\.txt"):
        run(config(tmp_path / "out", inputs=[CORPUS.replace("corpus", "corpos")]))
