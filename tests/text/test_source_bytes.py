import gzip
import io
import os
import random

import pytest
import zstandard

from nlpapp.errors import DataError
from nlpapp.text import source_bytes
from nlpapp.text.source_bytes import (
    LineNumbers,
    Source,
    SourcePart,
    count_lines,
    find_compression,
    open_source,
    read_line_chunks,
)


def source_of(path, form="lines", compression="none", column=""):
    state = os.stat(path)
    return Source(str(path), form, compression, state.st_size, state.st_mtime_ns, column, "file")


def write(path, content):
    path.write_bytes(content)
    return path


def chunks_of(path, start=0, stop=None, **options):
    source = source_of(path, **options)
    return list(read_line_chunks(SourcePart(source, start, source.size if stop is None else stop)))


def lines_at(path, start, stop, place):
    """Say in another way which lines belong to a part: by the byte they begin at."""
    begin, found = 0, []
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        here = "own" if start <= begin < stop else "after" if begin >= stop else "before"
        if here == place:
            found.append((number, raw.decode().removesuffix("\n")))
        begin += len(raw)
    return found


@pytest.mark.parametrize("chunk_bytes", [16, 1 << 20])
def test_lines_of_any_part_are_those_that_begin_in_it(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", chunk_bytes)
    draw = random.Random(5)
    text = "".join("x\u00e9" * draw.choice([0, 1, 30]) + "\n" for _ in range(40)) + "end"
    path = write(tmp_path / "a.txt", text.encode())
    size = path.stat().st_size
    for _ in range(200):
        start, stop = sorted(draw.sample(range(size + 1), 2))
        found = {"before": [], "own": [], "after": []}
        for chunk in chunks_of(path, start, stop):
            for index, line in enumerate(chunk.lines()):
                number = chunk.line(index)
                found[chunk.place].append((number() if callable(number) else number, line))
        assert found["own"] == lines_at(path, start, stop, "own")
        assert found["after"] == lines_at(path, start, stop, "after")
        assert found["before"] == lines_at(path, start, stop, "before")[-1:]


def test_line_ends_and_byte_order_mark(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffone\r\n\r\ntwo\rstill two\r\r\nthree".encode())
    (chunk,) = chunks_of(path)
    assert chunk.lines() == ["one", "", "two still two ", "three"]


def test_lines_before_a_part_are_counted_only_when_asked(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", b"a\nb\nc\nd\n")
    counted = []
    monkeypatch.setattr(source_bytes, "count_lines", lambda *a: counted.append(a) or 2)
    chunk = chunks_of(path, 5, 8)[1]
    assert chunk.lines() == ["d"] and not counted
    assert chunk.line(0)() == 4 and chunk.line(0)() == 4 and len(counted) == 1
    monkeypatch.undo()
    assert [count_lines(str(path), stop) for stop in (0, 1, 2, 5, 8, 99)] == [0, 0, 1, 2, 4, 4]
    assert LineNumbers(str(path), 4).number(1) == 4


def test_counts_of_lines_go_on_from_one_another(tmp_path):
    draw = random.Random(4)
    paths = [write(tmp_path / f"{i}.txt", bytes(draw.choices(b"ab\n", k=500))) for i in range(2)]
    for _ in range(200):
        path, stop = draw.choice(paths), draw.randrange(600)
        assert count_lines(str(path), stop) == path.read_bytes()[:stop].count(b"\n")
    write(path, b"\n" * 700)  # A file that is written anew is counted anew.
    os.utime(path, ns=(1, 1))
    assert count_lines(str(path), 650) == 650


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"Tw\xf6", r"line 9003, byte offset 63011{0}: not UTF-8 \(byte 0xf6\).*latin1"),
        (b"Tw\xe4\xb8", r"line 9003, byte offset 63011{0}: not UTF-8 \(byte 0xe4\)"),
        (b"Tw\0o", r"line 9003, byte offset 63011{0}: a NUL byte.*tr -d '\\000'"),
    ],
)
def test_bytes_that_are_no_text(tmp_path, monkeypatch, compression, damage, what):
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", 1 << 14)
    raw = b"One.\r\n\n" * 4500 + b"x" * 31499 + b"\n\n" + damage + b"\n"
    assert raw.index(damage) + 2 == 63003
    raw = b"12345678" + raw
    path = write(tmp_path / "a.txt", pack(raw, compression))
    unpacked = "" if compression == "none" else " of the unpacked text"
    with pytest.raises(DataError, match=r"a\.txt, " + what.format(unpacked)):
        chunks_of(path, compression=compression)
    if compression == "none":  # From the middle of the file, the place is the same.
        with pytest.raises(DataError, match=r"a\.txt, " + what.format("")):
            chunks_of(path, 40_000, 63_011)


