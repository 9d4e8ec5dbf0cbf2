import errno
import gzip
import json
import random
import re

import pandas
import pytest
import zstandard

from nlpapp.data import corpus_text
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_phases import Phase
from nlpapp.errors import ConfigError, DataError
from nlpapp.evaluation.data_report import summary
from nlpapp.recipes.make_data import Config, run
from nlpapp.text.sources import read_part
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
                "workers": 1,
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
    assert "1,211 sentences" in text and "random" in text and "masked:" in text
    assert "144" in text.splitlines()[0]  # Documents read = used + dropped.
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Lengths" in page and "B follows A" in page and "http://" not in page


def test_a_finished_run_is_kept_and_a_damaged_one_repaired(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    first = run(config(folder))
    with monkeypatch.context() as patch:
        patch.setattr("nlpapp.data.pretraining_shards.prepare_text", None)
        assert run(config(folder)) == first
    (shard,) = folder.glob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert run(config(folder, workers=2)) == first
    assert shard.read_bytes() == whole


def test_changed_text_is_refused(tmp_path):
    path = tmp_path / "corpus.txt"
    text = (SAMPLE / "corpus.txt").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    run(config(tmp_path / "out", inputs=[str(path)]))
    path.write_text(text.replace("a", "b"), encoding="utf-8")
    with pytest.raises(ConfigError, match="the content of the input files"):
        run(config(tmp_path / "out", inputs=[str(path)]))


def test_two_phases_from_one_reading(tmp_path, monkeypatch):
    phases = [
        Phase(name="phase1", max_seq_length=32),
        Phase(name="phase2", max_seq_length=96, dupe_factor=2),
    ]
    reads = []
    monkeypatch.setattr(
        corpus_text, "read_part", lambda part: reads.append(part) or read_part(part)
    )
    metrics = run(config(tmp_path / "out", phases=phases))
    assert len(reads) == 1
    one, two = (PretrainingData.open(tmp_path / "out" / phase.name) for phase in phases)
    assert one.lengths.max() == 32 and two.lengths.max() == 96
    assert one.manifest["options"]["max_predictions_per_seq"] == 5
    assert two.manifest["options"]["max_predictions_per_seq"] == 15
    assert metrics["phase1/instances"] == len(one) and metrics["phase2/instances"] == len(two)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == [
        "phase1", "phase2",
    ]  # fmt: skip
    assert (tmp_path / "out" / "phase2" / "report.html").is_file()
    # Phase 1 is what it would be by itself.
    run(config(tmp_path / "alone"))
    (alone,), (first,) = (
        list((tmp_path / name).glob("*.parquet")) for name in ("alone", "out/phase1")
    )
    assert alone.read_bytes() == first.read_bytes()


def test_a_preview_prints_and_writes_nothing(tmp_path, capsys):
    assert run(config(tmp_path / "out", preview=3)) == {}
    text = capsys.readouterr().out
    assert text.count(" tokens, ") == 3 and "[MASK: " in text
    assert "B follows A" in text or "B is random" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"masked_lm_prob": 0.0}, "hides nothing"),
        ({"masked_lm_prob": 1.0}, "leaves nothing to predict from"),
        ({"masked_lm_prob": -0.15}, "masked_lm_prob -0.15 is no share"),
        ({"block_bytes": 10}, "block_bytes 10"),
        ({"preview": -1}, "preview -1"),
        ({"min_document_characters": -5}, "min_document_characters -5"),
        ({"segmenter": "jieba"}, "masking_unit: whole_word"),
    ],
)
def test_bad_options_say_what_is_wrong(tmp_path, option, text):
    with pytest.raises(ConfigError, match=text):
        config(tmp_path / "out", **option)


def test_what_is_written_is_never_read(tmp_path):
    with pytest.raises(ConfigError, match="out is in the input folder .* output_dir elsewhere"):
        config(tmp_path / "corpus" / ".." / "out", inputs=[str(tmp_path)])


