import csv
import gzip
import json
import logging
import random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from nlpapp.errors import ConfigError, DataError
from nlpapp.text import sources
from nlpapp.text.sentences import guess_format
from nlpapp.text.source_bytes import SourcePart
from nlpapp.text.sources import find_files, find_sources, read_part, read_source, split_source
from tests.text.test_documents import LINES, WRAPPED, write

TWO_A_LINE = "A long one. With two. And three.\n\nAgain there are two. Or three.\n"


def names(found):
    return [source.name for source in found]


def test_folders_and_patterns_stand_for_files_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    made = [write(tmp_path / name, "x.\n") for name in ("b.txt", "a.txt", "deep/c.txt", "d.md")]
    assert names(find_sources([str(tmp_path)])) == [made[1], made[0], made[2]]
    assert names(find_sources([made[0], str(tmp_path / "*.txt")])) == [made[0], made[1]]
    assert names(find_sources([made[3]])) == [made[3]]
    assert list(map(str, find_files([str(tmp_path)]))) == [made[1], made[0], made[2]]


def test_a_folder_gives_files_of_known_names_and_of_the_format(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    texts = ["a.txt", "b.txt.gz", "c.TXT", "d.zst"]
    rows = ["e.jsonl", "f.ndjson.zst", "g.json"]
    for name in [*texts, "h.md", ".hidden.txt", "i.tar.gz"]:
        write(tmp_path / name, "x.\n")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache" / "j.txt", "x.\n")
    for name in rows:
        write(tmp_path / name, '{"text": "x."}\n')
    table = write(tmp_path / "k.csv", "text\nx.\n")

    def found(form):
        return sorted(path.name for path in find_files([str(tmp_path)], input_format=form))

    assert found("auto") == sorted([*texts, *rows, "k.csv"])
    assert found("lines") == found("text") == sorted(texts)
    assert found("jsonl") == sorted(rows) and found("csv") == ["k.csv"]
    assert "2 files of other names are left out" in caplog.text
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        found("parquet")
    (source,) = find_sources([str(tmp_path)], input_format="csv")
    assert (source.name, source.format, source.text_column) == (table, "csv", "text")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", LINES, "lines"),
        ("a.txt", WRAPPED, "text"),
        ("a.jsonl", '{"text": "Yes. No."}\n', "jsonl"),
        ("a.csv", 'text\n"Yes. No."\n', "csv"),
    ],
)
def test_archives_hold_the_same_documents(tmp_path, pack, name, content, form):
    plain = write(tmp_path / name, content)
    packed = write(tmp_path / (name + ".x"), pack(content.encode()))
    (expected,) = find_sources([plain])
    (source,) = find_sources([packed], input_format=form)
    assert expected.format == form and source.compression in ("gzip", "zstd")
    assert split_source(source, 1) == [SourcePart(source, 0, 1)]
    documents = [(d.sentences, d.line) for d in read_source(expected)]
    assert documents and [(d.sentences, d.line) for d in read_source(source)] == documents


