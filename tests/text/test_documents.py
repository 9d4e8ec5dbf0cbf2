import logging

import pytest

from nlpapp import seeding
from nlpapp.errors import ConfigError, DataError
from nlpapp.text import source_bytes, source_formats
from nlpapp.text.documents import Document, read_documents, sample_documents
from nlpapp.text.sources import find_sources

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


def test_the_choice_of_a_format_is_said(tmp_path, caplog):
    path = write(tmp_path / "a.txt", LINES)
    with caplog.at_level(logging.INFO, logger="nlpapp"):
        list(read_documents([path]))
    assert path in caplog.text and "'lines'" in caplog.text


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
    with pytest.raises(DataError, match=r"holds no \.txt or \.jsonl .* file"):
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
    with pytest.raises(ConfigError, match="input_format 'xml'"):
        read_documents([write(tmp_path / "a.txt", LINES)], input_format="xml")
    with pytest.raises(ConfigError, match="document_unit 'page'"):
        read_documents([write(tmp_path / "a.txt", LINES)], document_unit="page")


def test_no_blank_line_is_said(tmp_path, caplog, monkeypatch):
    path = write(tmp_path / "a.txt", "One.\nTwo.\nThree.\n")
    (document,) = read_documents([path], input_format="lines")
    assert len(document.sentences) == 3 and "put a blank line between them" in caplog.text
    monkeypatch.setattr(source_formats, "LONGEST_DOCUMENT", 2)
    with pytest.raises(DataError, match="Put a blank line between documents"):
        list(read_documents([path], input_format="lines"))


def test_lines_are_read_as_a_stream(tmp_path, monkeypatch):
    # The first document is there before the damage further on is met.
    path = write(tmp_path / "a.txt", b"One.\n\n" + b"Two.\n" * 20000 + b"\xff\n")
    monkeypatch.setattr(source_bytes, "CHUNK_BYTES", 1 << 10)
    stream = read_documents([path], input_format="lines")
    assert next(stream).sentences == ("One.",)
    with pytest.raises(DataError):
        next(stream)


def test_documents_of_several_kinds_of_files_come_in_order(tmp_path):
    text = write(tmp_path / "b.txt", LINES)
    rows = write(tmp_path / "a.jsonl", '{"text": "A row. Of two."}\n')
    found = [(d.source, d.sentences) for d in read_documents([text, str(tmp_path)])]
    assert found == [
        (text, ("One is here.", "Two is here.")),
        (text, ("Three is here.",)),
        (rows, ("A row.", "Of two.")),
    ]


def sample(sources, max_bytes, seed=1):
    rng = seeding.generator(seed, "sample")
    return list(sample_documents(sources, max_bytes=max_bytes, rng=rng))


def text_bytes(documents):
    return sum(len(sentence.encode()) + 1 for d in documents for sentence in d.sentences)


def test_a_sample_is_drawn_from_all_over_a_large_file(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    path = write(tmp_path / "a.txt", "".join(f"Sentence {i:06d}.\n\n" for i in range(20_000)))
    found = find_sources([path], input_format="lines")
    drawn = sample(found, 64_000)
    assert 64_000 <= text_bytes(drawn) < 64_000 + 17
    assert f"Drew {text_bytes(drawn)} bytes of text from 88 parts" in caplog.text
    lines = [document.line for document in drawn]
    assert len(set(lines)) == len(lines) and min(lines) < 13_000 < 27_000 < max(lines)
    assert sample(found, 64_000) == drawn != sample(found, 64_000, seed=2)


def test_a_sample_takes_of_each_file_its_share(tmp_path):
    small = [write(tmp_path / f"{i}.txt", f"Small {i}.\n") for i in range(20)]
    large = write(tmp_path / "z.txt", "A sentence that is here.\n\n" * 40_000)
    found = find_sources([*small, large], input_format="text", document_unit="paragraph")
    drawn = sample(found, 100_000)
    assert 99_000 < text_bytes(drawn) < 100_026
    assert len({document.source for document in drawn}) > 5


def test_a_sample_larger_than_the_corpus_is_the_corpus(tmp_path):
    paths = [write(tmp_path / f"{i}.txt", LINES.replace("One", f"One {i}")) for i in range(5)]
    found = find_sources(paths)
    everything = list(read_documents(paths))
    drawn = sample(found, 10**9)
    assert len(drawn) == 10 and set(drawn) == set(everything)
    with pytest.raises(ConfigError, match="max_bytes 0"):
        sample(found, 0)


def test_line_separators_inside_a_line_are_text(tmp_path):
    path = write(tmp_path / "a.txt", "One\u2028and\x0bstill one.\n\nTwo.\n")
    assert len(list(read_documents([path], input_format="lines"))) == 2


def test_real_corpora(shared_data):
    lines = list(read_documents([str(shared_data / "bert" / "sample_text.txt")]))
    assert len(lines) == 3 and sum(len(document.sentences) for document in lines) == 31
    novel = shared_data / "corpora" / "en" / "novels" / "Lee_Penelope_1903.txt"
    (document,) = read_documents([str(novel)])
    assert len(document.sentences) > 500
