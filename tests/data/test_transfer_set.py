import numpy as np
import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification import EncodedExamples, Examples
from nlpapp.data.transfer_set import (
    NO_LABEL,
    TransferCollator,
    build_transfer_set,
    join_parts,
    read_unlabeled,
    with_mask,
)
from nlpapp.errors import DataError
from nlpapp.objectives import distillation
from tests.deployment.models import load_tokenizer

TRAIN = Examples(
    texts_a=["good film", "bad"], labels=np.array([1, 0]), label_names=("no", "yes"), source="t.tsv"
)
MASK_ALL = AugmentationConfig(n_iter=1, p_mask=1, p_ng=0)


def test_data_and_objective_mean_the_same_by_no_label():
    assert NO_LABEL == distillation.NO_LABEL


def test_training_rows_come_first_and_only_they_have_labels(tmp_path):
    (tmp_path / "more.txt").write_text("the cat\n\nthe dog\n")
    parts = build_transfer_set(TRAIN, MASK_ALL, [str(tmp_path / "more.txt")], "[MASK]", seed=1)
    assert [len(part) for part in parts] == [2, 2, 2] and parts[0] is TRAIN
    found = join_parts(parts)
    expected = ["good film", "bad", "[MASK] [MASK]", "[MASK]", "the cat", "the dog"]
    assert found.texts_a == expected and found.texts_b is None
    assert found.labels.tolist() == [1, 0, -100, -100, -100, -100]
    assert found.label_names == ("no", "yes")


def test_without_augmentation_and_text_it_is_the_training_set():
    parts = build_transfer_set(TRAIN, AugmentationConfig(n_iter=0), [], "[MASK]", seed=1)
    assert parts == [TRAIN] and join_parts(parts).labels.tolist() == [1, 0]


def test_pairs_stay_together(tmp_path):
    train = Examples(
        texts_a=["a"], texts_b=["b c"], labels=np.array([1]), label_names=("n", "y"), source="t"
    )
    (tmp_path / "pairs.txt").write_text("one\ttwo\n")
    found = join_parts(
        build_transfer_set(train, MASK_ALL, [str(tmp_path / "pairs.txt")], "*", seed=1)
    )
    assert found.texts_a == ["a", "*", "one"] and found.texts_b == ["b c", "b c", "two"]


def test_a_line_that_is_no_pair_is_named(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("one\ttwo\nthree\n")
    with pytest.raises(DataError, match=r"pairs.txt, line 2: expected two texts .* found 1"):
        read_unlabeled(path, pairs=True)
    path.write_text("one\ttwo\n \tthree\n")
    with pytest.raises(DataError, match="line 2: one text of the pair is empty"):
        read_unlabeled(path, pairs=True)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        read_unlabeled(path, pairs=False)
    path.write_text("sentence\tlabel\na good film\t1\n")
    with pytest.raises(DataError, match="line 1: expected one text and no tab, found 2 columns"):
        read_unlabeled(path, pairs=False)


@pytest.mark.parametrize("name", ["u.csv", "u.jsonl", "u.JSON", "u.parquet", "u.csv.gz"])
def test_a_table_is_no_plain_text(tmp_path, name):
    (tmp_path / name).write_text("sentence,label\na good film,1\n")
    with pytest.raises(DataError, match=f"{name}: expected plain text, a text a line"):
        read_unlabeled(tmp_path / name, pairs=False)


def test_masks_of_another_tokenizer_are_told(tmp_path, caplog):
    (tmp_path / "more.txt").write_text("a [MASK] film\n")
    files = [str(tmp_path / "more.txt")]
    nothing = AugmentationConfig(n_iter=0)
    build_transfer_set(TRAIN, nothing, files, "[MASK]", seed=1)
    assert "[MASK]" not in caplog.text
    build_transfer_set(TRAIN, nothing, files, "<mask>", seed=1)
    assert "more.txt holds [MASK], and the teacher's mask token is <mask>" in caplog.text


def test_batches_have_the_logits_of_their_own_rows(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    encoded = EncodedExamples(TRAIN, tokenizer, max_seq_length=8)
    logits = np.array([[1, 2], [3, 4]], dtype=np.float32)
    batch = TransferCollator(encoded, 0, logits)(np.array([1, 0]), 0)
    assert batch["teacher_logits"].tolist() == [[3, 4], [1, 2]]
    assert batch["labels"].tolist() == [0, 1]
    assert "teacher_logits" not in TransferCollator(encoded, 0, None)(np.array([1]), 0)


def test_another_mask_token_stands_in_the_same_places():
    pairs = Examples(texts_a=["a [MASK] [MASK]"], texts_b=["[MASK]b"], source="s")
    found = with_mask(pairs, "[MASK]", "<mask>")
    assert found.texts == [("a <mask> <mask>", "<mask>b")] and found.source == "s"
    assert with_mask(TRAIN, "[MASK]", "<mask>").texts_b is None
    for known, wanted in (("[MASK]", "[MASK]"), (None, "<mask>"), ("[MASK]", None)):
        assert with_mask(pairs, known, wanted) is pairs
