import json
import os
import tracemalloc

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from nlpapp.data import feature_files
from nlpapp.data.feature_files import (
    FeatureChunk,
    FeatureLayout,
    FeatureWriter,
    check_room,
    npy_header,
    quantized,
    read_pooled,
    restored,
)
from nlpapp.errors import DataError

LENGTHS = [[3, 1], [2], [4, 1, 1]]
"""Tokens of the rows of each chunk."""
IDENTITY = {"input": "abc", "model": "def"}


def layout_of(*, layers=(-1,), width=6, dtype="float16", per_token=False):
    return FeatureLayout(layers=layers, hidden_size=width, dtype=dtype, per_token=per_token)


def chunks_of(layout, seed=0):
    rng = np.random.default_rng(seed)
    chunks = []
    for lengths in LENGTHS:
        rows = sum(lengths) if layout.per_token else len(lengths)
        values = rng.normal(size=(rows, len(layout.layers), layout.hidden_size))
        ids = [rng.integers(0, 99, size) for size in lengths] if layout.per_token else None
        tokens = [[f"t{i}" for i in row] for row in ids] if ids is not None else None
        chunks.append(FeatureChunk(values.astype(np.float32), ids, tokens))
    return chunks


def write(folder, file_format, layout, chunks=None):
    folder.mkdir(exist_ok=True)
    writer = FeatureWriter(folder, file_format, layout, IDENTITY)
    for chunk in (chunks_of(layout) if chunks is None else chunks)[writer.chunks :]:
        writer.append(chunk, {"tokens": 1})
    return writer.finish()


def whole(layout):
    """The arrays of the files, by plain concatenation."""
    chunks = chunks_of(layout)
    values = np.concatenate([chunk.values for chunk in chunks])
    values = values[:, 0] if len(layout.layers) == 1 else values
    arrays = {"features": values.astype(layout.dtype)}
    if layout.per_token:
        ids = [row for chunk in chunks for row in chunk.ids]
        arrays["offsets"] = np.cumsum([0] + [len(row) for row in ids])
        arrays["token_ids"] = np.concatenate(ids)
    if layout.dtype == "int8":
        arrays["scales"] = np.abs(values).max(-1) / np.float32(127)
        arrays["features"] = np.round(values / arrays["scales"][..., None]).astype(np.int8)
    return arrays


