import gzip
import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from nlpapp.errors import DataError
from nlpapp.text.language_text import LanguageText, TextCounts, count_text
from nlpapp.text.vocabulary import ByteVocabulary, count_symbols

LINES = ["A line. And more, it goes on.", "", "caf\u00e9", " = Title = "]
TEXT = "".join(line + "\n" for line in LINES)


def write(folder, name):
    """Write `LINES` in the format that the name tells."""
    path = folder / name
    rows = [{"n": number, "text": line} for number, line in enumerate(LINES)]
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(TEXT.encode()))
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.compress(TEXT.encode()))
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".csv"):
        cells = "".join(f'{row["n"]},"{row["text"]}"\n' for row in rows)
        path.write_text("n,text\n" + cells, encoding="utf-8")
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    ["a.txt", "wiki.train.tokens", "enwik8", "a.txt.gz", "a.zst", "a.jsonl", "a.parquet"],
)
def test_lines_are_as_they_stand_in_every_format(tmp_path, name):
    text = LanguageText(str(write(tmp_path, name)))
    assert list(text.lines()) == LINES
    assert list(text.lines()) == LINES  # as often as one likes


def test_rows_of_csv_keep_their_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('n,text\n1,"one\ntwo"\n2,three\n', encoding="utf-8")
    assert list(LanguageText(str(path)).lines()) == ["one", "two", "three"]


def test_several_inputs_are_one_text_in_the_order_given(tmp_path):
    (tmp_path / "books").mkdir()
    for name in ("b", "a"):
        (tmp_path / "books" / f"{name}.txt").write_text(f"book {name}\n")
    (tmp_path / "z.tokens").write_text("first")
    text = LanguageText([str(tmp_path / "z.tokens"), str(tmp_path / "books")])
    assert list(text.lines()) == ["first", "book a", "book b"]
    assert text.name == f"{tmp_path}/z.tokens, {tmp_path}/books"


def test_ranges_of_a_file_are_its_bytes(tmp_path):
    """Cut in the middle of lines, as the splits of enwik8 are."""
    path = tmp_path / "enwik8"
    data = TEXT.encode()
    path.write_bytes(data)
    texts = [LanguageText(f"{path}[{limits}]") for limits in (":9", "9:34", "34:")]
    assert [line for text in texts for line in text.lines()] == [
        *("A line. A", "nd more, it goes on.", "", "caf", "\u00e9", " = Title = "),
    ]
    ids = [np.concatenate(list(text.encode(ByteVocabulary()))) for text in texts]
    assert [part.tobytes() for part in ids] == [data[:9], data[9:34], data[34:]]
    assert texts[1].counts(ByteVocabulary()) == TextCounts(25, 25, 5 + 2 + 1)
    assert len({text.fingerprint() for text in [*texts, LanguageText(str(path))]}) == 4
    vocabulary = count_symbols("characters", LanguageText(str(path)).lines())
    characters = [i for text in texts for line in text.encode(vocabulary) for i in line]
    assert (
        vocabulary.decode(characters)
        == "A line. A\nnd more, it goes on.\n\ncaf\n\u00e9\n = Title = \n"
    )
    # Each range ends its last line, whether or not the file does.
    assert [text.counts(vocabulary).characters for text in texts] == [10, 26, 14]


def test_a_name_that_looks_like_a_range_is_a_name(tmp_path):
    (tmp_path / "a[1:2]").write_text("one\n")
    assert list(LanguageText(f"{tmp_path}/a[1:2]").lines()) == ["one"]


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("a", "0:51", "a has 50 bytes; expected a start below the stop"),
        ("a", "9:9", "a has 50 bytes"),
        ("b", "0:9", "No file .*b'"),
        ("c.gz", "0:9", "a range of bytes is for plain text; unpack .*c.gz first"),
        ("d.jsonl", "0:9", "a range of bytes is for plain text"),
    ],
)
def test_ranges_that_a_file_does_not_have_are_named(tmp_path, name, limits, message):
    (tmp_path / "a").write_bytes(b"x" * 50)
    for other in ("c.gz", "d.jsonl"):
        write(tmp_path, other)
    with pytest.raises(DataError, match=message):
        LanguageText(f"{tmp_path / name}[{limits}]")


def test_a_range_that_cuts_a_character_is_named(tmp_path):
    (tmp_path / "a").write_text("one\ncaf\u00e9\n", encoding="utf-8")
    text = LanguageText(f"{tmp_path}/a[0:8]")
    with pytest.raises(DataError, match="a, line 2 of the bytes from 0 on: not UTF-8"):
        list(text.lines())
    assert len(np.concatenate(list(text.encode(ByteVocabulary())))) == 8


def test_a_data_set_of_the_hub_is_read_row_by_row(tmp_path):
    """A folder on this machine stands in for owner/name."""
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", "train.parquet")
    text = LanguageText(f"hub:{tmp_path / 'set'}")
    assert list(text.lines()) == LINES