def test_auto_goes_by_the_name_and_then_by_the_text(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    made = [
        write(tmp_path / "a.txt", LINES),
        write(tmp_path / "b.txt", TWO_A_LINE),
        write(tmp_path / "c.jsonl", '{"text": "x"}\n'),
        write(tmp_path / "d.txt.gz", gzip.compress(TWO_A_LINE.encode())),
    ]
    found = find_sources(made)
    assert [source.format for source in found] == ["lines", "text", "jsonl", "text"]
    assert len(caplog.records) == 4
    for path, record in zip(made, caplog.records, strict=True):
        assert f"{path} is read as" in record.getMessage()
    assert "so says its name" in caplog.text


def test_many_files_are_logged_by_kind(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    for index in range(20):
        write(tmp_path / f"{index:02d}.txt", LINES if index % 2 else TWO_A_LINE)
    formats = [source.format for source in find_sources([str(tmp_path)])]
    assert formats == ["text", "lines"] * 10
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert messages[0].startswith(f"{tmp_path / '00.txt'} is read as 'text'")
    assert messages[1].startswith(f"{tmp_path / '01.txt'} is read as 'lines'")
    assert messages[2] == "20 files are read: 10 as 'text', 10 as 'lines'."


@pytest.mark.parametrize(("other", "most"), [(LINES, 4), (TWO_A_LINE, 20)])
def test_of_very_many_files_a_sample_is_looked_at(tmp_path, monkeypatch, other, most):
    monkeypatch.setattr(sources, "SAMPLE_FILES", 4)
    looked = []
    monkeypatch.setattr(sources, "guess_format", lambda x: looked.append(x) or guess_format(x))
    for index in range(20):
        write(tmp_path / f"{index:02d}.txt", other if index == 15 else LINES)
    formats = [source.format for source in find_sources([str(tmp_path)])]
    assert formats == ["lines"] * 15 + ["text" if most == 20 else "lines"] + ["lines"] * 4
    assert len(looked) == most


def test_missing_and_empty_inputs(tmp_path):
    write(tmp_path / "corpus.txt", LINES)
    for given, what in [
        ("corpsu.txt", r"corpsu\.txt.*Did you mean 'corpus\.txt'"),
        ("no/corpus.txt", "Its folder .* does not exist"),
        ("*.csv", "No file matches"),
    ]:
        with pytest.raises(DataError, match=what):
            find_sources([str(tmp_path / given)])
    for nothing in ([], ""):
        with pytest.raises(DataError, match="No input"):
            find_sources(nothing)
    (one,) = find_sources(str(tmp_path / "corpus.txt"))  # One input needs no list.
    assert one.name == str(tmp_path / "corpus.txt")
    with pytest.raises(DataError, match=r"b\.txt is empty \(0 bytes\)"):
        find_sources([str(tmp_path / "corpus.txt"), write(tmp_path / "b.txt", "")])


def test_bad_options(tmp_path):
    path = write(tmp_path / "a.txt", LINES)
    with pytest.raises(ConfigError, match="input_format 'xml' is unknown; expected one of auto"):
        find_sources([path], input_format="xml")
    with pytest.raises(ConfigError, match="document_unit 'page'"):
        find_sources([path], document_unit="page")
    with pytest.raises(ConfigError, match="part_bytes 0"):
        split_source(find_sources([path])[0], 0)


def test_sources_say_what_a_reader_needs(tmp_path):
    path = tmp_path / "a.txt"
    write(path, LINES)
    (source,) = find_sources([str(path)], input_format="text", document_unit="paragraph")
    state = path.stat()
    assert (source.size, source.modified) == (len(LINES), state.st_mtime_ns)
    assert (source.document_unit, source.text_column) == ("paragraph", "")
    assert [d.sentences for d in read_source(source)] == [
        ("One is here.", "Two is here."),
        ("Three is here.",),
    ]


def test_packed_parquet_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet.gz", gzip.compress(b"PAR1"))
    with pytest.raises(DataError, match="Unpack it"):
        find_sources([path])


def test_parts_cover_the_file_once(tmp_path):
    (source,) = find_sources([write(tmp_path / "a.txt", "a.\n" * 50)], input_format="lines")
    for size in (1, 7, 149, 150, 151):
        parts = split_source(source, size)
        covered = [byte for part in parts for byte in range(part.start, part.stop)]
        assert covered == list(range(150)) and len(parts) == -(-150 // size)
    (prose,) = find_sources([source.name], input_format="text")
    assert split_source(prose, 1) == [SourcePart(prose, 0, 1)]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", " \n\n\t\n", "only blank lines"),
        ("a.txt", "\ufeff\n\u3000\n", "only blank lines"),
        ("a.jsonl", '{"text": ""}\n{"text": " "}\n', "only rows without text"),
        ("a.csv", "id,text\n1,\n", "only rows without text"),
        ("a.csv", "id,text\n", "only rows without text"),
    ],
)
def test_nothing_but_blanks_is_an_error_of_the_whole(tmp_path, name, content, what):
    blank = write(tmp_path / name, content)
    full = write(tmp_path / f"full{name[1:]}", '{"text": "x"}' if "json" in name else "text\nx\n")
    found = find_sources([full, blank])
    with pytest.raises(DataError, match=rf"{blank} holds {what}"):
        for source in found:
            for part in split_source(source, 1 << 20):
                list(read_part(part))
    if found[1].splits_at_bytes:  # A part of a file may well be blank.
        assert [list(read_part(part)) for part in split_source(found[1], 3)][0] == []


def test_a_parquet_file_without_text(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["", " "]}), path)
    with pytest.raises(DataError, match="only rows without text"):
        list(read_source(find_sources([str(path)])[0]))


@pytest.mark.parametrize("form", ["lines", "text", "jsonl", "csv"])
def test_sentences_hold_no_line_breaks_and_no_outer_blanks(tmp_path, form):
    draw = random.Random(2)
    letters = ["a", "B", ".", " ", "\r", "\r\n", "\u2028", "\u3000", "\x0b", "\u4eca", "\u3002"]
    text = ["".join(draw.choices(letters, k=30)) + "z" for _ in range(50)]
    path = tmp_path / "a.x"
    with open(path, "w", newline="", encoding="utf-8") as file:
        if form == "csv":
            csv.writer(file).writerows([["text"], *([t] for t in text)])
        elif form == "jsonl":
            file.writelines(json.dumps({"text": t}) + "\n" for t in text)
        else:
            file.write("\n".join(text))
    (source,) = find_sources([str(path)], input_format=form)
    found = [sentence for document in read_source(source) for sentence in document.sentences]
    assert len(found) >= 50
    for sentence in found:
        assert sentence and sentence == sentence.strip() and not set("\r\n") & set(sentence)
    assert sum(sentence.count("z") for sentence in found) == 50