@pytest.mark.parametrize("last", ["write_data_report", "RunFolder.finish"])
def test_a_disk_that_is_full_at_the_very_end(tmp_path, monkeypatch, last):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"nlpapp.recipes.make_data.{last}", full)
        with pytest.raises(DataError, match="disk is full. The data are complete, only"):
            run(config(tmp_path / "out"))
    assert run(config(tmp_path / "out"))["instances"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_more_workers_are_no_other_run(tmp_path):
    first = run(config(tmp_path / "out"))
    assert run(config(tmp_path / "out", workers=2)) == first


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


@pytest.mark.slow
def test_ray_makes_the_same_bytes(tmp_path):
    pytest.importorskip("ray")
    run(config(tmp_path / "local"))
    run(config(tmp_path / "ray", executor="ray", workers=2))
    (one,), (other,) = (list((tmp_path / name).glob("*.parquet")) for name in ("local", "ray"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "txt.gz", "txt.zst"])
def test_the_same_documents_in_every_format_give_the_same_data(tmp_path, form):
    texts = (SAMPLE / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")
    # Without the sentences' own ends every line is one sentence, whoever splits.
    texts = [re.sub(r"[^\w\n]+", " ", text).strip() for text in texts]
    texts = ["\n\n".join(line.strip() for line in text.split("\n")) for text in texts]
    lines = "\n\n".join(text.replace("\n\n", "\n") for text in texts)
    (tmp_path / "lines.txt").write_text(lines, encoding="utf-8")
    path = tmp_path / f"corpus.{form}"
    frame = pandas.DataFrame({"title": ["x"] * len(texts), "text": texts})
    match form:
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path)
        case "txt.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "txt.zst":
            path.write_bytes(zstandard.compress(lines.encode()))
    plain = {"inputs": str(tmp_path / "lines.txt"), "input_format": "lines"}
    run(config(tmp_path / "one", **plain))
    run(config(tmp_path / "two", inputs=str(path), input_format="lines" if "." in form else form))
    (one,), (two,) = (list((tmp_path / name).glob("*.parquet")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("segmenter", ["jieba", "max_match"])
def test_chinese_words_are_masked_whole(tmp_path, segmenter):
    if segmenter == "jieba":
        pytest.importorskip("jieba")
    words = ["\u5317\u4eac", "\u5929\u6c14", "\u5b66\u751f", "\u559c\u6b22", "\u97f3\u4e50"]
    rng = random.Random(0)
    lines = ["".join(rng.choices(words, k=8)) + "\u3002" for _ in range(60)]
    path, dictionary = tmp_path / "zh.txt", tmp_path / "words.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    dictionary.write_text("\n".join(words), encoding="utf-8")
    characters = sorted(set("".join(lines)))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, "##a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    options = {"objective": "none", "masking_unit": "whole_word", "segmenter": segmenter}
    options |= {"user_dictionary": str(dictionary), "tokenizer": str(tmp_path / "vocab.txt")}
    for masking in ("static", "dynamic"):
        run(config(tmp_path / masking, inputs=str(path), input_format="lines", masking=masking,
                   **options))  # fmt: skip
    data = PretrainingData.open(tmp_path / "static")
    pairs = 0
    for index in range(len(data)):
        shown = data[index].input_ids.copy()
        positions = data[index].masked_lm_positions.tolist()
        shown[positions] = data[index].masked_lm_ids
        text = "".join(pieces[token] for token in shown[1:-1])
        # Words have two characters, and no word of the text begins with the second of another.
        chosen = {position - 1 for position in positions}
        for start in range(0, len(text) - 1, 2):
            assert text[start : start + 2] in words
            assert (start in chosen) == (start + 1 in chosen)
            pairs += start in chosen
    assert pairs > 30
    marks = PretrainingData.open(tmp_path / "dynamic")[0].word_continues
    assert marks.tolist() == [False, *[False, True] * 8, False, False]