def pack(raw, compression):
    if compression == "none":
        return raw
    if compression == "gzip":
        return gzip.compress(raw)
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)  # As the zstd command does.


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_told(tmp_path, encoding):
    path = write(tmp_path / "a.txt", "Some words.\n".encode(encoding))
    with pytest.raises(DataError, match=r"line 1, byte offset [01]: .*iconv -f utf-16 -t utf-8"):
        chunks_of(path)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_truncated_archives_say_how_far_they_got(tmp_path, compression):
    draw = random.Random(1)
    raw = "".join(f"{draw.random()}\n" for _ in range(120_000)).encode()
    whole = pack(raw, compression)
    path = write(tmp_path / "a.txt", whole)
    text = "".join(chunk.text for chunk in chunks_of(path, compression=compression))
    assert text == raw.decode()
    write(path, whole[: int(len(whole) * 0.9)])
    with pytest.raises(
        DataError, match=r"a\.txt is a truncated.*as far as line \d+ \(byte"
    ) as info:
        chunks_of(path, compression=compression)
    lines = int(str(info.value).split("line ")[1].split()[0])
    assert 40_000 < lines < 110_000
    write(path, whole[:5000] + b"\xff" * 100 + whole[5100:])
    with pytest.raises(DataError, match=f"damaged {compression} archive"):
        chunks_of(path, compression=compression)


def test_zstd_archives_of_several_frames(tmp_path):
    # As `zstd -T0`, `pzstd` and concatenation make them, with the size in the header or without.
    stream = zstandard.ZstdCompressor().compressobj()
    unsized = stream.compress(b"two\n") + stream.flush()
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    packed = skipped + zstandard.compress(b"one\n") + unsized + zstandard.compress(b"x" * 3_000_000)
    path = write(tmp_path / "a.zst", packed)
    assert find_compression(path) == "zstd"
    with open_source(source_of(path, compression="zstd")) as file:
        assert file.read() == b"one\ntwo\n" + b"x" * 3_000_000
    long = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=28)
    ).compressobj()
    path.write_bytes(long.compress(b"far\n" * 10) + long.flush())
    assert chunks_of(path, compression="zstd")[0].lines() == ["far"] * 10


def test_compression_is_told_from_the_bytes(tmp_path):
    for compression in ("none", "gzip", "zstd"):
        path = write(tmp_path / "a.txt", pack(b"some text", compression))
        assert find_compression(path) == compression
        with open_source(source_of(path, compression=compression)) as file:
            assert file.read() == b"some text"


def test_a_long_line_is_read_with_one_warning(tmp_path, caplog):
    long = b"x" * 10_000_000
    path = write(tmp_path / "a.txt", b"a\nb\n" + long + b"\nc\n" + long + b"\n")
    lines = [line for chunk in chunks_of(path) for line in chunk.lines()]
    assert [len(line) for line in lines] == [1, 1, 10_000_000, 1, 10_000_000]
    assert caplog.text.count(f"{path}, line 3 is 10000001 bytes long") == 1
    assert len(caplog.records) == 1


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(source_bytes, "LONGEST_LINE", 1 << 10)
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", 1 << 9)
    path = write(tmp_path / "a.txt", b"x" * 5000)
    for start in (0, 4000):
        with pytest.raises(DataError, match=r"a\.txt: a line is longer than 1024 bytes"):
            chunks_of(path, start, 5000)


def test_a_changed_file_is_told(tmp_path):
    path = write(tmp_path / "a.txt", b"a\n")
    source = source_of(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed since"):
        next(read_line_chunks(SourcePart(source, 0, 2)))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.txt cannot be read any more: No such file"):
        next(read_line_chunks(SourcePart(source, 0, 2)))


def test_a_disk_error_names_the_file(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def readline(self, size=-1):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(source_bytes, "open", lambda *_: Broken(b"ab"), raising=False)
    monkeypatch.setattr(source_bytes, "check_unchanged", lambda source: None)
    with pytest.raises(DataError, match=r"a\.txt cannot be read at byte 0: .*Input/output"):
        next(read_line_chunks(SourcePart(Source("a.txt", "lines", "none", 9, 0, "", "file"), 0, 9)))
