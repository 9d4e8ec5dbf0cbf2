"""The columns of parquet shards as flat arrays on disk, which are mapped instead of read.

    token_offsets, lengths               int64: where each instance begins, and its tokens
    input_ids, token_type_ids            one value for each token, and word_continues
    prediction_offsets                   int64: where the predictions of an instance begin
    masked_lm_positions, masked_lm_ids   one value for each prediction
    next_sentence_label                  one value for each instance; or sentence_order_label

Each is a raw file of that name; types are those of the shards. Static masks, which lie beside the
text in the shards (``masked_lm_inputs``), are put into input_ids, and what stood there becomes
masked_lm_ids.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp.data.masking import exchange
from nlpapp.errors import DataError

ROWS_AT_ONCE = 2048
"""Instances that are in memory at once while shards are read in."""

LIST_COLUMNS = {
    "input_ids": "token_offsets",
    "token_type_ids": "token_offsets",
    "word_continues": "token_offsets",
    "masked_lm_positions": "prediction_offsets",
    "masked_lm_inputs": "prediction_offsets",
}
"""Columns of lists -> the array that says where each instance begins."""

LABEL_COLUMNS = ("next_sentence_label", "sentence_order_label")

EMPTY = pa.schema({"input_ids": pa.list_(pa.uint16()), "token_type_ids": pa.list_(pa.uint8())})
"""Columns of data without shards."""


def are_complete(folder: Path, sizes: Any) -> bool:
    """Tell whether every array of ``sizes`` (name -> type and number) is there in its full size."""
    try:
        return bool(sizes) and all(
            (folder / name).stat().st_size == np.dtype(dtype).itemsize * count
            for name, (dtype, count) in sizes.items()
        )
    except (OSError, TypeError, ValueError, AttributeError):
        return False


def map_arrays(folder: Path, sizes: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Return the arrays by name, read-only; the disk is read where they are used."""
    arrays = {}
    for name, (dtype, count) in sizes.items():
        if count:
            mapped: np.ndarray = np.memmap(folder / name, dtype=dtype, mode="r", shape=(count,))
            # A plain view of the same memory: slices of a memmap are slow to make.
            arrays[name] = np.asarray(mapped)
        else:
            arrays[name] = np.zeros(0, dtype=dtype)
    return arrays


