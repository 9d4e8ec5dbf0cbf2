import numpy as np
import pytest

from nlpapp.data.classification import Examples
from nlpapp.data.example_splits import count_repeated, select_rows, split_examples
from nlpapp.errors import ConfigError


def examples_of(labels, *, texts=None, pairs=None, **options):
    labels = np.array(labels)
    texts = texts or [f"text {row}" for row in range(len(labels))]
    return Examples(texts_a=texts, texts_b=pairs, labels=labels, source="s", **options)


def test_each_class_gives_its_share():
    labels = [0] * 70 + [1] * 20 + [2] * 10
    rng = np.random.default_rng(0)
    examples = examples_of(rng.permutation(labels), label_names=("a", "b", "c"))
    for seed in range(5):
        train, dev = split_examples(examples, 0.1, seed=seed)
        assert np.bincount(dev.labels).tolist() == [7, 2, 1]
        assert np.bincount(train.labels).tolist() == [63, 18, 9]
        # In the order of the file, each row once.
        numbers = [int(text.split()[1]) for text in dev.texts_a]
        assert numbers == sorted(numbers)
        assert sorted(train.texts_a + dev.texts_a) == sorted(examples.texts_a)


def test_rows_are_within_one_of_their_share_for_any_sizes():
    rng = np.random.default_rng(1)
    for seed in range(20):
        labels = rng.integers(0, 4, size=int(rng.integers(20, 90)))
        examples = examples_of(labels, label_names=tuple("abcd"))
        _, dev = split_examples(examples, 0.3, seed=seed)
        counts, wanted = np.bincount(dev.labels, minlength=4), np.bincount(labels, minlength=4)
        assert np.abs(counts - wanted * len(dev) / len(labels)).max() <= 1


def test_scores_are_spread_over_their_range():
    scores = np.random.default_rng(2).permutation(100).astype(np.float32)
    _, dev = split_examples(examples_of(scores), 0.1, seed=3)
    assert sorted(int(score) // 10 for score in dev.labels) == list(range(10))


def test_sets_of_classes_are_spread():
    labels = np.array([[1, 0]] * 20 + [[1, 1]] * 10, dtype=np.float32)
    examples = examples_of(labels, label_names=("a", "b"), multi_label=True)
    _, dev = split_examples(examples, 0.1, seed=4)
    assert dev.labels.sum(axis=0).tolist() == [3, 1]
    assert dev.multi_label


def test_the_seed_decides():
    examples = examples_of([0, 1] * 50, label_names=("a", "b"))
    texts = [split_examples(examples, 0.2, seed=seed)[1].texts_a for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("share", [0, 1, 1.5, 0.01])
def test_a_share_that_leaves_a_set_empty(share):
    with pytest.raises(ConfigError, match="both sets need rows"):
        split_examples(examples_of([0, 1, 1], label_names=("a", "b")), share, seed=0)


def test_rows_are_selected_in_the_given_order():
    examples = examples_of([0, 1, 2], pairs=["x", "y", "z"], label_names=tuple("abc"))
    chosen = select_rows(examples, [2, 0])
    assert chosen.texts_a == ["text 2", "text 0"]
    assert chosen.texts_b == ["z", "x"]
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.label_names == ("a", "b", "c")


def test_repeated_pairs_need_both_texts():
    train = examples_of([0, 1], texts=["a", "b"], pairs=["x", "y"])
    dev = examples_of([1, 1, 0], texts=["a ", "a", "b"], pairs=["x", "y", "y"])
    assert count_repeated(dev, train) == 2
    assert count_repeated(train, dev) == 2
