import json

import pytest

from nlpapp.data.pretraining_shards import PretrainingData
from nlpapp.errors import ConfigError, DataError
from nlpapp.recipes.make_data import Config, run, summary
from tests.conftest import REPOSITORY

SAMPLE = REPOSITORY / "data" / "sample"


def config(folder, **options):
    return Config(
        **(
            {
                "inputs": [str(SAMPLE / "corpus.txt")],
                "tokenizer": str(SAMPLE / "tokenizer"),
                "output_dir": str(folder),
                "max_seq_length": 32,
                "dupe_factor": 1,
            }
            | options
        )
    )


def test_data_and_figures_are_left(tmp_path):
    metrics = run(config(tmp_path / "out"))
    data = PretrainingData.open(tmp_path / "out")
    assert metrics["instances"] == len(data) and metrics["documents"] == 144
    assert metrics["next_sentence_random_share"] == pytest.approx(0.5, abs=0.02)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert (tmp_path / "out" / "config.yaml").is_file()
    text = summary(data.manifest)
    assert "144 documents, 1,211 sentences" in text and "random" in text and "masked:" in text


def test_a_finished_run_is_kept_and_a_damaged_one_repaired(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    first = run(config(folder))
    with monkeypatch.context() as patch:
        patch.setattr("nlpapp.recipes.make_data.write_pretraining_data", None)
        assert run(config(folder)) == first
    (shard,) = folder.glob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    run(config(folder))
    assert shard.read_bytes() == whole


def test_another_configuration_is_refused(tmp_path):
    run(config(tmp_path / "out"))
    with pytest.raises(ConfigError, match="max_seq_length"):
        run(config(tmp_path / "out", max_seq_length=64))


def test_dynamic_data_without_pairs(tmp_path):
    run(config(tmp_path / "out", objective="none", masking="dynamic"))
    data = PretrainingData.open(tmp_path / "out")
    assert not data.has_static_masks and not data.has_next_sentence
    assert "random" not in summary(data.manifest)


@pytest.mark.parametrize(
    "option", [{"max_seq_length": 7}, {"masked_lm_prob": 1.5}, {"dupe_factor": 0}]
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, option):
    (name,) = option
    with pytest.raises(ConfigError, match=name):
        config(tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_sequences_over_the_tokenizer_s_limit(tmp_path):
    with pytest.raises(ConfigError, match="max_seq_length 600"):
        run(config(tmp_path / "out", max_seq_length=600))


def test_a_corpus_without_blank_lines_says_what_to_do(tmp_path):
    text = (SAMPLE / "corpus.txt").read_text(encoding="utf-8").replace("\n\n", "\n")
    path = tmp_path / "corpus.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="one document.*Put a blank line between documents"):
        run(config(tmp_path / "out", inputs=[str(path)]))


def test_chinese_text_with_a_bare_vocabulary(tmp_path):
    text = (SAMPLE / "zh.txt").read_text(encoding="utf-8")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(text) - {"\n"})]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    metrics = run(
        config(
            tmp_path / "out", inputs=[str(SAMPLE / "zh.txt")], tokenizer=str(vocabulary),
            input_format="lines",
        )
    )  # fmt: skip
    assert metrics["documents"] == 6 and metrics["unknown_tokens"] == 0
    assert metrics["tokens"] == len(text.replace("\n", ""))
