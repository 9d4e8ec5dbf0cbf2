import gzip
import json
import random

import numpy as np
import pytest

from nlpapp.data import corpus_text
from nlpapp.data.corpus_text import (
    CorpusText,
    TextContext,
    TextOptions,
    document_table,
    locate,
    plan_reading,
    put_text_aside,
    read_range,
)
from nlpapp.errors import DataError
from nlpapp.text.sources import find_sources


def documents_of(number, seed=0, longest=30):
    rng = random.Random(seed)
    return [
        [
            f"Sentence {n} {k} " + "word " * rng.randint(1, 9) + "."
            for k in range(rng.randint(1, longest))
        ]
        for n in range(number)
    ]


def as_text(documents):
    return "\n\n".join("\n".join(sentences) for sentences in documents) + "\n"


def put_aside(folder, paths, *, range_bytes=500, input_format="lines", **options):
    folder.mkdir(exist_ok=True)
    sources = find_sources([str(path) for path in paths], input_format=input_format)
    _, tasks = plan_reading(sources)
    context = TextContext(
        folder=str(folder), options=TextOptions(**options), range_bytes=range_bytes
    )
    for task in tasks:
        put_text_aside(context, task, lambda num_bytes, tokens: None)
    corpus_text._record.cache_clear()
    return CorpusText(folder, len(tasks))


def all_text(corpus):
    return [
        read_range(corpus.folder, int(task), int(order))
        for task, order in zip(corpus.task, corpus.order, strict=True)
    ]


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(corpus_text, "SMALLEST_TASK", 2000)


@pytest.mark.parametrize("range_bytes", [1, 300, 5000, 10**9])
def test_every_document_is_there_once_whatever_the_ranges(tmp_path, small_tasks, range_bytes):
    documents = documents_of(40)
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text(as_text(documents[:25]), encoding="utf-8")
    paths[1].write_text(as_text(documents[25:]), encoding="utf-8")
    corpus = put_aside(tmp_path / "text", paths, range_bytes=range_bytes)
    assert corpus.num_tasks > 2
    found, joined = [], {}
    for text, document in all_text(corpus):
        parts = text.decode().removesuffix("\n\n").split("\n\n")
        if document is None:
            found += parts
        else:
            joined[document] = joined.get(document, []) + parts
    found += ["\n".join(parts) for parts in joined.values()]
    assert sorted(found) == sorted("\n".join(sentence.strip() for sentence in d) for d in documents)
    counts = corpus.counts
    assert counts["documents_read"] == int(corpus.documents.sum()) == 40
    assert counts["sentences_read"] == sum(map(len, documents))


def test_only_long_documents_are_cut_at_line_ends(tmp_path):
    documents = [["short one."], [f"A line of the long one, {n}." for n in range(100)], ["last."]]
    (tmp_path / "a.txt").write_text(as_text(documents), encoding="utf-8")
    corpus = put_aside(tmp_path / "text", [tmp_path / "a.txt"], range_bytes=400)
    texts = all_text(corpus)
    assert [document is None for _, document in texts] == [True, *[False] * (len(texts) - 2), True]
    slices = [text.decode() for text, document in texts if document]
    assert len(slices) > 3 and all(200 <= len(piece) < 700 for piece in slices)
    lines = [line for piece in slices for line in piece.removesuffix("\n\n").split("\n")]
    assert lines == documents[1]
    # Only the first slice counts as a document.
    assert corpus.documents.tolist() == [1, 1, *[0] * (len(slices) - 1), 1]


