import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.word_embeddings import (
    project_embeddings,
    read_vectors,
    start_embeddings,
    teacher_ids,
    teacher_rows,
)
from nlpapp.text.student_vocabulary import word_tokenizer
from tests.deployment.models import build_model, load_tokenizer

WORDS = {"[PAD]": 0, "the": 1, "cat": 2, ". .": 3, "dog": 4}


def test_projected_embeddings_are_the_principal_components():
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(50, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5])
    projected = project_embeddings(torch.tensor(teacher), 4).numpy()
    expected = PCA(4).fit_transform(teacher)
    expected *= 0.1 / expected.std(ddof=1)
    for column in range(4):  # the sign of a component is arbitrary
        assert (
            min(abs(projected[:, column] - sign * expected[:, column]).max() for sign in (1, -1))
            < 1e-9
        )


def test_projection_to_a_wider_student_keeps_all_distances_and_adds_random_columns():
    teacher = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    torch.manual_seed(2)
    wide = project_embeddings(teacher, 8)
    assert wide.shape == (30, 8)
    ratio = torch.pdist(wide[:, :5]) / torch.pdist(teacher)
    assert ratio.max() - ratio.min() < 1e-9
    assert 0.05 < wide[:, 5:].std() < 0.2


def test_entries_get_the_mean_of_the_teachers_rows():
    teacher = build_model("bert")
    table = teacher.get_input_embeddings().weight.detach()
    found = teacher_rows(teacher, [[7], [3, 5, 5], [2]])
    expected = torch.stack([table[7], (table[3] + 2 * table[5]) / 3, table[2]])
    torch.testing.assert_close(found, expected)
    with pytest.raises(ConfigError, match="80 embeddings, and the tokenizer gives ids up to 80"):
        teacher_rows(teacher, [[1], [80]])


def test_words_are_spelled_in_the_teachers_pieces(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    known = tokenizer.get_vocab()
    (one, spelled, mask) = teacher_ids(["cat", "zq", "[MASK]"], tokenizer)
    assert one == [known["cat"]] and mask == [known["[MASK]"]]
    assert spelled == [known["z"], known["##q"]]


@pytest.mark.parametrize("header", ["", "4 3\n"])
def test_vectors_of_a_text_file_stand_in_the_rows_of_their_words(header, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(header + "the 1 2 3\nbird 0 0 0\n. . -1 0.5 2e-1\ncat 4 5 6\n")
    torch.manual_seed(0)
    rows = read_vectors(path, WORDS, 3)
    assert rows.shape == (5, 3)
    assert rows[[1, 2, 3]].tolist() == [[1, 2, 3], [4, 5, 6], [-1, 0.5, pytest.approx(0.2)]]
    known = rows[[1, 2, 3]]
    torch.manual_seed(0)
    torch.testing.assert_close(rows[4], (known.std() * torch.randn(5, 3))[4])


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("the 1 2 3\ncat 1 2\n", DataError, "line 2: expected a word and 3 numbers"),
        ("the 1 2 3\ncat 1 x 3\n", DataError, "line 2: .*found 'cat 1 x 3'"),
        ("the 1 2 3\ncat 1 nan 3\n", DataError, "line 2"),
        ("the 1 2 3 4\n", ConfigError, "vectors of 4 numbers, and embedding_size is 3"),
        ("2 3\ncat 1 2 3 4\n", DataError, "line 2: expected a word and 3 numbers"),
        ("bird 1 2 3\n", ConfigError, "none of the words .*vocabulary.kind words"),
    ],
)
def test_unfit_files_are_refused(text, kind, message, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(kind, match=message):
        read_vectors(path, WORDS, 3)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_vectors(tmp_path / "none.txt", WORDS, 3)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00 1 2")
    with pytest.raises(DataError, match=r"bytes\.txt cannot be read"):
        read_vectors(tmp_path / "bytes.txt", WORDS, 3)


@pytest.mark.parametrize("name", ["vectors.bin", "vectors.bin.gz"])
def test_binary_vectors_need_gensim(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(ConfigError, match="pip install gensim"):
        read_vectors(tmp_path / name, WORDS, 3)


@pytest.mark.parametrize("error", [EOFError("cut"), ValueError("cut"), MemoryError("cut")])
def test_a_damaged_binary_file_is_named(tmp_path, monkeypatch, error):
    def load(path, binary):
        raise error

    module = SimpleNamespace(KeyedVectors=SimpleNamespace(load_word2vec_format=load))
    monkeypatch.setitem(sys.modules, "gensim", SimpleNamespace(models=module))
    monkeypatch.setitem(sys.modules, "gensim.models", module)
    with pytest.raises(DataError, match="vectors.bin cannot be read as word2vec's .*: cut"):
        read_vectors(tmp_path / "vectors.bin", WORDS, 3)


def test_a_student_of_words_starts_from_its_teacher(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    teacher = build_model("bert")
    words = word_tokenizer(
        ["the cat sat", "the dog ran zq"], min_frequency=1, max_words=50, lowercase=True
    )
    size = BiLstmSizeConfig(embedding_size=16, hidden_size=3, classifier_size=4)
    ends = {"vocab_size": len(words), "pad_token_id": 0, "label_names": ("a", "b")}
    student = build_bilstm(size, **ends)
    known = {"tokenizer": words, "teacher": teacher, "teacher_tokenizer": tokenizer}
    start_embeddings(student, "teacher", **known)
    rows = student.get_input_embeddings().weight.detach()
    assert not rows[0].any() and isinstance(student.encoder.embeddings, nn.Embedding)
    entries = sorted(words.get_vocab(), key=words.get_vocab().get)
    source = teacher_rows(teacher, teacher_ids(entries, tokenizer))
    ratio = torch.pdist(rows[1:]) / torch.pdist(source[1:])
    assert ratio.max() - ratio.min() < 1e-3  # the width is the teacher's, so nothing is lost
    before = rows.clone()
    start_embeddings(student, "random", **known)
    assert torch.equal(student.get_input_embeddings().weight, before)
