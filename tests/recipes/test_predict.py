import csv
import json

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from nlpapp.errors import DataError
from nlpapp.recipes import predict

TEXTS = ["the cat sat", "a bad film .", "good", "the dog ran over the hill", "awful", "a", "bird"]
NAMES = ["neg", "neutral", "pos"]


@pytest.fixture(scope="module")
def folder(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=80,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_tokenizer_folder).save_pretrained(folder)
    return folder


def by_hand(folder):
    """Probabilities, one text at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return torch.stack(rows).softmax(-1)


def run(tmp_path, folder, path, **options):
    settings = {"max_seq_length": 16, "batch_size": 2, "chunk_rows": 3}
    config = predict.Config(
        model=str(folder), file=str(path), output_dir=str(tmp_path / "run"), **settings | options
    )
    return predict.run(config)


def rows_of(tmp_path):
    with (tmp_path / "run" / "predictions.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("chunk_rows", [3, 100])
def test_rows_are_those_computed_by_hand(ending, chunk_rows, folder, tmp_path):
    path = tmp_path / f"data.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    else:
        path.write_text("\n".join(["text", *TEXTS]) + "\n")
    metrics = run(tmp_path, folder, path, chunk_rows=chunk_rows)
    rows, expected = rows_of(tmp_path), by_hand(folder)
    assert metrics["rows"] == len(rows) == len(TEXTS)
    assert list(rows[0]) == ["index", "label", *(f"probability_{name}" for name in NAMES)]
    assert [row["index"] for row in rows] == [str(index) for index in range(len(TEXTS))]
    assert [row["label"] for row in rows] == [NAMES[i] for i in expected.argmax(-1).tolist()]
    for row, probabilities in zip(rows, expected.tolist(), strict=True):
        written = [float(row[f"probability_{name}"]) for name in NAMES]
        assert written == pytest.approx(probabilities, abs=1e-5)


def test_labels_in_the_file_are_not_looked_at(folder, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("label\ttext\nwhatever\tgood\n\tbad\n")
    run(tmp_path, folder, path)
    assert {row["label"] for row in rows_of(tmp_path)} <= set(NAMES)


def test_classes_can_be_renamed(folder, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("text\ngood\n")
    run(tmp_path, folder, path, label_names=["-", "0", "+"])
    assert rows_of(tmp_path)[0]["label"] in ("-", "0", "+")


def test_a_fault_in_a_late_row_leaves_no_half_file(folder, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_bytes(b"text\n" + b"good\n" * 4 + b"caf\xe9\n")
    with pytest.raises(DataError, match="line 6: not UTF-8 at byte 28"):
        run(tmp_path, folder, path)
    assert not list((tmp_path / "run").glob("predictions*"))


def test_a_finished_run_is_not_repeated(folder, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("text\ngood\n")
    first = run(tmp_path, folder, path)
    path.unlink()
    assert run(tmp_path, folder, path) == first