LAYOUTS = [
    layout_of(),
    layout_of(layers=(-1, 0), dtype="float32"),
    layout_of(per_token=True),
    layout_of(layers=(0, 1, -1), per_token=True, width=5),
    layout_of(per_token=True, width=1, dtype="float32"),
    layout_of(dtype="int8", width=5),
    layout_of(layers=(-1, 0), dtype="int8"),
    layout_of(dtype="int8", per_token=True, width=5),
    layout_of(layers=(0, 1, -1), dtype="int8", per_token=True, width=3),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpy_reads_what_was_written(layout, tmp_path):
    paths = write(tmp_path / "run", "npy", layout)
    expected = whole(layout)
    assert [path.stem for path in paths] == list(expected)
    for path in paths:
        found = np.load(path, mmap_mode="r")
        np.testing.assert_array_equal(found, expected[path.stem])
        types = {"features": layout.dtype, "offsets": "int64", "scales": "float32"}
        assert found.dtype == types.get(path.stem, "int32")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(p.name for p in paths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_safetensors_reads_what_was_written(layout, tmp_path):
    (path,) = write(tmp_path / "run", "safetensors", layout)
    found = load_file(path)
    found.pop("padding", None)
    expected = whole(layout)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with safe_open(path, framework="pt") as file:  # another reader, which needs aligned arrays
        for name in expected.keys() & {"features", "scales"}:
            assert torch.equal(file.get_tensor(name), torch.tensor(expected[name]))
        assert json.loads(file.metadata()["layers"]) == list(layout.layers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pandas_reads_what_was_written(layout, tmp_path):
    paths = write(tmp_path / "run", "parquet", layout)
    assert [path.name for path in paths] == [f"part-0000{i}.parquet" for i in range(3)]
    frame = pandas.read_parquet(tmp_path / "run" / "features.parquet")
    expected = whole(layout)
    assert frame["index"].tolist() == list(range(6))
    kinds = [("", "features")] + [("_scale", "scales")] * ("scales" in expected)
    for ending, name in kinds:
        for place, layer in enumerate(layout.layers):
            values = expected[name]
            values = values if len(layout.layers) == 1 else values[:, place]
            column = frame[f"layer_{layer}{ending}"]
            if layout.per_token:
                column = [np.stack(row) for row in column]
                assert [len(row) for row in column] == [len(row) for row in frame["tokens"]]
                column = np.concatenate(column)
            else:
                column = np.stack(column.to_numpy())
            np.testing.assert_array_equal(column, values)
            assert column.dtype == values.dtype
    assert len(frame.columns) == 1 + layout.per_token + len(kinds) * len(layout.layers)
    assert pq.read_schema(paths[0]).field(f"layer_{layout.layers[0]}") is not None


def test_int8_is_computed_by_hand():
    values = np.array([[[127, -64.6, 0.4], [0, 0, 0]], [[-254, 3, 1.1], [0.5, 0.25, -0.1]]])
    small, scales = quantized(values.astype(np.float32))
    assert small.dtype == np.int8 and scales.dtype == np.float32
    assert small.tolist() == [[[127, -65, 0], [0, 0, 0]], [[-127, 2, 1], [127, 64, -25]]]
    assert scales.tolist() == [[1.0, 0.0], [2.0, float(np.float32(0.5) / np.float32(127))]]
    again = restored(small, scales)
    assert again[0].tolist() == [[127.0, -65.0, 0.0], [0.0, 0.0, 0.0]]
    assert again[1, 0].tolist() == [-254.0, 4.0, 2.0]


@pytest.mark.parametrize("size", [1e-45, 1e-42, 1e-38, 1e-3, 1.0, 3e38])
def test_int8_is_within_half_a_step(size):
    rng = np.random.default_rng(1)
    values = (rng.uniform(-1, 1, (40, 3, 65)) * size).astype(np.float32)
    small, scales = quantized(values)
    wide = small.astype(np.float64) * scales[..., None]
    bound = scales[..., None] * np.float64(0.5001) + 1e-40
    assert (np.abs(values - wide) <= bound).all()
    if size > 1e-40:
        assert (np.abs(small).max(-1) == 127).all()
    np.testing.assert_allclose(restored(small, scales), wide, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(
    ("file_format", "rule"),
    [
        ("npy", "features * scales[..., None]"),
        ("safetensors", "features * scales[..., None]"),
        ("parquet", "layer_<n> * layer_<n>_scale"),
    ],
)
def test_only_int8_says_how_it_is_restored(file_format, rule):
    assert layout_of(dtype="int8").about(file_format)["restore"] == rule
    assert "restore" not in layout_of().about(file_format)


@pytest.mark.parametrize("file_format", ["npy", "safetensors", "parquet"])
def test_int8_takes_little_more_than_a_byte_a_number(file_format, tmp_path):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(600, 2, 256)).astype(np.float32)
    rows = [np.arange(20)] * 30
    chunk = FeatureChunk(values, rows, [["a"] * 20] * 30)
    layout = layout_of(layers=(0, -1), width=256, dtype="int8", per_token=True)
    total = sum(
        path.stat().st_size for path in write(tmp_path / "run", file_format, layout, [chunk])
    )
    assert total < 1.06 * values.size
    assert layout.bytes_of(600) == values.size + 4 * 600 * 2


def test_json_lines_have_the_keys_of_the_original(tmp_path):
    layout = layout_of(layers=(-1, -2), width=2, per_token=True)
    values = np.array([[[0.1234567, 1]], [[-2.5, 3e-9]]], np.float32).repeat(2, axis=1)
    chunk = FeatureChunk(values, [np.array([2]), np.array([3])], [["[CLS]"], ["caf\u00e9"]])
    (path,) = write(tmp_path / "run", "jsonl", layout, [chunk, chunk])
    layers = '[{"index": -1, "values": %s}, {"index": -2, "values": %s}]'
    first = '{"linex_index": 0, "features": [{"token": "[CLS]", "layers": '
    lines = path.read_text().splitlines()
    assert lines[0] == first + layers % ("[0.123457, 1.0]", "[0.123457, 1.0]") + "}]}"
    assert [json.loads(line)["linex_index"] for line in lines] == [0, 1, 2, 3]
    assert json.loads(lines[3])["features"][0] == {
        "token": "caf\u00e9",
        "layers": [{"index": -1, "values": [-2.5, 0.0]}, {"index": -2, "values": [-2.5, 0.0]}],
    }


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("file_format", "dtype"),
    [
        *((form, "float16") for form in ("npy", "safetensors", "parquet", "jsonl")),
        *((form, "int8") for form in ("npy", "safetensors", "parquet")),
    ],
)
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_what_a_kill_left_is_cut_and_continued(file_format, dtype, done, tmp_path):
    layout = layout_of(per_token=True, dtype=dtype, width=5)
    write(tmp_path / "straight", file_format, layout)
    folder = tmp_path / "killed"
    folder.mkdir()
    writer = FeatureWriter(folder, file_format, layout, IDENTITY)
    for chunk in chunks_of(layout)[:done]:
        writer.append(chunk, {"tokens": 1})
    for path in (folder / "unfinished").glob("*"):  # a chunk that was written in part
        if path.is_file() and path.name != "progress.json":
            with path.open("ab") as file:
                file.write(b"half a chunk")
    if file_format == "parquet" and done:
        (folder / "unfinished" / "features.parquet" / f"part-{done:05d}.parquet").write_text("x")
    again = FeatureWriter(folder, file_format, layout, IDENTITY)
    assert (again.chunks, again.rows) == (done, sum(map(len, LENGTHS[:done])))
    assert again.counts.get("tokens", 0) == done
    write(folder, file_format, layout)
    assert content(folder) == content(tmp_path / "straight")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
def test_a_kill_while_the_files_get_their_names_loses_nothing(
    file_format, dtype, tmp_path, monkeypatch
):
    layout = layout_of(per_token=True, width=5, dtype=dtype)
    write(tmp_path / "straight", file_format, layout)
    renamed = []

    def failing(old, new):
        if str(new).endswith(("offsets.npy", ".safetensors")) and not renamed:
            renamed.append(new)
            raise KeyboardInterrupt
        return replace(old, new)

    replace = os.replace
    monkeypatch.setattr(feature_files.os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", file_format, layout)
    write(tmp_path / "killed", file_format, layout)
    assert content(tmp_path / "killed") == content(tmp_path / "straight")


def test_another_input_is_refused(tmp_path):
    FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY)
    with pytest.raises(DataError, match="begun with another model: going on would mix"):
        FeatureWriter(tmp_path, "npy", layout_of(), {**IDENTITY, "model": "other"})


def test_another_dtype_is_refused(tmp_path):
    FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY)
    with pytest.raises(DataError, match="begun with another dtype: going on would mix"):
        FeatureWriter(tmp_path, "npy", layout_of(dtype="int8"), IDENTITY)


def test_notes_without_a_dtype_are_gone_on_with(tmp_path):
    FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY).append(chunks_of(layout_of())[0], {})
    path = tmp_path / "unfinished" / "progress.json"
    notes = json.loads(path.read_text())
    del notes["identity"]["dtype"]
    path.write_text(json.dumps(notes))
    assert FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY).chunks == 1