class ArrayFiles:
    """Writes arrays shard by shard; a context manager, after which they are on the disk."""

    def __init__(self, folder: Path) -> None:
        """Write into ``folder``, which is there and empty."""
        self.folder = folder
        self.sizes: dict[str, tuple[str, int]] = {}
        """Type and number of values of each array so far."""
        self._files: dict[str, BinaryIO] = {}
        self._types: dict[str, pa.DataType] | None = None
        self._last: dict[str, int] = {}

    def __enter__(self) -> "ArrayFiles":
        self._add("token_offsets", np.dtype(np.int64))
        self._add("lengths", np.dtype(np.int64))
        self._append("token_offsets", np.zeros(1, dtype=np.int64))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                if self._types is None:
                    self._set_columns(EMPTY, self.folder)
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            for file in self._files.values():
                file.close()

    def append_shard(self, path: Path) -> None:
        """Append the rows of a parquet shard, some thousand at a time.

        Raises:
            DataError: it is not parquet, or does not have the columns that it should have.
        """
        try:
            # Without these two, arrow holds the whole file while it goes through it.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as shard:
                columns = self._set_columns(shard.schema_arrow, path)
                for batch in shard.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                    self._append_rows(batch, path)
        except pa.ArrowException as error:
            raise DataError(f"{path} cannot be read as parquet: {error}") from error

    def _append_rows(self, batch: pa.RecordBatch, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        lengths: dict[str, np.ndarray] = {}
        for name in batch.schema.names:
            column = batch.column(name)
            values = column.flatten() if name in LIST_COLUMNS else column
            if column.null_count or values.null_count:
                raise DataError(f"{path}: column {name} has empty (null) values; it must have none")
            arrays[name] = values.to_numpy(zero_copy_only=False)
            if name in LIST_COLUMNS:
                own = column.value_lengths().to_numpy().astype(np.int64)
                shared = lengths.setdefault(LIST_COLUMNS[name], own)
                if not np.array_equal(own, shared):
                    row = int(np.flatnonzero(own != shared)[0])
                    raise DataError(
                        f"{path}: column {name} has a row of {own[row]} values where the column "
                        f"before it has {shared[row]}; both must have the same number"
                    )
        if "masked_lm_inputs" in arrays:
            _put_masks(arrays, lengths, path)
        for name, values in arrays.items():
            self._append(name, values)
        for name, counts in lengths.items():
            self._append(name, counts.cumsum() + self._last.get(name, 0))
        self._append("lengths", lengths["token_offsets"])

    def _set_columns(self, schema: pa.Schema, path: Path) -> list[str]:
        """Check that a shard has the columns of the first one, and return their names."""
        known = (*LIST_COLUMNS, *LABEL_COLUMNS)
        types = {name: schema.field(name).type for name in known if name in schema.names}
        if self._types is None:
            _check_columns(types, path)
            self._types = types
            if "masked_lm_inputs" in types:
                self._add("prediction_offsets", np.dtype(np.int64))
                self._append("prediction_offsets", np.zeros(1, dtype=np.int64))
            for name, kind in types.items():
                value = kind.value_type if name in LIST_COLUMNS else kind
                array = "masked_lm_ids" if name == "masked_lm_inputs" else name
                self._add(array, np.dtype(value.to_pandas_dtype()))
        elif types != self._types:
            raise DataError(
                f"{path} has the columns {_described(types)}, but the first shard has "
                f"{_described(self._types)}. Remove the folder and run make-data again."
            )
        return list(types)

    def _add(self, name: str, dtype: np.dtype) -> None:
        self._files[name] = open(self.folder / name, "wb")  # noqa: SIM115
        self.sizes[name] = (dtype.str, 0)

    def _append(self, name: str, values: np.ndarray) -> None:
        """Write ``values`` at the end of an array."""
        dtype, count = self.sizes[name]
        self._files[name].write(np.ascontiguousarray(values, dtype=dtype).data)
        self.sizes[name] = (dtype, count + len(values))
        if name.endswith("_offsets") and len(values):
            self._last[name] = int(values[-1])


def _put_masks(
    arrays: dict[str, np.ndarray], lengths: Mapping[str, np.ndarray], path: Path
) -> None:
    """Put static masks into the ids of some rows, and what stood there beside them."""
    tokens, predictions = lengths["token_offsets"], lengths["prediction_offsets"]
    positions = arrays["masked_lm_positions"]
    if (positions >= np.repeat(tokens, predictions)).any():
        raise DataError(f"{path}: masked_lm_positions has a position outside of its row")
    places = np.repeat(tokens.cumsum() - tokens, predictions) + positions
    arrays["input_ids"], arrays["masked_lm_ids"] = exchange(
        arrays["input_ids"], places, arrays.pop("masked_lm_inputs")
    )


def _check_columns(types: Mapping[str, pa.DataType], path: Path) -> None:
    for name in ("input_ids", "token_type_ids"):
        if name not in types:
            raise DataError(f"{path} has no column {name}; a shard that make-data wrote has one")
    if ("masked_lm_inputs" in types) != ("masked_lm_positions" in types):
        raise DataError(
            f"{path} has one of masked_lm_positions and masked_lm_inputs; it needs both"
        )
    for name, kind in types.items():
        value = kind
        if name in LIST_COLUMNS:
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            value = kind.value_type if is_list else pa.null()
        if not (pa.types.is_integer(value) or pa.types.is_boolean(value)):
            expected = "lists of integers" if name in LIST_COLUMNS else "integers"
            raise DataError(f"{path}: column {name} is of type {kind}; {expected} are expected")
    if "masked_lm_inputs" in types:
        _check_predictions(types, path)


def _check_predictions(types: Mapping[str, pa.DataType], path: Path) -> None:
    """Refuse types of which positions count from the end of a row, or ids are cut, unseen."""
    again = "Remove the folder and run make-data again, or write the column in that type."
    positions = types["masked_lm_positions"]
    kind = positions.value_type
    if not pa.types.is_unsigned_integer(kind) or kind.bit_width > 32:
        raise DataError(
            f"{path}: column masked_lm_positions is of type {positions}; lists of unsigned "
            f"integers of at most 32 bits are expected. {again}"
        )
    inputs, ids = types["masked_lm_inputs"], types["input_ids"]
    if inputs.value_type != ids.value_type:
        raise DataError(
            f"{path}: column masked_lm_inputs is of type {inputs}; the values of input_ids, "
            f"{ids.value_type}, are expected, as they take their places. {again}"
        )


def _described(types: Mapping[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())
