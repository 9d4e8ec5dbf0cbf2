import random

import pytest

from nlpapp.errors import DataError
from nlpapp.text import source_bytes, source_formats
from nlpapp.text.sentences import Document
from nlpapp.text.source_bytes import SourcePart
from nlpapp.text.source_formats import read_lines, read_text
from nlpapp.text.sources import split_source
from tests.text.test_source_bytes import source_of


def expected_documents(raw, name):
    """Read ``lines`` line by line, written down here a second time."""
    found, sentences, first = [], [], 0
    lines = raw.decode("utf-8-sig").split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            first = first if sentences else number
            sentences.append(line.strip())
        elif sentences:
            found.append(Document(tuple(sentences), name, first))
            sentences = []
    return found


def random_corpus(draw):
    parts = ["\ufeff" * draw.choice([0, 1])]
    for _ in range(draw.randrange(40)):
        words = draw.choice(
            ["a.", "Two words.", "\u529b\u52a0\u3002", "\U0001f600 long " * 9, " x\t"]
        )
        blank = draw.choice(["", "", " ", "\t", "\u3000", "\u2028", "\n\n"])
        parts.append(draw.choice([words, words, blank]) + draw.choice(["\n", "\n", "\r\n"]))
    return ("".join(parts) + draw.choice(["", "end"])).encode()


@pytest.mark.parametrize("seed", range(60))
def test_parts_of_any_size_hold_the_documents_of_the_file(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", draw.choice([16, 48, 1 << 20]))
    path = tmp_path / "a.txt"
    raw = random_corpus(draw) or b"x"
    path.write_bytes(raw)
    source = source_of(path)
    expected = expected_documents(raw, str(path))
    for size in [1, 2, 3, *draw.sample(range(4, 300), 8), 10_000]:
        parts = split_source(source, size)
        assert [document for part in parts for document in read_lines(part)] == expected, size
        begins = [0, *(part.stop for part in parts)]
        assert begins == [*(part.start for part in parts), len(raw)]


def test_a_document_belongs_to_the_part_it_begins_in(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\n\nc\nd\n")
    source = source_of(path)
    for start, stop, expected in [
        (0, 1, [(("a", "b"), 1)]),
        (1, 5, []),
        (2, 6, [(("c", "d"), 4)]),
        (5, 6, [(("c", "d"), 4)]),
        (6, 9, []),
    ]:
        found = [(d.sentences, d.line) for d in read_lines(SourcePart(source, start, stop))]
        assert found == expected


def test_a_line_that_a_chunk_ends_with_is_no_blank_line(tmp_path, monkeypatch):
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", 4)
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\ndef\n\nghi\n")
    found = [d.sentences for d in read_lines(SourcePart(source_of(path), 0, 13))]
    assert found == [("abc", "def"), ("ghi",)]


def test_a_document_that_never_ends_is_an_error_of_one_part(tmp_path, monkeypatch):
    monkeypatch.setattr(source_formats, "LONGEST_DOCUMENT", 10)
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", 16)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x\n\n" + b"y\n" * 30)
    first, second = split_source(source_of(path), 33)
    with pytest.raises(DataError, match="no blank line in 10 lines from line 3 on"):
        list(read_lines(first))
    assert list(read_lines(second)) == []


def text_source(path, unit):
    source = source_of(path, form="text")
    return SourcePart(type(source)(**{**vars(source), "document_unit": unit}), 0, 1)


PROSE = """

A heading

One line that is wrapped somewhere in the middle of what it says and
goes on. A second sentence of that paragraph is here, and it is wrapped
too, at the same place.

Short one.
"""


def test_a_file_or_each_paragraph_is_a_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(PROSE.replace("\n", "\r\n").encode())
    sentences = [
        "A heading",
        "One line that is wrapped somewhere in the middle of what it says and goes on.",
        "A second sentence of that paragraph is here, and it is wrapped too, at the same place.",
        "Short one.",
    ]
    whole = list(read_text(text_source(path, "file")))
    assert whole == [Document(tuple(sentences), str(path), 3)]
    assert list(read_text(text_source(path, "paragraph"))) == [
        Document((sentences[0],), str(path), 3),
        Document(tuple(sentences[1:3]), str(path), 5),
        Document((sentences[3],), str(path), 9),
    ]


def test_the_width_of_paragraphs_is_that_of_the_file(tmp_path):
    # Three lines of wrapped prose tell no width; those before them do.
    path = tmp_path / "a.txt"
    lines = ["words " * 11 + "and"] * 8 + ["the end."]
    path.write_text("\n".join([*lines, "", "x" * 60 + " and then", "it ends."]), encoding="utf-8")
    documents = list(read_text(text_source(path, "paragraph")))
    assert documents[1].sentences == ("x" * 60 + " and then it ends.",)
    assert documents[1].line == 11


def test_prose_too_long_for_a_document(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("One. Two. Three.\n", encoding="utf-8")
    monkeypatch.setattr(source_formats, "LONGEST_DOCUMENT", 2)
    for unit, what in [("file", "holds 3 sentences"), ("paragraph", "line 1: a paragraph of 3")]:
        with pytest.raises(DataError, match=what):
            list(read_text(text_source(path, unit)))
    monkeypatch.setattr(source_formats, "LONGEST_PROSE", 10)
    with pytest.raises(DataError, match="more than 10 characters.*document_unit: paragraph"):
        list(read_text(text_source(path, "file")))
