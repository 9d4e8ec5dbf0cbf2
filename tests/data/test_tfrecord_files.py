import builtins
import io

import numpy as np
import pytest

from nlpapp.data import tfrecord_files
from nlpapp.data.tfrecord_files import (
    check_installed,
    decode_message,
    encode_message,
    read_records,
    write_record,
)
from nlpapp.errors import ConfigError, DataError
from tests.data import plain_tfrecords as plain

MESSAGES = [b"", b"one", bytes(range(256)) * 20]


def written(path, messages):
    with open(path, "wb") as file:
        for message in messages:
            write_record(file, message)
    return path


def read(path):
    with open(path, "rb") as file:
        return list(read_records(file, path.name))


def test_witness_knows_the_published_check_values():
    """RFC 3720, appendix B.4, and the usual check string."""
    assert plain.crc32c(b"123456789") == 0xE3069283
    assert plain.crc32c(bytes(32)) == 0x8A9136AA


def test_records_are_those_of_the_format(tmp_path):
    path = written(tmp_path / "file", MESSAGES)
    assert path.read_bytes() == b"".join(map(plain.record, MESSAGES))
    assert read(path) == MESSAGES


def test_tensorboard_reads_what_is_written_and_the_other_way_round(tmp_path):
    from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow
    from tensorboard.summary.writer.record_writer import RecordWriter

    reader = pywrap_tensorflow.PyRecordReader_New(str(written(tmp_path / "ours", MESSAGES)))
    for message in MESSAGES:
        reader.GetNext()
        assert reader.record() == message
    with pytest.raises(errors.OutOfRangeError):
        reader.GetNext()
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for message in MESSAGES:
        writer.write(message)
    (tmp_path / "theirs").write_bytes(buffer.getvalue())
    assert read(tmp_path / "theirs") == MESSAGES


def test_messages_are_those_of_the_format():
    features = {"ids": [0, 1, 127, 128, 30521, 2**40, -1], "weights": [1.0, 0.5], "none": []}
    kinds = {"ids": "int64_list", "weights": "float_list", "none": "int64_list"}
    encoded = encode_message({name: (kinds[name], values) for name, values in features.items()})
    # A list without values is there, with nothing in it.
    with_nothing = plain.delimited(1, plain.delimited(1, b"none") + plain.delimited(2, b"\x1a\0"))
    both = {name: features[name] for name in ("ids", "weights")}
    inner = plain.example(both)[2:] + with_nothing
    assert encoded == plain.delimited(1, inner)
    for message in (encoded, plain.example(features, packed=False)):
        decoded = decode_message(message, "here")
        assert decoded.keys() == features.keys()
        for name, (kind, values) in decoded.items():
            assert kind == kinds[name] and values.tolist() == features[name]
    assert decoded["ids"][1].dtype == np.int64 and decoded["weights"][1].dtype == np.float32


def test_bytes_are_told_by_their_kind():
    kind, values = decode_message(plain.example({"image": b"..."}), "here")["image"]
    assert kind == "bytes_list" and len(values) == 0


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0a\x7f"])
def test_what_is_no_example_is_refused(message):
    with pytest.raises(DataError, match="^file, record 3: not a tf.train.Example"):
        decode_message(message, "file, record 3")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    whole = written(tmp_path / "file", [b"first", b"second"]).read_bytes()
    first = 12 + 5 + 4
    for end in range(1, len(whole)):
        (tmp_path / "file").write_bytes(whole[:end])
        if end == first:
            assert read(tmp_path / "file") == [b"first"]
            continue
        number, start = (1, 0) if end < first else (2, first)
        expected = rf"^file, record {number} \(byte {start}\): the file ends in the middle"
        with pytest.raises(DataError, match=expected):
            read(tmp_path / "file")


def test_any_changed_bit_is_found(tmp_path):
    whole = written(tmp_path / "file", [b"first", b"second"]).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "file").write_bytes(damaged)
        number = 1 if place < 21 else 2
        part = "length" if (place if number == 1 else place - 21) < 12 else "content"
        expected = rf"^file, record {number} .* checksum of the {part} differs"
        with pytest.raises(DataError, match=expected):
            read(tmp_path / "file")


def test_other_files_are_told(tmp_path):
    (tmp_path / "file").write_bytes(b"just some text, no records")
    with pytest.raises(DataError, match="or the file is no TFRecord file"):
        read(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"\x1f\x8b\x08\x00" + bytes(20))
    with pytest.raises(DataError, match="file is compressed. Unpack it first: gunzip"):
        read(tmp_path / "file")


@pytest.mark.parametrize("package", ["google_crc32c", "google.protobuf"])
def test_a_missing_package_says_how_to_install_it(monkeypatch, package):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == package:
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    tfrecord_files._crc32c.cache_clear()
    tfrecord_files.example_class.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[tfrecord\]"):
        check_installed()
