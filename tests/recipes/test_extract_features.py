import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, BertConfig, BertModel

from nlpapp.data.feature_files import FeatureWriter
from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.features import FeatureExtractor
from nlpapp.recipes import extract_features
from tests.source_files import REPOSITORY

SAMPLE_TOKENIZER = str(REPOSITORY / "data" / "sample" / "tokenizer")
LINES = [
    "the cat sat on the mat .",
    "a bad film ||| it was awful",
    "good",
    "",
    "the dog ran over the hill and under the river",
    "a ||| b ||| c",
    "bird",
    "a great film .",
    "the the the the the the the the the the the the the the the the the the the the the the",
]


@pytest.fixture(scope="module")
def folder(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=80,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(line + "\n" for line in LINES))
    return path


def config_of(folder, texts, run, **options):
    settings = {
        "max_seq_length": 20,
        "tokens_per_batch": 40,
        "chunk_rows": 2,
        "dtype": "float32",
    }
    paths = {"model": str(folder), "file": str(texts), "output_dir": str(run)}
    return extract_features.Config(**(paths | settings | options))


def by_hand(folder, layer=-1):
    """(tokens, H) of each line, one at a time, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    rows = []
    for line in LINES:
        pair = line.rsplit(" ||| ", 1)
        inputs = tokenizer(
            *pair, truncation=True, max_length=20, return_tensors="pt", return_token_type_ids=True
        )
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
        rows.append((inputs["input_ids"][0].tolist(), states[1:][layer][0].numpy()))
    return rows


@pytest.mark.parametrize(
    ("pooling", "reduced"),
    [
        ("mean", lambda row: row.mean(0)),
        ("max", lambda row: row.max(0)),
        ("cls", lambda row: row[0]),
    ],
)
@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_rows_are_those_computed_by_hand(pooling, reduced, chunk_rows, folder, texts, tmp_path):
    run = tmp_path / "run"
    config = config_of(folder, texts, run, pooling=pooling, chunk_rows=chunk_rows)
    metrics = extract_features.run(config)
    found = np.load(run / "features.npy")
    expected = np.stack([reduced(row) for _, row in by_hand(folder)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert metrics["rows"] == len(LINES) and metrics["cut"] == 1
    assert metrics["tokens"] == sum(len(ids) for ids, _ in by_hand(folder))
    assert metrics["bytes"] == (run / "features.npy").stat().st_size
    assert json.loads((run / "features.json").read_text())["shape"] == [9, 16]


@pytest.mark.parametrize("file_format", ["npy", "safetensors", "parquet", "jsonl"])
def test_every_format_holds_the_vectors_of_the_tokens(file_format, folder, texts, tmp_path):
    run = tmp_path / "run"
    options = {"pooling": "none", "layers": [-1, 0], "format": file_format}
    extract_features.run(config_of(folder, texts, run, **options))
    last, first = by_hand(folder, -1), by_hand(folder, 0)
    ids = [row for row, _ in last]
    vectors = np.concatenate(
        [np.stack([a, b], axis=1) for (_, a), (_, b) in zip(last, first, strict=True)]
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if file_format in ("npy", "safetensors"):
        names = ("features", "offsets", "token_ids")
        found = {name: np.load(run / f"{name}.npy") for name in names if file_format == "npy"}
        found = found or load_file(run / "features.safetensors")
        np.testing.assert_allclose(found["features"], vectors, atol=1e-5)
        assert found["offsets"].tolist() == np.cumsum([0, *map(len, ids)]).tolist()
        assert found["token_ids"].tolist() == sum(ids, [])
        return
    spelled = [tokenizer.convert_ids_to_tokens(row) for row in ids]
    if file_format == "parquet":
        frame = pandas.read_parquet(run / "features.parquet")
        assert [row.tolist() for row in frame["tokens"]] == spelled
        columns = [np.concatenate([np.stack(r) for r in frame[f"layer_{n}"]]) for n in (-1, 0)]
        np.testing.assert_allclose(np.stack(columns, axis=1), vectors, atol=1e-5)
        return
    lines = [json.loads(line) for line in (run / "features.jsonl").read_text().splitlines()]
    assert [line["linex_index"] for line in lines] == list(range(len(LINES)))
    tokens = [feature for line in lines for feature in line["features"]]
    assert [token["token"] for token in tokens] == sum(spelled, [])
    assert all([layer["index"] for layer in token["layers"]] == [-1, 0] for token in tokens)
    found = np.array([[layer["values"] for layer in token["layers"]] for token in tokens])
    np.testing.assert_allclose(found, vectors, atol=1e-5)


@pytest.mark.parametrize("file_format", ["npy", "safetensors", "parquet"])
@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_int8_is_within_half_a_step_of_the_vectors(file_format, pooling, folder, texts, tmp_path):
    run = tmp_path / "run"
    options = {"pooling": pooling, "layers": [-1, 0], "format": file_format, "dtype": "int8"}
    metrics = extract_features.run(config_of(folder, texts, run, **options))
    rows = [by_hand(folder, layer) for layer in (-1, 0)]
    reduce = np.asarray if pooling == "none" else (lambda row: row.mean(0, keepdims=True))
    layers = [np.concatenate([reduce(row) for _, row in layer]) for layer in rows]
    vectors = np.stack(layers, axis=1)
    if file_format == "parquet":
        frame = pandas.read_parquet(run / "features.parquet")

        def column(name):
            if pooling == "mean":
                return np.stack(frame[name].to_numpy())
            return np.concatenate([np.stack(row) for row in frame[name]])

        small = np.stack([column("layer_-1"), column("layer_0")], axis=1)
        scales = np.stack([column("layer_-1_scale"), column("layer_0_scale")], axis=1)
    elif file_format == "npy":
        small, scales = np.load(run / "features.npy"), np.load(run / "scales.npy")
        assert metrics["bytes"] == sum(path.stat().st_size for path in run.glob("*.npy"))
    else:
        found = load_file(run / "features.safetensors")
        small, scales = found["features"], found["scales"]
    assert small.dtype == np.int8 and scales.dtype == np.float32
    np.testing.assert_allclose(scales, np.abs(vectors).max(-1) / 127, rtol=1e-4)
    difference = np.abs(small * scales[..., None] - vectors)
    assert (difference <= scales[..., None] / 2 + 1e-5).all()
    about = json.loads((run / "features.json").read_text())
    assert about["dtype"] == "int8" and "scale" in about["restore"]


def test_another_dtype_is_not_mixed_in(folder, texts, tmp_path):
    extract_features.run(config_of(folder, texts, tmp_path / "run"))
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match="dtype"):
        extract_features.run(config_of(folder, texts, tmp_path / "run", dtype="int8"))
    assert content(tmp_path / "run") == before


def content(run):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
        and path.name.startswith(("features", "offsets", "token_ids", "scales", "part"))
    }


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"pooling": "none", "format": "safetensors", "layers": [0, -1]},
        {"format": "parquet"},
        {"pooling": "none", "format": "jsonl"},
        {"pooling": "none", "dtype": "int8", "layers": [0, -1]},
        {"dtype": "int8", "format": "safetensors"},
        {"pooling": "none", "dtype": "int8", "format": "parquet"},
    ],
)
def test_an_interrupted_run_goes_on_and_ends_the_same(
    options, folder, texts, tmp_path, monkeypatch
):
    extract_features.run(config_of(folder, texts, tmp_path / "straight", **options))
    config = config_of(folder, texts, tmp_path / "run", **options)
    extractor_rows, calls = FeatureExtractor.rows, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        return extractor_rows(*args, **kwargs)

    monkeypatch.setattr(FeatureExtractor, "rows", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            extract_features.run(config)
        assert not list((tmp_path / "run").glob("features*"))
    metrics = extract_features.run(config)
    assert len(calls) == 2 + 5  # each of the five chunks once, and the two that failed
    assert metrics["rows"] == 9 and metrics["cut"] == 1
    assert content(tmp_path / "run") == content(tmp_path / "straight")


def test_a_killed_run_goes_on_and_ends_the_same(folder, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{line} {n}\n" for n in range(300) for line in LINES))
    config = config_of(folder, path, tmp_path / "run", pooling="none", chunk_rows=20)
    command = [sys.executable, "-m", "nlpapp", "extract-features"]
    names = ("model", "file", "output_dir", "pooling", "dtype")
    numbers = ("max_seq_length", "tokens_per_batch", "chunk_rows")
    command += [f"--{name}={getattr(config, name)}" for name in (*names, *numbers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = tmp_path / "run" / "unfinished" / "progress.json"
    limit = time.monotonic() + 120
    while not (progress.is_file() and json.loads(progress.read_text())["chunks"] >= 3):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = json.loads(progress.read_text())["chunks"]
    assert 3 <= done < 2700 / 20
    straight = config_of(folder, path, tmp_path / "straight", pooling="none", chunk_rows=20)
    extract_features.run(straight)
    metrics = extract_features.run(config)
    assert metrics["rows"] == 2700
    assert content(tmp_path / "run") == content(tmp_path / "straight")


def test_a_query_finds_the_texts_also_of_a_complete_run(folder, texts, tmp_path, capsys):
    options = {"query": "a great film .", "neighbours": 2, "layers": [-1, 0]}
    extract_features.run(config_of(folder, texts, tmp_path / "run", **options))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0] == " 1.0000  line 8  a great film ."
    options |= {"query": "a bad film ||| it was awful", "neighbours": 9}
    before = content(tmp_path / "run")
    extract_features.run(config_of(folder, texts, tmp_path / "run", **options))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " 1.0000  line 2  a bad film ||| it was awful"
    cosines = [float(line.split()[0]) for line in lines]
    assert len(lines) == 9 and cosines == sorted(cosines, reverse=True)
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("file_format", ["npy", "safetensors", "parquet"])
def test_a_query_of_int8_gives_the_order_of_float32(file_format, folder, texts, tmp_path, capsys):
    answers = []
    for dtype in ("float32", "int8"):
        options = {"query": "a great film .", "neighbours": 3, "layers": [-1, 0], "dtype": dtype}
        run = tmp_path / dtype
        extract_features.run(config_of(folder, texts, run, format=file_format, **options))
        answers.append([line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()])
    exact, small = answers
    assert [text for _, text in small] == [text for _, text in exact] and len(small) == 3
    cosines = [[float(cosine) for cosine, _ in answer] for answer in answers]
    np.testing.assert_allclose(cosines[1], cosines[0], atol=2e-3)


def test_a_finished_run_is_not_repeated(folder, texts, tmp_path):
    config = config_of(folder, texts, tmp_path / "run")
    first = extract_features.run(config)
    texts.unlink()
    assert extract_features.run(config) == first


def test_progress_says_how_many_texts_a_second_and_what_was_cut(folder, texts, tmp_path, capfd):
    extract_features.run(config_of(folder, texts, tmp_path / "run"))
    printed = capfd.readouterr().err
    assert "9/9" in printed and "text/s" in printed
    assert "1 of 9 texts were cut to max_seq_length" in printed


def test_a_changed_input_is_not_mixed_in(folder, texts, tmp_path, monkeypatch):
    config = config_of(folder, texts, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract_features.run(config)
    texts.write_text("another text\n")
    with pytest.raises(DataError, match="begun with another input"):
        extract_features.run(config)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "jsonl"}, ConfigError, "give --pooling none too"),
        (
            {"format": "jsonl", "pooling": "none", "dtype": "int8"},
            ConfigError,
            "jsonl is text, without int8; give --format npy",
        ),
        ({"pooling": "none", "query": "a"}, ConfigError, "one vector a text"),
        ({"chunk_rows": 0}, ConfigError, "at least 1"),
        ({"layers": [7]}, ConfigError, "layer 7 is not there: the model has 2 layers"),
        ({"max_seq_length": 64}, ConfigError, "over the model's 32 positions"),
        ({"model": None}, ConfigError, "give --model, or --tokenizer"),
        ({"model": "./nowhere", "tokenizer": SAMPLE_TOKENIZER}, CheckpointError, "nowhere"),
        ({"tokenizer": SAMPLE_TOKENIZER}, ConfigError, "tokenizer has .* entries"),
        ({"file": "./nowhere.txt"}, DataError, "no such file"),
    ],
)
def test_what_cannot_be_run_is_refused(options, error, message, folder, texts, tmp_path):
    with pytest.raises(error, match=message):
        extract_features.run(config_of(folder, texts, tmp_path / "run", **options))
    assert not list(tmp_path.glob("run/features*"))


def test_several_processes_are_refused(folder, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="is one process; split the file"):
        extract_features.run(config_of(folder, texts, tmp_path / "run"))


def test_an_unwritable_target_is_refused(folder, texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        extract_features.run(config_of(folder, texts, tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot write to the output folder"):
        extract_features.run(config_of(folder, texts, tmp_path / "file" / "run"))


def test_a_full_disk_keeps_what_was_finished(folder, texts, tmp_path, monkeypatch):
    config = config_of(folder, texts, tmp_path / "run")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", full)
        with pytest.raises(DataError, match=r"the disk is full.*Finished chunks are kept"):
            extract_features.run(config)
    assert extract_features.run(config)["rows"] == 9