def test_counts_include_the_end_of_each_line():
    assert count_text(LINES) == TextCounts(len(TEXT), len(TEXT.encode()), 7 + 0 + 1 + 3 + 4)
    assert count_text([]) == TextCounts(0, 0, 0)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_counts_are_of_the_lines(tmp_path, name):
    text = LanguageText(str(write(tmp_path, name)))
    assert text.counts(count_symbols("words", LINES)) == count_text(LINES)


def test_a_file_of_bytes_is_read_as_it_is(tmp_path):
    """Not UTF-8, carriage returns, and no line end at its end: enwik8 is cut anywhere."""
    content = b"a\r\n\xff\x00 \xc3"
    (tmp_path / "enwik8").write_bytes(content)
    parts = list(LanguageText(str(tmp_path / "enwik8")).encode(ByteVocabulary()))
    assert np.concatenate(parts).tolist() == list(content)
    assert LanguageText(str(tmp_path / "enwik8")).counts(ByteVocabulary()) == TextCounts(
        7, len(content), 4
    )


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_what_is_counted_is_what_is_encoded(tmp_path, name):
    """Carriage returns and a last line without an end: as they stand for bytes, else lines."""
    content = b"caf\xc3\xa9 a\r\n\r\nb"
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(content))
    text = LanguageText(str(tmp_path / name))
    num_bytes = len(np.concatenate(list(text.encode(ByteVocabulary()))))
    assert text.counts(ByteVocabulary()) == TextCounts(11, num_bytes, 3 + 2)
    assert num_bytes == len(content) == 12
    characters = count_symbols("characters", text.lines())
    num_characters = sum(len(ids) for ids in text.encode(characters))
    assert text.counts(characters) == TextCounts(num_characters, 11, 3 + 3)
    assert num_characters == 10


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("a.gz", None), ("a.gz", 12), ("a.zst", None), ("a.zst", 6)],
    ids=["cut gzip", "wrong gzip", "cut zstd", "wrong zstd"],
)
def test_a_damaged_archive_is_named_however_it_is_read(tmp_path, name, wrong):
    path = write(tmp_path, name)
    packed = bytearray(path.read_bytes())
    if wrong is None:
        del packed[-6:]
    else:
        packed[wrong : wrong + 3] = b"\xff" * 3
    path.write_bytes(packed)
    text = LanguageText(str(path))
    with pytest.raises(DataError, match=f"{name} is a truncated or damaged") as of_lines:
        list(text.lines())
    with pytest.raises(DataError) as of_bytes:
        list(text.encode(ByteVocabulary()))
    assert str(of_bytes.value) == str(of_lines.value)
    with pytest.raises(DataError, match=f"{name} is a truncated or damaged"):
        text.counts(ByteVocabulary())


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_a_file_that_has_changed_is_named_however_it_is_read(tmp_path, name):
    path = write(tmp_path, name)
    text = LanguageText(str(path))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    for read in (
        text.lines,
        lambda: text.encode(ByteVocabulary()),
        lambda: [text.counts(ByteVocabulary())],
    ):
        with pytest.raises(DataError, match=f"{name} has changed since"):
            list(read())


def test_a_changed_range_is_named(tmp_path):
    path = write(tmp_path, "a.txt")
    text = LanguageText(f"{path}[0:9]")
    path.unlink()
    with pytest.raises(DataError, match="a.txt cannot be read any more"):
        list(text.lines())


def test_bytes_of_a_table_are_those_of_its_rows(tmp_path):
    parts = LanguageText(str(write(tmp_path, "a.jsonl"))).encode(ByteVocabulary())
    assert bytes(index for part in parts for index in part) == TEXT.encode()


def test_words_are_encoded_with_line_ends_over_all_sources(tmp_path):
    (tmp_path / "a.txt").write_text("x y\n")
    (tmp_path / "b.txt").write_text("y")
    vocabulary = count_symbols("words", ["x y", "y"])
    text = LanguageText([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    ids = vocabulary.ids
    assert list(text.encode(vocabulary)) == [
        [ids["x"], ids["y"], vocabulary.end_id],
        [ids["y"], vocabulary.end_id],
    ]


def test_the_fingerprint_tells_a_changed_file(tmp_path):
    path = write(tmp_path, "a.txt")
    before = LanguageText(str(path)).fingerprint()
    assert LanguageText(str(path)).fingerprint() == before
    path.write_text("other\n")
    assert LanguageText(str(path)).fingerprint() != before


def test_faults_are_named(tmp_path):
    with pytest.raises(DataError, match="No file .*nowhere"):
        LanguageText(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no text is given"):
        LanguageText([])
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(DataError, match="row 2: the value of 'text' is a NoneType"):
        list(LanguageText(str(tmp_path / "a.jsonl")).lines())
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match="b.jsonl cannot be read"):
        list(LanguageText(str(tmp_path / "b.jsonl")).lines())
    (tmp_path / "c.txt").write_bytes(b"ok\n\xff\n")
    with pytest.raises(DataError, match="c.txt, line 2, byte offset 3: not UTF-8"):
        list(LanguageText(str(tmp_path / "c.txt")).lines())
