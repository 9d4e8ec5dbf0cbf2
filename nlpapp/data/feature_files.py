"""Features on disk: .npy, .safetensors, .parquet and the JSON lines of the original extractor.

A writer takes one chunk of rows after another and only appends, so its memory is that of a chunk,
whatever the length of the input. All goes to ``unfinished/`` first. After each chunk the bytes
are synced and their number is noted; a run that was killed cuts what came after the last note and
goes on. The files get their names when they are whole.

Pooled features are one array ``features`` (rows, H), or (rows, L, H) of several layers. Per token
it is (tokens, H) or (tokens, L, H), with ``offsets`` (rows + 1) and ``token_ids`` (tokens): the
tokens of row i are those from offsets[i] to offsets[i + 1].

In int8 each vector has a step of its own in ``scales``, float32 of the shape of ``features``
without the last axis; ``features * scales[..., None]`` are the numbers again. Parquet has the steps
in a column ``layer_<n>_scale`` a layer.

Legend: L = layers, H = hidden width.
"""

import dataclasses
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp.data.manifest import UNFINISHED
from nlpapp.disk import read_json, write_json, written_whole
from nlpapp.errors import DataError

FileFormat = Literal["npy", "safetensors", "parquet", "jsonl"]

NPY_HEADER_BYTES = 128
SAFETENSORS_HEADER_BYTES = 1024
PROGRESS = "progress.json"
PARQUET_FOLDER = "features.parquet"
DTYPE_NAMES = {"float16": "F16", "float32": "F32", "int64": "I64", "int32": "I32", "int8": "I8"}


@dataclass(frozen=True)
class FeatureChunk:
    """The features of consecutive rows."""

    values: np.ndarray
    """(rows, L, H) pooled, or (tokens, L, H), in float32."""
    ids: list[np.ndarray] | None = None
    """The token ids of each row; None for pooled features."""
    tokens: list[list[str]] | None = None
    """The pieces of each row, for formats that spell them out."""

    @property
    def rows(self) -> int:
        """Rows of the input in this chunk."""
        return len(self.values) if self.ids is None else len(self.ids)


@dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """What the files of one extraction hold."""

    layers: tuple[int, ...]
    hidden_size: int
    dtype: Literal["float16", "float32", "int8"]
    per_token: bool

    def shape(self, length: int) -> list[int]:
        """Return the shape of ``features`` of ``length`` vectors; one layer has no axis."""
        axis = [len(self.layers)] if len(self.layers) > 1 else []
        return [length, *axis, self.hidden_size]

    def bytes_of(self, vectors: int) -> int:
        """Return the bytes of ``vectors`` rows or tokens, with those of their scales."""
        scale = 4 if self.dtype == "int8" else 0
        one = self.hidden_size * np.dtype(self.dtype).itemsize + scale
        return vectors * len(self.layers) * one

    def about(self, file_format: FileFormat) -> dict[str, Any]:
        """Return the fields as JSON, and for int8 ``restore``: how the numbers come back."""
        fields = dataclasses.asdict(self)
        if self.dtype != "int8":
            return fields
        in_parquet = file_format == "parquet"
        how = "layer_<n> * layer_<n>_scale" if in_parquet else "features * scales[..., None]"
        return {**fields, "restore": how}

    def stored(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return ``values`` in the type of the files, and the scales of int8.

        Raises:
            DataError: a value is not finite, or too large for float16.
        """
        if self.dtype == "int8":
            self.check_finite(values)
            return quantized(values)
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype)
        if not np.isfinite(stored).all():
            self.check_finite(values)
            raise DataError(
                f"a feature is {float(np.abs(values).max()):g}, which {self.dtype} cannot hold; "
                "give --dtype float32."
            )
        return stored, None

    def check_finite(self, values: np.ndarray) -> None:
        """Raise DataError if ``values`` are not finite numbers."""
        if not np.isfinite(values).all():
            raise DataError("a feature is not a finite number: the model's weights are damaged.")


class FeatureWriter:
    """Appends chunks to the files of one extraction, and goes on after an interruption."""

    def __init__(
        self,
        folder: Path,
        file_format: FileFormat,
        layout: FeatureLayout,
        identity: Mapping[str, Any],
    ) -> None:
        """Open the files in ``folder``, cut back to the last complete chunk of an earlier run.

        Args:
            folder: of the run; exists.
            file_format: of the features.
            layout: what is written.
            identity: what the features depend on (input, model), as JSON.

        Raises:
            DataError: what is there was begun with another input, model or dtype.
        """
        self.folder, self.format, self.layout = folder, file_format, layout
        self._work = folder / UNFINISHED
        self._work.mkdir(exist_ok=True)
        self._identity = {"dtype": layout.dtype, **identity}
        found = read_json(self._work / PROGRESS) or {"identity": self._identity}
        # Notes of earlier versions have no dtype.
        found["identity"].setdefault("dtype", layout.dtype)
        changed = [k for k, v in self._identity.items() if found["identity"].get(k) != v]
        if changed:
            raise DataError(
                f"{folder} was begun with another {' and '.join(changed)}: going on would mix two "
                "extractions. Give another output_dir, or remove this one."
            )
        self.chunks: int = found.get("chunks", 0)
        self.rows: int = found.get("rows", 0)
        self.vectors: int = found.get("vectors", 0)
        self.counts: dict[str, int] = found.get("counts", {})
        """Numbers that the caller adds up over chunks; kept over an interruption."""
        self._sizes: dict[str, int] = dict(found.get("bytes", {}))
        self._cut_back()
        # A first note, so that another input is refused before the first chunk as well.
        self._note()

    def _names(self) -> list[str]:
        if self.format == "parquet":
            return []
        if self.format == "jsonl":
            return ["features.jsonl"]
        return [f"features.{self.format}", *(f"{name}.npy" for name in list(self._arrays())[1:])]

    def _header_bytes(self, name: str) -> int:
        if name.endswith(".npy"):
            return NPY_HEADER_BYTES
        return SAFETENSORS_HEADER_BYTES if name.endswith(".safetensors") else 0

    def _cut_back(self) -> None:
        for name in self._names():
            path = self._work / name
            if (
                name not in self._sizes
            ):  # not begun: an empty header, and the offset of the first row
                first = np.zeros(1, np.int64).tobytes() if name == "offsets.npy" else b""
                path.write_bytes(bytes(self._header_bytes(name)) + first)
            elif not path.is_file():
                continue  # finished and renamed; `finish` goes on with the others
            elif path.stat().st_size < self._sizes[name]:
                raise DataError(f"{path} is shorter than when it was written; remove {self._work}.")
            else:
                os.truncate(path, self._sizes[name])
        for part in (self._work / PARQUET_FOLDER).glob("part-*.parquet"):
            if int(part.stem.removeprefix("part-")) >= self.chunks:
                part.unlink()

    def append(self, chunk: FeatureChunk, counts: Mapping[str, int]) -> None:
        """Write one chunk, and note it when its bytes are on the disk.

        Raises:
            DataError: as `FeatureLayout.stored`.
        """
        if self.format == "jsonl":
            lines = json_lines(chunk, self.layout, self.rows)
            self._write("features.jsonl", (line.encode() for line in lines))
        elif self.format == "parquet":
            self._write_part(chunk)
        else:
            values, scales = self.layout.stored(chunk.values)
            self._write(f"features.{self.format}", [values.tobytes()])
            if scales is not None:
                self._write("scales.npy", [scales.tobytes()])
            if chunk.ids is not None:
                ends = self.vectors + np.cumsum([len(row) for row in chunk.ids], dtype=np.int64)
                self._write("offsets.npy", [ends.tobytes()])
                ids = np.concatenate(chunk.ids).astype(np.int32)
                self._write("token_ids.npy", [ids.tobytes()])
        self.chunks += 1
        self.rows += chunk.rows
        self.vectors += len(chunk.values)
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + int(count)
        self._note()

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        with open(self._work / name, "ab") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())

    def _write_part(self, chunk: FeatureChunk) -> None:
        folder = self._work / PARQUET_FOLDER
        folder.mkdir(exist_ok=True)
        table = parquet_table(chunk, self.layout, self.rows)
        with written_whole(folder / f"part-{self.chunks:05d}.parquet") as file:
            # Dictionaries of numbers that hardly repeat only cost time; but one of all int8
            # makes a byte of a number, which takes four bytes in a parquet file without it.
            small = self.layout.dtype == "int8"
            pq.write_table(table, file, compression="zstd", use_dictionary=small)

    def _note(self) -> None:
        there = (self._work / name for name in self._names())
        self._sizes |= {path.name: path.stat().st_size for path in there if path.is_file()}
        state = {
            "identity": self._identity,
            "chunks": self.chunks,
            "rows": self.rows,
            "vectors": self.vectors,
            "counts": self.counts,
            "bytes": self._sizes,
        }
        write_json(self._work / PROGRESS, state)

    def finish(self) -> list[Path]:
        """Complete the files, give them their names, and return all of them."""
        if self.format == "safetensors":
            self._join_safetensors()
        elif self.format == "npy":
            for name in self._names():
                self._npy_header(name)
        names = self._names() or [PARQUET_FOLDER]
        names = names[:1] if self.format == "safetensors" else names
        for name in names:
            if (self._work / name).exists():
                if (self.folder / name).is_dir():
                    shutil.rmtree(self.folder / name)
                os.replace(self._work / name, self.folder / name)
        shutil.rmtree(self._work)
        paths = [self.folder / name for name in names]
        return sorted(paths[0].iterdir()) if self.format == "parquet" else paths

    def _npy_header(self, name: str) -> None:
        path = self._work / name
        if not path.is_file():
            return
        shape, dtype = self._arrays()[name.removesuffix(".npy")]
        header = npy_header(tuple(shape), np.dtype(dtype))
        with open(path, "r+b") as file:
            file.write(header)
            file.flush()
            os.fsync(file.fileno())

    def _arrays(self) -> dict[str, tuple[list[int], str]]:
        # From the widest items after the features to the narrowest: at most one gap is needed.
        arrays: dict[str, tuple[list[int], str]] = {}
        arrays["features"] = (self.layout.shape(self.vectors), self.layout.dtype)
        if self.layout.per_token:
            arrays["offsets"] = ([self.rows + 1], "int64")
            arrays["token_ids"] = ([self.vectors], "int32")
        if self.layout.dtype == "int8":
            arrays["scales"] = (self.layout.shape(self.vectors)[:-1], "float32")
        return arrays

    def _join_safetensors(self) -> None:
        path = self._work / "features.safetensors"
        if not path.is_file():
            return
        shape, dtype = self._arrays()["features"]
        end = SAFETENSORS_HEADER_BYTES + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header: dict[str, Any] = {"__metadata__": {"layers": json.dumps(self.layout.layers)}}
        position = 0
        with open(path, "r+b") as file:
            file.truncate(end)  # an earlier try may have begun to join
            file.seek(end)
            for name, (shape, dtype) in self._arrays().items():
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                # Readers map the file: each array has to begin at a multiple of its item's size.
                if gap := -position % np.dtype(dtype).itemsize:
                    header["padding"] = _tensor("U8", [gap], position, gap)
                    file.write(bytes(gap))
                    position += gap
                header[name] = _tensor(DTYPE_NAMES[dtype], shape, position, size)
                position += size
                if name != "features":
                    with open(self._work / f"{name}.npy", "rb") as source:
                        source.seek(NPY_HEADER_BYTES)
                        shutil.copyfileobj(source, file)
            room = SAFETENSORS_HEADER_BYTES - 8
            file.seek(0)
            file.write(struct.pack("<Q", room) + json.dumps(header).encode().ljust(room))
            file.flush()
            os.fsync(file.fileno())


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk of ``folder`` has no room for.

    Raises:
        DataError: there are fewer than ``needed`` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: the features take at least {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; make room, or read fewer layers."
        )


def quantized(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``values`` in steps of a 127th of the largest of each vector.

    Args:
        values: (..., H) float32, finite.

    Returns:
        int8 of the same shape, from -127 to 127, and the steps, (...) float32. The step of a vector
        of zeros is 0. A number and what `restored` makes of it are at most half a step apart.
    """
    largest = np.maximum(values.max(axis=-1), -values.min(axis=-1))
    scales = (largest / np.float32(127)).astype(np.float32)
    steps = values / np.where(scales > 0, scales, np.float32(1))[..., None]
    # Cut: the scale of a vector of the smallest floats is itself rounded by a large share.
    whole = np.clip(np.rint(steps, out=steps), -127, 127, out=steps)
    return whole.astype(np.int8), scales


def restored(features: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the float32 numbers of int8 ``features`` (..., H) with ``scales`` (...)."""
    return features.astype(np.float32) * scales[..., None]


def _tensor(dtype: str, shape: list[int], position: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return the first `NPY_HEADER_BYTES` bytes of a .npy file (format 1.0, C order)."""
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    room = NPY_HEADER_BYTES - 10
    text = repr(fields).ljust(room - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.encode("latin1")


def json_lines(chunk: FeatureChunk, layout: FeatureLayout, first_row: int) -> Iterator[str]:
    """Yield a line for each row, with the keys that extract_features.py wrote.

    ``linex_index`` is spelled as there; values are rounded to six places.
    """
    assert chunk.tokens is not None
    layout.check_finite(chunk.values)
    start = 0
    for number, tokens in enumerate(chunk.tokens, start=first_row):
        features = []
        values = chunk.values[start : start + len(tokens)].astype(np.float64)
        for token, vectors in zip(tokens, np.round(values, 6), strict=True):
            layers = [
                {"index": layer, "values": vector.tolist()}
                for layer, vector in zip(layout.layers, vectors, strict=True)
            ]
            features.append({"token": token, "layers": layers})
        start += len(tokens)
        yield json.dumps({"linex_index": number, "features": features}) + "\n"


def parquet_table(chunk: FeatureChunk, layout: FeatureLayout, first_row: int) -> pa.Table:
    """Return a chunk as a table: ``index``, a column ``layer_<n>`` each, and per token ``tokens``.

    A vector is a list of fixed size H; per token a column holds lists of them. In int8 a column
    ``layer_<n>_scale`` follows each, with a number for each vector.
    """
    values, scales = layout.stored(chunk.values)
    columns: dict[str, pa.Array] = {
        "index": pa.array(np.arange(first_row, first_row + chunk.rows, dtype=np.int64))
    }
    if chunk.tokens is not None:
        columns["tokens"] = pa.array(chunk.tokens, type=pa.list_(pa.string()))

    def by_row(items: pa.Array) -> pa.Array:
        if chunk.ids is None:
            return items
        ends = np.cumsum([0, *map(len, chunk.ids)], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), items)

    for place, layer in enumerate(layout.layers):
        flat = pa.array(np.ascontiguousarray(values[:, place]).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, layout.hidden_size)
        columns[f"layer_{layer}"] = by_row(vectors)
        if scales is not None:
            columns[f"layer_{layer}_scale"] = by_row(pa.array(scales[:, place].copy()))
    return pa.table(columns)


def read_pooled(
    folder: str | Path, layers: Sequence[int], block_rows: int = 4096
) -> Iterator[np.ndarray]:
    """Yield the pooled features in ``folder`` in order, (rows, L * H) float32, a block at a time.

    Features in int8 are restored.

    Raises:
        DataError: there are no pooled features in it.
    """
    folder = Path(folder)
    if (folder / "features.npy").is_file():
        array: Any = np.load(folder / "features.npy", mmap_mode="r")
        small = array.dtype == np.int8
        scales = np.load(folder / "scales.npy", mmap_mode="r") if small else None
        yield from _blocks(array, scales, len(array), block_rows)
    elif (folder / "features.safetensors").is_file():
        from safetensors import safe_open

        with safe_open(folder / "features.safetensors", framework="numpy") as file:
            part = file.get_slice("features")
            steps = file.get_slice("scales") if "scales" in file.keys() else None  # noqa: SIM118
            yield from _blocks(part, steps, part.get_shape()[0], block_rows)
    elif (folder / PARQUET_FOLDER).is_dir():
        for path in sorted((folder / PARQUET_FOLDER).glob("part-*.parquet")):
            names = [f"layer_{layer}" for layer in layers]
            wanted = {*names, *(f"{name}_scale" for name in names)}
            there = pq.read_schema(path).names
            table = pq.read_table(path, columns=[name for name in there if name in wanted])
            yield np.concatenate([_parquet_vectors(table, name) for name in names], axis=1)
    else:
        raise DataError(f"{folder}: there are no pooled features here (npy, safetensors, parquet).")


def _parquet_vectors(table: pa.Table, name: str) -> np.ndarray:
    flat = table[name].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(table.num_rows, -1).astype(np.float32)
    if f"{name}_scale" not in table.column_names:
        return vectors
    return restored(vectors, table[f"{name}_scale"].to_numpy())


def _blocks(array: Any, scales: Any, rows: int, block_rows: int) -> Iterator[np.ndarray]:
    for start in range(0, rows, block_rows):
        end = min(start + block_rows, rows)
        block = np.asarray(array[start:end], dtype=np.float32)
        if scales is not None:
            block = restored(block, np.asarray(scales[start:end]))
        yield block.reshape(len(block), -1)
