import csv
import json
import os
import random
import re

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nlpapp.errors import DataError
from nlpapp.text import source_bytes, source_tables
from nlpapp.text.source_bytes import SourcePart
from nlpapp.text.source_tables import (
    choose_text_column,
    find_text_column,
    parquet_group_sizes,
    read_csv,
    read_jsonl,
    read_parquet,
)
from nlpapp.text.sources import find_sources, split_source
from tests.text.test_source_bytes import source_of

ROWS = ["A cat. A dog.", "One line\nand a second.\n\nNew paragraph.", 'With "quotes", commas.', "x"]
SENTENCES = [
    ("A cat.", "A dog."),
    ("One line", "and a second.", "New paragraph."),
    ('With "quotes", commas.',),
    ("x",),
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return source_of(path, form="jsonl", column="text")


def csv_file(path, content):
    path.write_bytes(content.encode())
    return source_of(path, form="csv", column="text")


def parquet(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return source_of(path, form="parquet", column="text")


def whole(source):
    return SourcePart(source, 0, source.size if source.format == "jsonl" else 1)


def test_each_row_is_a_document_in_every_format(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(ROWS)])
    path = tmp_path / "a.csv"
    found = list(read_csv(whole(source_of(path, form="csv", column="text"))))
    assert [document.sentences for document in found] == SENTENCES
    assert [document.line for document in found] == [2, 3, 7, 8]
    lines = list(read_jsonl(whole(jsonl(tmp_path / "a.jsonl", [{"text": t} for t in ROWS]))))
    assert [(d.sentences, d.line) for d in lines] == list(zip(SENTENCES, (1, 2, 3, 4), strict=True))
    rows = list(read_parquet(whole(parquet(tmp_path / "a.parquet", {"text": ROWS}))))
    assert [(d.sentences, d.line) for d in rows] == list(zip(SENTENCES, (1, 2, 3, 4), strict=True))


def test_csv_rows_are_those_that_datasets_reads(tmp_path):
    draw = random.Random(3)
    texts = ["".join(draw.choices('ab ,."\n', k=20)) + "z" for _ in range(50)]
    path = tmp_path / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "id"], *zip(texts, range(50), strict=True)])
    read = datasets.load_dataset(
        "csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )["text"]
    found = list(read_csv(whole(source_of(path, form="csv", column="text"))))
    assert len(found) == 50 and list(read) == texts
    for document, text in zip(found, texts, strict=True):
        assert "".join(document.sentences).replace(" ", "") == re.sub(r"\s", "", text)


@pytest.mark.parametrize("seed", range(20))
def test_jsonl_parts_of_any_size_hold_the_rows_of_the_file(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", draw.choice([16, 64, 1 << 20]))
    lines = [
        draw.choice(
            ["", "  ", json.dumps({"text": f"{i}" + "\u00e9\n" * i}, ensure_ascii=i % 2 > 0)]
        )
        for i in range(30)
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(("\ufeff" + draw.choice(["\n", "\r\n"]).join(lines)).encode())
    source = source_of(path, form="jsonl", column="text")
    expected = [
        (json.loads(line)["text"].split("\n")[0].rstrip("\u00e9"), number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    for size in [1, 2, *draw.sample(range(3, 400), 8), 10_000]:
        found = [d for part in split_source(source, size) for d in read_jsonl(part)]
        assert [(d.sentences[0].rstrip("\u00e9"), d.line) for d in found] == expected


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{'text': 1}", r"line 3, column 2: not JSON \(Expecting property name"),
        ('{"text": "a', r"line 3, column 10: not JSON \(Unterminated string"),
        ("[" * 100_000, "line 3: not JSON .nested too deep"),
        ("[1]", r'line 3: expected one JSON object a line, such as \{"text".*found list'),
        ('{"txt": "a"}', "line 3: no key 'text'; there are 'txt'. Did you mean 'txt'"),
        ("{}", "line 3: no key 'text'; there are none"),
        ('{"text": 5}', "line 3: the value of 'text' is a int; expected text"),
        ('{"text": null}', "line 3: the value of 'text' is null"),
        ('{"text": "a\\u0000"}', "line 3: the value of 'text' holds a NUL character"),
        ('{"text": "\\ud800"}', "line 3: the value of 'text' holds half of a surrogate pair"),
    ],
)
def test_faults_of_json_lines(tmp_path, line, what):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n' + line + "\n", encoding="utf-8")
    source = source_of(path, form="jsonl", column="text")
    for part in (whole(source), SourcePart(source, 3, source.size)):
        with pytest.raises(DataError, match=r"a\.jsonl, " + what):
            list(read_jsonl(part))


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ('1,"never closed\n2,x\n', r"line 3: not sound CSV \(unexpected end of data\)"),
        ('1,"a" b\n', r"line 3: not sound CSV \(',' expected after '\"'\)"),
        ("1,two, columns\n", "line 3: found 3 columns, expected 2"),
    ],
)
def test_faults_of_csv(tmp_path, rows, what):
    source = csv_file(tmp_path / "a.csv", "id,text\n0,fine\n" + rows)
    with pytest.raises(DataError, match=r"a\.csv, " + what):
        list(read_csv(whole(source)))


def test_a_long_csv_field_is_read(tmp_path):
    source = csv_file(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")
    (document,) = read_csv(whole(source))
    assert len(document.sentences[0]) == 200_000


def test_a_repeated_csv_column_is_refused(tmp_path):
    with pytest.raises(DataError, match="the header names column 'text' more than once"):
        find_text_column(csv_file(tmp_path / "a.csv", "text,text\na,b\n"), None)


def test_parquet_parts_are_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(source_tables, "BATCH_ROWS", 3)
    texts = [f"Row {i}." for i in range(23)]
    source = parquet(tmp_path / "a.parquet", {"id": range(23), "text": texts}, row_group_size=5)
    sizes = parquet_group_sizes(source)
    assert len(sizes) == 5
    expected = [((text,), row) for row, text in enumerate(texts, start=1)]
    for part_bytes, count in [(1, 5), (sizes[0] + sizes[1], 3), (1 << 40, 1)]:
        parts = split_source(source, part_bytes)
        assert len(parts) == count
        found = [(d.sentences, d.line) for part in parts for d in read_parquet(part)]
        assert found == expected


def test_a_parquet_file_without_rows_has_no_documents(tmp_path):
    source = parquet(tmp_path / "a.parquet", {"text": pyarrow.array([], pyarrow.string())})
    assert list(read_parquet(whole(source))) == []


def test_parquet_strings_of_all_kinds(tmp_path):
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        column = pyarrow.array(ROWS, pyarrow.string()).cast(kind)
        source = parquet(tmp_path / "a.parquet", {"n": [1, 2, 3, 4], "prose": column})
        assert find_text_column(source, None) == "prose"
        (source,) = find_sources([source.name])
        assert [document.sentences for document in read_parquet(whole(source))] == SENTENCES


def test_faults_of_parquet(tmp_path):
    source = parquet(tmp_path / "a.parquet", {"text": ["a", None]})
    with pytest.raises(DataError, match=r"a\.parquet, line 2: the value of 'text' is null"):
        list(read_parquet(whole(source)))
    source = parquet(tmp_path / "a.parquet", {"text": [f"{i} text" for i in range(5000)]})
    path = tmp_path / "a.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + b"\xff" * 5000 + raw[5100:])
    os.utime(path, ns=(source.modified, source.modified))
    with pytest.raises(DataError, match=r"a\.parquet is no sound parquet file"):
        list(read_parquet(whole(source)))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed since"):
        list(read_parquet(whole(source)))
    path.write_bytes(b"this is text")
    with pytest.raises(DataError, match=r"a\.parquet is no sound parquet file"):
        find_text_column(source, None)


def test_the_text_column_is_chosen():
    assert choose_text_column({"id": False, "text": True, "title": True}, None, "f") == "text"
    assert choose_text_column({"id": False, "body": True}, None, "f") == "body"
    assert choose_text_column({"text": True, "body": True}, "body", "f") == "body"
    with pytest.raises(DataError, match="f: there is no column 'bodi'; .*Did you mean 'body'"):
        choose_text_column({"text": True, "body": True}, "bodi", "f")
    with pytest.raises(
        DataError,
        match="cannot be told.*'texts', 'title'. Name it with text_column. Did you mean 'texts'",
    ):
        choose_text_column({"texts": True, "title": True}, None, "f")
    with pytest.raises(DataError, match="there are none"):
        choose_text_column({}, None, "f")


def test_the_text_column_of_json_is_that_of_the_first_row(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"id": 1, "body": "b"}, {"text": "c"}])
    assert find_text_column(source, None) == "body"
    with pytest.raises(DataError, match="no column 'text'; there are 'id', 'body'"):
        find_text_column(source, "text")
    (tmp_path / "b.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match="holds only blank lines"):
        find_text_column(source_of(tmp_path / "b.jsonl", form="jsonl"), None)
