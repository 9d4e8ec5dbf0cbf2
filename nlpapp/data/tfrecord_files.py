"""TFRecord files: a row of records, each with its checksums, and the messages in them.

A record is a length (uint64), its checksum, a message, its checksum; all numbers are little-endian,
the checksums masked CRC-32C (TensorFlow's ``record_writer``). A message is a `tf.train.Example`:
lists of numbers by name. TensorFlow itself is not needed.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, BinaryIO

import numpy as np

from nlpapp.errors import ConfigError, DataError

_CHECKSUM_MASK = 0xA282EAD8
_GZIP = b"\x1f\x8b"


def encode_message(features: Mapping[str, tuple[str, Sequence[Any]]]) -> bytes:
    """Return a `tf.train.Example`; ``features``: name -> ("int64_list" or "float_list", values)."""
    message = example_class()()
    for name, (kind, values) in features.items():
        numbers = getattr(message.features.feature.add(key=name).value, kind)
        numbers.SetInParent()  # else a list without values would not be there at all
        numbers.value.extend(values)
    encoded: bytes = message.SerializeToString()
    return encoded


def decode_message(message: bytes, place: str) -> dict[str, tuple[str, np.ndarray]]:
    """Return the features of a `tf.train.Example`: name -> (kind, values in int64 or float32).

    A feature of bytes, or of nothing, has its kind and no values.

    Raises:
        DataError: it is none; the text has ``place``.
    """
    from google.protobuf.message import DecodeError

    example = example_class()()
    try:
        example.ParseFromString(message)
    except DecodeError as error:
        raise DataError(f"{place}: not a tf.train.Example ({error}).") from None
    features: dict[str, tuple[str, np.ndarray]] = {}
    for entry in example.features.feature:
        kinds = [field.name for field, _ in entry.value.ListFields()]
        kind = " and ".join(kinds) or "nothing"
        values: Sequence[Any] = ()
        if kind in ("int64_list", "float_list"):
            values = getattr(entry.value, kind).value
        dtype = np.float32 if kind == "float_list" else np.int64
        features[entry.key] = (kind, np.array(values, dtype=dtype))
    return features


def write_record(file: BinaryIO, message: bytes) -> None:
    """Append one record to ``file``."""
    length = struct.pack("<Q", len(message))
    file.write(length + _checksum(length) + message + _checksum(message))


def read_records(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the messages of ``file``, checking both checksums of each.

    Raises:
        DataError: the file is cut off or damaged; the text has ``name`` and the record's number.
    """
    size = os.fstat(file.fileno()).st_size
    number = start = 0
    while head := file.read(12):
        number += 1
        place = f"{name}, record {number} (byte {start})"
        if number == 1 and head.startswith(_GZIP):
            raise DataError(f"{name} is compressed. Unpack it first: gunzip < FILE > FILE.tfrecord")
        if len(head) < 12:
            raise _cut_off(place)
        if _checksum(head[:8]) != head[8:]:
            what = "" if number > 1 else ", or the file is no TFRecord file"
            raise DataError(f"{place}: the checksum of the length differs: it is damaged{what}.")
        length = int(struct.unpack("<Q", head[:8])[0])
        if start + 12 + length + 4 > size:
            raise _cut_off(place)
        body = file.read(length + 4)
        if len(body) < length + 4:
            raise _cut_off(place)
        if _checksum(body[:length]) != body[length:]:
            raise DataError(
                f"{place}: the checksum of the content differs: it is damaged. Copy the file "
                "again, or make it again."
            )
        yield body[:length]
        start += 12 + length + 4


def _cut_off(place: str) -> DataError:
    return DataError(
        f"{place}: the file ends in the middle of the record. Copy the file again, or make it "
        "again."
    )


def check_installed() -> None:
    """Raise `ConfigError` unless the packages of the extra are there."""
    _crc32c()
    example_class()


@cache
def _crc32c() -> Callable[[bytes], int]:
    try:
        import google_crc32c
    except ImportError:
        raise _not_installed("google-crc32c") from None
    value: Callable[[bytes], int] = google_crc32c.value
    return value


def _not_installed(package: str) -> ConfigError:
    return ConfigError(
        f"TFRecord files need the package {package}, which is not installed. "
        "Install it: pip install nlpapp[tfrecord]"
    )


def _checksum(content: bytes) -> bytes:
    """Return the masked CRC-32C, which is rotated by 15 bits and shifted by a constant."""
    crc = _crc32c()(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _CHECKSUM_MASK) & 0xFFFFFFFF)


@cache
def example_class() -> Any:
    """Return the class of `tf.train.Example` messages.

    It lives in a pool of its own: in the common one its names would clash with TensorFlow's.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise _not_installed("protobuf") from None

    field = descriptor_pb2.FieldDescriptorProto
    # A map is, on the wire, a list of (key, value) messages; a list keeps the order of writing.
    messages = {
        "BytesList": [("value", field.TYPE_BYTES, "", True)],
        "FloatList": [("value", field.TYPE_FLOAT, "", True)],
        "Int64List": [("value", field.TYPE_INT64, "", True)],
        "Feature": [
            ("bytes_list", field.TYPE_MESSAGE, "BytesList", False),
            ("float_list", field.TYPE_MESSAGE, "FloatList", False),
            ("int64_list", field.TYPE_MESSAGE, "Int64List", False),
        ],
        "Entry": [
            ("key", field.TYPE_STRING, "", False),
            ("value", field.TYPE_MESSAGE, "Feature", False),
        ],
        "Features": [("feature", field.TYPE_MESSAGE, "Entry", True)],
        "Example": [("features", field.TYPE_MESSAGE, "Features", False)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="example", package="tfrecord", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind, type_name, repeated) in enumerate(fields, start=1):
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                type_name=f".tfrecord.{type_name}" if type_name else None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfrecord.Example"))
