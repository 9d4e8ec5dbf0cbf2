import csv
import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest

from nlpapp.data.table_files import open_table
from nlpapp.errors import ConfigError, DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(path, **options):
    return rows_of(open_table(path, **options))


def rows_of(table):
    return list(table.rows(*table.columns))


def message(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return str(error.value)


def test_tsv_quotes_are_text_and_line_numbers_count_the_header(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"open quote\t1\nhe said "no"\t0\n')
    assert read(path) == [(2, ['"open quote', "1"]), (3, ['he said "no"', "0"])]


def test_tsv_byte_order_mark_windows_breaks_and_empty_lines(tmp_path):
    path = write(tmp_path, "a.tsv", b"\xef\xbb\xbftext\tlabel\r\n\r\na\t1\r\n\r\n")
    table = open_table(path)
    assert table.columns == ("text", "label")
    assert rows_of(table) == [(3, ["a", "1"])]


def test_tsv_unicode_line_separators_do_not_end_a_row(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\u2028b\x85c\x0bd\t1\n")
    assert read(path) == [(2, ["a\u2028b\x85c\x0bd", "1"])]


def test_tsv_without_header_takes_the_given_columns(tmp_path):
    path = write(tmp_path, "a.tsv", "x\ty\n")
    assert open_table(path, columns=("one", "two")).position("two") == 1
    assert read(path, columns=("one", "two")) == [(1, ["x", "y"])]


@pytest.mark.parametrize("row", ["alone", "a\t1\tmore"])
def test_row_of_another_width_names_file_line_found_and_expected(tmp_path, row):
    path = write(tmp_path, "a.tsv", f"text\tlabel\nfine\t0\n{row}\n")
    found = row.count("\t") + 1
    text = message(path)
    assert f"{path}, line 3: found {found} column" in text
    assert "expected 2" in text


def test_broken_rows_can_be_left_out_and_counted(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\t1\nbroken\nb\t0\n")
    broken = []
    assert [values for _, values in read(path, broken=broken)] == [["a", "1"], ["b", "0"]]
    assert broken == [3]


def test_csv_agrees_with_what_pythons_writer_wrote(tmp_path):
    rows = [["a, b", '"quoted"'], ["two\n\nparagraphs", "1"], ["", "0"]]
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    table = open_table(path)
    assert table.columns == ("text", "label")
    assert rows_of(table) == [(2, rows[0]), (3, rows[1]), (6, rows[2])]


def test_csv_with_a_bare_quote_names_the_line(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\nfine,1\n"open,0\n')
    assert f"{path}, line 3: not sound CSV" in message(path)


def test_csv_row_of_another_width(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,b,1\n")
    assert "line 2: found 3 columns, expected 2" in message(path)


def test_csv_takes_long_fields(tmp_path):
    long = "word " * 60_000
    path = write(tmp_path, "a.csv", f'text,label\n"{long}",1\n')
    assert read(path)[0][1][0] == long


def test_jsonl_values_become_text(tmp_path):
    objects = [
        {"text": 'say "hi"\tthere', "label": 1, "extra": None},
        {"label": True, "text": "b", "extra": 0.5},
    ]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(o) + "\n" for o in objects))
    table = open_table(path)
    assert table.columns == ("text", "label", "extra")
    assert [values for _, values in rows_of(table)] == [
        ['say "hi"\tthere', "1", ""],
        ["b", "true", "0.5"],
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2, column 2: not JSON"),
        ("[1]", "line 2: expected one JSON object a line"),
        ('{"text": "b"}', "line 2: no key 'label'"),
        ('{"text": ["b"], "label": 1}', "line 2: the value of 'text' is a list"),
    ],
)
def test_jsonl_faults_name_the_line(tmp_path, line, expected):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n' + line + "\n")
    assert f"{path}, {expected}" in message(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_not_utf8_names_line_and_byte_offset(tmp_path, name):
    good = b'{"text": "a"}\n' if name == "a.jsonl" else b"text\n"
    path = write(tmp_path, name, good + b"caf\xe9\n")
    text = message(path)
    assert f"{path}, line 2: not UTF-8 at byte {len(good) + 3} of the file (0xe9)" in text
    assert "iconv" in text


def test_not_utf8_after_a_byte_order_mark_counts_the_mark(tmp_path):
    path = write(tmp_path, "a.tsv", b"\xef\xbb\xbfab\xff\n")
    assert "line 1: not UTF-8 at byte 5 " in message(path)


def test_utf16_is_told_by_its_mark(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\n".encode("utf-16"))
    assert "iconv -f UTF-16" in message(path)


def test_absent_empty_folder_and_unknown_format(tmp_path):
    write(tmp_path, "train.tsv", "text\n")
    assert "there is no such file. Did you mean 'train.tsv'?" in message(tmp_path / "trian.tsv")
    assert "the file is empty" in message(write(tmp_path, "b.tsv", ""))
    assert "this is a folder" in message(tmp_path)
    assert "expected .tsv, .txt, .csv, .jsonl, .json" in message(write(tmp_path, "a.xml", "x"))


def test_missing_column_lists_those_there_and_the_nearest(tmp_path):
    table = open_table(write(tmp_path, "a.tsv", "sentence\tlabel\n"))
    with pytest.raises(DataError, match="'sentence', 'label'.* Did you mean 'sentence'"):
        table.position("sentense")


def test_repeated_column_is_refused(tmp_path):
    assert "names column 'a' more than once" in message(write(tmp_path, "a.tsv", "a\tb\ta\n"))


def test_parquet_rows_become_text_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("nlpapp.data.table_files.PARQUET_BATCH_ROWS", 2)
    path = tmp_path / "a.parquet"
    rows = {"text": ["a", "b\tc", None], "label": [1, 0, 1], "score": [0.5, 1.0, None]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    table = open_table(path)
    assert table.columns == ("text", "label", "score")
    assert rows_of(table) == [
        (1, ["a", "1", "0.5"]),
        (2, ["b\tc", "0", "1.0"]),
        (3, ["", "1", ""]),
    ]


def test_parquet_that_is_none_or_cut_short(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path}: not a sound parquet file" in message(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_are_joined_or_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}]
    if kind == "jsonl":
        write(tmp_path, path.name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [values for _, values in read(path, list_separator=";")] == [["a", "x;y"], ["b", ""]]
    assert "line 1: the value of 'labels' is a list" in message(path)
    with pytest.raises(ConfigError, match="header false is for TSV and CSV"):
        open_table(path, header=False)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_that_are_not_asked_for_may_hold_anything(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        write(tmp_path, path.name, '{"text": "a", "who": {"name": "b"}}\n{"text": "c"}\n')
    else:
        days = [datetime.date(2020, 1, 2), None]
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "c"], "who": days}), path)
    assert list(open_table(path).rows("text")) == [(1, ["a"]), (2, ["c"])]
    found = "dict" if kind == "jsonl" else "date"
    assert f"line 1: the value of 'who' is a {found}" in message(path)


def test_columns_are_given_in_the_order_asked_for(tmp_path):
    table = open_table(write(tmp_path, "a.tsv", "text\tlabel\nx\t1\n"))
    assert list(table.rows("label", "1")) == [(2, ["1", "x"])]


def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    assert "`git lfs pull` fetches the file" in message(write(tmp_path, "a.parquet", pointer))


@pytest.mark.parametrize(("name", "break_"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_without_a_header_columns_are_numbers(tmp_path, name, break_):
    path = write(tmp_path, name, f"x{break_}y\nz{break_}w\n")
    table = open_table(path, header=False)
    assert table.columns == ("1", "2")
    assert rows_of(table) == [(1, ["x", "y"]), (2, ["z", "w"])]


def test_a_column_is_found_by_name_before_number(tmp_path):
    table = open_table(write(tmp_path, "a.tsv", "text\t1\nx\ty\n"))
    assert [table.position(column) for column in ("text", "1", "2")] == [0, 1, 1]
    assert "2" in table
    for column in ("3", "0", "label"):
        assert column not in table
        with pytest.raises(DataError, match=f"there is no column '{column}'"):
            table.position(column)


@pytest.mark.parametrize(
    ("encoding", "guess"),
    [("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-16", "UTF-16"), ("latin1", "")],
)
def test_other_encodings_are_recognised(tmp_path, encoding, guess):
    path = write(tmp_path, "a.tsv", "text\tlabel\ncaf\xe9\t1\n".encode(encoding))
    assert f"iconv -f {guess or 'LATIN1'} -t UTF-8" in message(path)


@pytest.mark.parametrize("encoding", ["gbk", "gb18030"])
def test_chinese_is_not_taken_for_latin_1(tmp_path, encoding):
    content = "\u6587\u672c\tlabel\n\u4eca\u5929\u5929\u6c14\u5f88\u597d ok\t1\n".encode(encoding)
    assert "iconv -f GB18030 -t UTF-8" in message(write(tmp_path, "a.tsv", content))
    accents = "tr\xe8s bien, d\xe9j\xe0 vu\t1\n".encode("latin1")
    assert "iconv -f LATIN1" in message(write(tmp_path, "a.tsv", accents))


@pytest.mark.parametrize("name", ["texts.tsv", "texts.csv"])
def test_a_blank_line_of_a_file_with_one_column_is_an_empty_text(tmp_path, name):
    path = tmp_path / name
    path.write_text("\nsentence\nfirst\n\n\nfourth\n\n\n")
    assert list(open_table(path).rows("sentence")) == [
        (3, ["first"]),
        (4, [""]),
        (5, [""]),
        (6, ["fourth"]),
    ]
    separator = "," if name.endswith(".csv") else "\t"
    rows = [["sentence", "label"], ["first", "1"], [], ["third", "0"], []]
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    assert [line for line, _ in open_table(path).rows("sentence", "label")] == [2, 4]
