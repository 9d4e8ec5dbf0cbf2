import numpy as np
import pytest

from nlpapp.errors import DataError
from nlpapp.text import sample_corpus
from nlpapp.text.docstrings import Docstring
from nlpapp.text.sample_corpus import (
    LIBRARY_PARTS,
    SampleDocument,
    find_part,
    mask_names,
    passages,
    sample_documents,
    windows,
    write_sample,
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    return folder, write_sample(folder, seed=1)


def rows(folder, split):
    lines = (folder / "task" / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "sentence\tlabel" and lines[-1] == ""
    return [tuple(line.split("\t")) for line in lines[1:-1]]


def test_the_corpus_has_the_size_that_the_quickstart_needs(sample):
    folder, summary = sample
    assert summary["train_documents"] + summary["heldout_documents"] >= 500
    sentences = summary["train_sentences"] + summary["heldout_sentences"]
    assert sentences >= 15_000
    assert 0.1 <= summary["heldout_sentences"] / sentences <= 0.2
    text = (folder / "corpus" / "train.txt").read_text(encoding="utf-8")
    assert len(text.split("\n\n")) == summary["train_documents"]


def test_no_sentence_is_there_twice(sample):
    folder, _ = sample
    lines = [
        line
        for name in ("train", "heldout")
        for line in (folder / "corpus" / f"{name}.txt").read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert len(set(lines)) == len(lines)


def test_the_task_has_enough_passages_of_each_label(sample):
    folder, summary = sample
    assert summary["labels"] == (folder / "task" / "labels.txt").read_text().split()
    assert len(summary["labels"]) >= 5
    total = {label: 0 for label in summary["labels"]}
    for split in ("train", "dev", "test"):
        found = rows(folder, split)
        assert len(found) >= 300
        labels = [label for _, label in found]
        assert max(map(labels.count, total)) / len(labels) < 0.3
        for label in labels:
            total[label] += 1
        assert all(30 <= len(text.split()) <= 80 for text, _ in found)
    assert min(total.values()) >= 300


def test_no_module_is_on_two_sides():
    # A module's side is looked up by its name; so no name may stand in the table twice.
    named = [
        name
        for splits in LIBRARY_PARTS.values()
        for names in splits.values()
        for name in names.split()
    ]
    assert len(named) == len(set(named))


def test_a_bag_of_words_learns_it_well_but_not_fully(sample):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    folder, _ = sample
    train, test = rows(folder, "train"), rows(folder, "test")
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=300),
    )
    model.fit(*map(list, zip(*train, strict=True)))
    texts, labels = map(list, zip(*test, strict=True))
    assert 0.5 <= np.mean(model.predict(texts) == np.array(labels)) <= 0.8


def test_it_is_the_same_each_time(sample, tmp_path):
    folder, _ = sample
    write_sample(tmp_path, seed=1)
    for name in ("corpus/train.txt", "corpus/heldout.txt", "task/train.tsv", "task/test.tsv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("zipfile", ("files", "train")),
        ("email.mime.text", ("networking", "train")),
        ("idlelib.query", ("interfaces", "test")),
        ("idlelib.browser", ("interfaces", "train")),
        ("_pydecimal", ("numbers", "train")),
        ("thread", ("concurrency", "test")),
        ("logging", ("", "train")),
    ],
)
def test_modules_belong_to_parts(module, expected):
    assert find_part(module) == expected


@pytest.mark.parametrize(
    ("module", "text", "masked"),
    [
        ("zipfile", "A ZipFile of the zipfile module.", "A it of the it module."),
        ("os", "The os.path of most of os.", "The it of most of it."),
        ("asyncio.locks", "Use asyncio.Lock and locks, not a lock.", "Use it and it, not a lock."),
        ("_pydecimal", "A Decimal number.", "A it number."),
    ],
)
def test_names_that_give_the_module_away_are_masked(module, text, masked):
    assert mask_names(text, module) == masked


def test_no_passage_names_its_module():
    sentence = "The ZipFile class opens zipfile archives. " * 6
    documents = [SampleDocument("zipfile", (sentence,), "files")]
    ((text, label),) = passages(documents, "train")
    assert label == "files" and "zip" not in text.lower()


def test_windows_overlap_by_half_and_keep_to_the_lengths():
    sentences = [f"{number} " * 10 for number in range(8)]
    found = [[int(s.split()[0]) for s in window] for window in windows(sentences)]
    assert found == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


def test_absent_modules_do_no_harm_and_an_absent_library_is_said(tmp_path, monkeypatch):
    one = [Docstring("json", "", f"This is sentence number {n} of it.") for n in "abcdef"]
    (document,) = sample_documents(one, {})
    assert len(document.sentences) == 6
    monkeypatch.setattr(sample_corpus, "standard_library", lambda: iter(one))
    with pytest.raises(DataError, match="too few docstrings"):
        write_sample(tmp_path)


def test_repeated_sentences_are_kept_where_they_stand_first():
    first = "It is one thing. It is two things. It is three things. It is four things."
    second = "IT IS ONE THING! It is five things. Now it is six. Now it is seven. Now it is eight."
    docstrings = [Docstring("a", "", first), Docstring("b", "", second)]
    sentences = [document.sentences for document in sample_documents(docstrings, {})]
    assert sentences[0][0] == "It is one thing."
    assert sentences[1][0] == "It is five things." and len(sentences[1]) == 4