def test_ranges_and_tasks_follow_from_the_sources_alone(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(as_text(documents_of(30)), encoding="utf-8")
    sources = find_sources([str(tmp_path / "a.txt")], input_format="lines")
    assert plan_reading(sources)[0] == corpus_text.SMALLEST_RANGE
    monkeypatch.setattr(corpus_text, "SMALLEST_RANGE", 1)
    monkeypatch.setattr(corpus_text, "MOST_RANGES", 10)
    assert plan_reading(sources)[0] == sources[0].size // 10


def test_small_files_share_a_task(tmp_path):
    for number, document in enumerate(documents_of(50)):
        (tmp_path / f"{number:02}.txt").write_text(as_text([document]), encoding="utf-8")
    _, tasks = plan_reading(find_sources([str(tmp_path)], input_format="lines"))
    assert len(tasks) == 1 and len(tasks[0].parts) == 50


def test_a_document_is_found_again_by_source_and_line(tmp_path):
    documents = documents_of(12)
    for name, part in (("a", documents[:7]), ("b", documents[7:])):
        (tmp_path / f"{name}.txt").write_text(as_text(part), encoding="utf-8")
    corpus = put_aside(tmp_path / "text", [tmp_path / "a.txt", tmp_path / "b.txt"])
    assert corpus.num_tasks == 1
    lines = (tmp_path / "b.txt").read_text(encoding="utf-8").split("\n")
    source, line = locate(corpus.folder, 0, 9)
    assert source == str(tmp_path / "b.txt") and lines[line - 1] == documents[9][0]


def test_short_documents_are_dropped_and_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Four.\n\nA sentence of some length.\n\nOne.\nTwo.\nThree.\n", encoding="utf-8")
    corpus = put_aside(tmp_path / "text", [path], min_document_characters=12)
    assert corpus.counts["dropped_documents_short"] == 1 and corpus.documents.sum() == 2
    assert "Four" not in "".join(text.decode() for text, _ in all_text(corpus))


def test_a_range_of_one_document_is_known_as_one(tmp_path):
    # Whether it is cut into slices or not: a block of it alone needs guests.
    path = tmp_path / "a.txt"
    documents = [["word " * 90], ["a", "b"], ["word " * 300], ["c"], ["d", "e"]]
    path.write_text(as_text(documents), encoding="utf-8")
    corpus = put_aside(tmp_path / "text", [path], range_bytes=400)
    assert corpus.documents.tolist() == [1, 1, 1, 2] and corpus.group.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize("buckets", [1, 7])
def test_duplicates_are_found_over_all_tasks(tmp_path, small_tasks, monkeypatch, buckets):
    documents = documents_of(60, longest=8)
    documents[20], documents[59], documents[58] = documents[3], documents[3], documents[40]
    path = tmp_path / "a.txt"
    path.write_text(as_text(documents), encoding="utf-8")
    corpus = put_aside(tmp_path / "text", [path])
    assert corpus.num_tasks > 2
    monkeypatch.setattr(corpus_text, "HASHES_AT_ONCE", 60 // buckets)
    tables = [document_table(corpus.folder, task) for task in range(corpus.num_tasks)]
    starts = np.cumsum([0, *map(len, tables)])
    found = [starts[task] + n for task, numbers in corpus.duplicates.items() for n in numbers]
    assert sorted(found) == [20, 58, 59]
    assert corpus.distinct_documents() == 57


def test_what_is_there_is_kept_and_a_damaged_or_changed_part_read_again(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(as_text(documents_of(9)), encoding="utf-8")
    first = put_aside(tmp_path / "text", [path])
    calls = []
    read = corpus_text.read_part
    monkeypatch.setattr(corpus_text, "read_part", lambda part: calls.append(part) or read(part))
    assert put_aside(tmp_path / "text", [path]).content == first.content and not calls
    frames = tmp_path / "text" / "text-00000.zst"
    frames.write_bytes(frames.read_bytes()[:-1])
    assert put_aside(tmp_path / "text", [path]).content == first.content and len(calls) == 1
    path.write_text(as_text(documents_of(9, seed=1)), encoding="utf-8")
    assert put_aside(tmp_path / "text", [path]).content != first.content and len(calls) == 2


def test_text_read_with_other_options_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Four.\n\nA sentence of some length.\n", encoding="utf-8")
    assert put_aside(tmp_path / "text", [path]).documents.sum() == 2
    assert put_aside(tmp_path / "text", [path], min_document_characters=12).documents.sum() == 1
    assert len(put_aside(tmp_path / "text", [path], range_bytes=1)) == 2


def test_nothing_half_written_has_a_name(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(as_text(documents_of(5)).encode() + b"\nlast \xff one\n")
    with pytest.raises(DataError, match="not UTF-8"):
        put_aside(tmp_path / "text", [path])
    assert list((tmp_path / "text").iterdir()) == []


def test_packed_text_gives_the_same(tmp_path):
    text = as_text(documents_of(20)).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text))
    plain = put_aside(tmp_path / "plain", [tmp_path / "a.txt"])
    packed = put_aside(tmp_path / "packed", [tmp_path / "a.txt.gz"])
    assert all_text(plain) == all_text(packed) and plain.content == packed.content
    record = json.loads((tmp_path / "packed" / "text-00000.json").read_text())
    assert record["parts"][0]["source"]["compression"] == "gzip"