def test_a_file_that_lost_bytes_is_refused(tmp_path):
    FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY).append(chunks_of(layout_of())[0], {})
    os.truncate(tmp_path / "unfinished" / "features.npy", 130)
    with pytest.raises(DataError, match=r"features\.npy is shorter"):
        FeatureWriter(tmp_path, "npy", layout_of(), IDENTITY)


@pytest.mark.parametrize("file_format", ["npy", "parquet"])
def test_a_value_too_large_for_float16_is_refused(file_format, tmp_path):
    chunk = FeatureChunk(np.full((1, 1, 6), 70_000, np.float32))
    with pytest.raises(DataError, match="70000, which float16 cannot hold; give --dtype float32"):
        write(tmp_path / "half", file_format, layout_of(), [chunk])
    assert write(tmp_path / "full", file_format, layout_of(dtype="float32"), [chunk])
    assert write(tmp_path / "small", file_format, layout_of(dtype="int8"), [chunk])
    (found,) = read_pooled(tmp_path / "small", [-1])
    np.testing.assert_allclose(found, chunk.values[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("file_format", "dtype"), [("npy", "float16"), ("jsonl", "float16"), ("npy", "int8")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused(file_format, dtype, value, tmp_path):
    chunk = FeatureChunk(np.full((1, 1, 6), value, np.float32), [np.array([1])], [["a"]])
    with pytest.raises(DataError, match="not a finite number"):
        write(tmp_path / "run", file_format, layout_of(per_token=True, dtype=dtype), [chunk])


def test_a_disk_without_room_is_refused(tmp_path):
    check_room(tmp_path, 1)
    with pytest.raises(DataError, match=r"take at least 1000000000\.0 GB"):
        check_room(tmp_path, 10**18)


@pytest.mark.parametrize("shape", [(0, 3), (123456789, 12, 1024), (7,)])
def test_headers_are_those_numpy_reads(shape, tmp_path):
    path = tmp_path / "header"
    path.write_bytes(npy_header(shape, np.dtype("float16")))
    assert path.stat().st_size == 128
    with path.open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype("float16"))


@pytest.mark.parametrize("layers", [(-1,), (0, -1)])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("file_format", ["npy", "safetensors", "parquet"])
def test_pooled_features_come_back_in_blocks(file_format, dtype, layers, tmp_path):
    layout = layout_of(layers=layers, dtype=dtype)
    write(tmp_path / "run", file_format, layout)
    blocks = list(read_pooled(tmp_path / "run", layout.layers, block_rows=4))
    assert len(blocks) > 1 and all(block.dtype == np.float32 for block in blocks)
    arrays = whole(layout)
    expected = arrays["features"].astype(np.float32)
    if dtype == "int8":
        expected = expected * arrays["scales"][..., None]
    np.testing.assert_array_equal(np.concatenate(blocks), expected.reshape(6, -1))


def test_no_features_to_read_is_said(tmp_path):
    with pytest.raises(DataError, match="no pooled features"):
        list(read_pooled(tmp_path, [-1]))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
def test_memory_of_writing_does_not_grow(file_format, dtype, tmp_path):
    layout = layout_of(width=64, dtype=dtype)
    chunk = FeatureChunk(np.zeros((500, 1, 64), np.float32))
    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        write(tmp_path / str(count), file_format, layout, [chunk] * count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # the longer file has 2.4 MB, or 1.4
