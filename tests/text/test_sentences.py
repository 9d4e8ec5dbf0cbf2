import copy
import random
from functools import partial

import pytest

from nlpapp.text.sentences import (
    Document,
    guess_format,
    join_paragraphs,
    prose_language,
    segment,
    split_prose,
    wrapped_width,
)
from tests.text.test_documents import LINES, WRAPPED


def test_short_lines_end_paragraphs_where_blank_lines_do_not(tmp_path):
    lines = ["a" * 60 + " and", "b" * 60 + " or", "The end.", "c" * 60 + " but", "d" * 60]
    assert list(join_paragraphs(lines)) == [" ".join(lines[:3]), " ".join(lines[3:])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LINES, "lines"),
        (WRAPPED, "text"),
        ("A long one. With two. And three.\n\nAgain there are two. Or three.\n", "text"),
        ("no full stop here\nnor here at all\n\nand a third document\nwith a line\n", "lines"),
    ],
)
def test_the_format_is_told_from_the_text(text, expected):
    assert guess_format(text.split("\n"))[0] == expected


def test_a_given_width_joins_what_is_too_short_to_tell():
    lines = ["a" * 60 + " and", "b" * 60]
    assert list(join_paragraphs(lines)) == lines
    assert list(join_paragraphs(lines, width=64)) == [" ".join(lines)]
    assert wrapped_width(lines) == 0


def test_chinese_is_split_at_its_own_full_stops():
    text = "\u4eca\u5929\u5f88\u597d\u3002\u4f60\u597d\u5417\uff1f\u8d70\u5427\uff01"
    assert split_prose([text]) == [text[:5], text[5:9], text[9:]]
    assert prose_language([text]) == "zh" and prose_language(["a" * 99 + text]) == "en"
    assert prose_language(["a" * 9999, "\u4eca" * 501]) == "zh"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_kind_of_blank_crashes_the_splitter(language):
    draw = random.Random(3)
    blanks = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    letters = [*"aB.!?)(\"'1", "\u4eca", "\u3002", "\u2026", "\u201d", "\U0001f600", "\u0301"]
    for _ in range(3000):
        text = "".join(draw.choice([*letters, draw.choice(blanks)]) for _ in range(20))
        plain = "".join(" " if c.isspace() and not c.isascii() else c for c in text)
        assert "".join(segment(language, text)).replace(" ", "") == plain.replace(" ", "")


def test_line_breaks_end_sentences_and_nothing_is_empty():
    assert split_prose(["  One. Two.", "", "\u3000", "no full stop", "here  "]) == [
        "One.",
        "Two.",
        "no full stop",
        "here",
    ]
    assert split_prose([" ", ""]) == []


def test_a_document_finds_out_its_line_when_it_is_asked():
    asked = []
    document = Document(("A.",), "file", lambda: asked.append(1) or 7)
    assert asked == []
    assert document.line == 7 and document.line == 7 and asked == [1]
    assert document == Document(("A.",), "file", 7) and hash(document) is not None
    assert repr(document) == "Document(sentences=('A.',), source='file', line=7)"


def test_a_document_can_go_to_another_process():
    for line in (7, partial(int, "7")):
        again = copy.deepcopy(Document(("A.",), "file", line))
        assert again == Document(("A.",), "file", 7)


def test_a_document_needs_a_line():
    with pytest.raises(TypeError, match="line"):
        Document(("A.",), "file")
