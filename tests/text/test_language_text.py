import gzip
import json

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
    assert text.counts() == count_text(LINES)


def test_a_file_of_bytes_is_read_as_it_is(tmp_path):
    """Not UTF-8, carriage returns, and no line end at its end: enwik8 is cut anywhere."""
    content = b"a\r\n\xff\x00 \xc3"
    (tmp_path / "enwik8").write_bytes(content)
    parts = list(LanguageText(str(tmp_path / "enwik8")).encode(ByteVocabulary()))
    assert np.concatenate(parts).tolist() == list(content)
    assert LanguageText(str(tmp_path / "enwik8")).counts().characters == 2 + 5


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
