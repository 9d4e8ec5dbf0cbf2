import logging

import pytest

from nlpapp.errors import ConfigError, DataError
from nlpapp.text import documents
from nlpapp.text.documents import Document, find_files, guess_format, read_documents

LINES = "One is here.\nTwo is here.\n\n\nThree is here.\n"
WRAPPED = """CHAPTER ONE

The rain had only ceased with the gray streaks of morning, and the
settlement awoke to a sense of cleanliness. Smaller camp utensils were
found where the heavy showers had washed away the dust heaps. It was a
fine day after all, said Mr. Smith, who had seen
worse.

The second paragraph begins here and goes on for more than one line of
text, so that the width of the lines can be told from it. It ends here.
"""


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return str(path)


def test_lines_are_sentences_and_blank_lines_end_documents(tmp_path):
    path = write(tmp_path / "a.txt", LINES)
    assert list(read_documents([path], input_format="lines")) == [
        Document(("One is here.", "Two is here."), path, 1),
        Document(("Three is here.",), path, 5),
    ]


def test_uer_loses_the_last_document(tmp_path):
    # dbiir/UER-py drops the last document of each worker's slice: with one document, all of it.
    for ending in ("", "\n", "\n\n"):
        path = write(tmp_path / "a.txt", "Only one.\nDocument." + ending)
        found = list(read_documents([path], input_format="lines"))
        assert [document.sentences for document in found] == [("Only one.", "Document.")]


def test_prose_is_joined_and_split_into_sentences(tmp_path):
    path = write(tmp_path / "novel.txt", "\ufeff" + WRAPPED.replace("\n", "\r\n"))
    (document,) = read_documents([path], input_format="auto")
    assert document.sentences == (
        "CHAPTER ONE",
        "The rain had only ceased with the gray streaks of morning, and the settlement awoke to a "
        "sense of cleanliness.",
        "Smaller camp utensils were found where the heavy showers had washed away the dust heaps.",
        "It was a fine day after all, said Mr. Smith, who had seen worse.",
        "The second paragraph begins here and goes on for more than one line of text, so that the "
        "width of the lines can be told from it.",
        "It ends here.",
    )


def test_short_lines_end_paragraphs_where_blank_lines_do_not(tmp_path):
    lines = ["a" * 60 + " and", "b" * 60 + " or", "The end.", "c" * 60 + " but", "d" * 60]
    assert list(documents.join_paragraphs(lines)) == [" ".join(lines[:3]), " ".join(lines[3:])]


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


def test_the_choice_of_a_format_is_said(tmp_path, caplog):
    path = write(tmp_path / "a.txt", LINES)
    with caplog.at_level(logging.INFO, logger="nlpapp"):
        list(read_documents([path]))
    assert path in caplog.text and "'lines'" in caplog.text


def test_folders_and_patterns_stand_for_files_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    names = [write(tmp_path / name, "x.\n") for name in ("b.txt", "a.txt", "deep/c.txt", "d.md")]
    folder = [str(path) for path in find_files([str(tmp_path)])]
    assert folder == [names[1], names[0], names[2]]
    pattern = [str(path) for path in find_files([names[0], str(tmp_path / "*.txt")])]
    assert pattern == [names[0], names[1]]


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "corpus.txt", LINES)
    with pytest.raises(DataError, match=r"corpsu\.txt.*Did you mean 'corpus\.txt'"):
        read_documents([str(tmp_path / "corpsu.txt")])
    with pytest.raises(DataError, match="Its folder .* does not exist"):
        read_documents([str(tmp_path / "no" / "corpus.txt")])
    with pytest.raises(DataError, match="No file matches"):
        read_documents([str(tmp_path / "*.csv")])
    with pytest.raises(DataError, match="No input"):
        read_documents([])


def test_folder_without_text_files(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        read_documents([str(tmp_path)])


def test_empty_file(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        read_documents([write(tmp_path / "a.txt", "")])


@pytest.mark.parametrize("form", ["lines", "text"])
def test_only_blank_lines(tmp_path, form):
    with pytest.raises(DataError, match="only blank lines"):
        list(read_documents([write(tmp_path / "a.txt", " \n\n\t\n")], input_format=form))


def test_not_utf8_is_named_by_line_and_byte(tmp_path):
    path = write(tmp_path / "a.txt", b"One.\nTw\xf6.\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2, byte offset 7: not UTF-8 \(byte 0xf6\)"):
        list(read_documents([path], input_format="lines"))


def test_unknown_format(tmp_path):
    with pytest.raises(ConfigError, match="input_format 'csv'"):
        read_documents([write(tmp_path / "a.txt", LINES)], input_format="csv")


def test_no_blank_line_is_said(tmp_path, caplog, monkeypatch):
    path = write(tmp_path / "a.txt", "One.\nTwo.\nThree.\n")
    (document,) = read_documents([path], input_format="lines")
    assert len(document.sentences) == 3 and "put a blank line between them" in caplog.text
    monkeypatch.setattr(documents, "LONGEST_DOCUMENT", 2)
    with pytest.raises(DataError, match="Put a blank line between documents"):
        list(read_documents([path], input_format="lines"))


def test_lines_are_read_as_a_stream(tmp_path):
    # The first document is there before the damage further on is met.
    path = write(tmp_path / "a.txt", b"One.\n\n" + b"Two.\n" * 20000 + b"\xff\n")
    stream = read_documents([path], input_format="lines")
    assert next(stream).sentences == ("One.",)
    with pytest.raises(DataError):
        next(stream)


def test_line_separators_inside_a_line_are_text(tmp_path):
    path = write(tmp_path / "a.txt", "One\u2028and\x0bstill one.\n\nTwo.\n")
    assert len(list(read_documents([path], input_format="lines"))) == 2


def test_real_corpora(shared_data):
    lines = list(read_documents([str(shared_data / "bert" / "sample_text.txt")]))
    assert len(lines) == 3 and sum(len(document.sentences) for document in lines) == 31
    novel = shared_data / "corpora" / "en" / "novels" / "Lee_Penelope_1903.txt"
    (document,) = read_documents([str(novel)])
    assert len(document.sentences) > 500
