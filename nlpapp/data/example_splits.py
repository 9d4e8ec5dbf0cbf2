"""What two sets of examples have to do with each other: a split of one, and rows in both."""

from collections.abc import Sequence

import numpy as np

from nlpapp import seeding
from nlpapp.data.classification import Examples
from nlpapp.errors import ConfigError


def split_examples(examples: Examples, share: float, *, seed: int) -> tuple[Examples, Examples]:
    """Return (train, dev), each in the order of ``examples``, with ``share`` of the rows in dev.

    The rows are sorted by label after a shuffle, and dev takes one in every 1 / ``share``: each
    class (or range of scores, or set of classes) gives its share of rows, to within one row.

    Args:
        examples: with labels.
        share: of the rows for dev, over 0 and under 1.
        seed: of the shuffle.

    Raises:
        ConfigError: ``share`` is out of range, or leaves one of the sets without a row.
    """
    rows = round(share * len(examples))
    if not 0 < share < 1 or not 0 < rows < len(examples):
        raise ConfigError(
            f"dev_share is {share}, which is {rows} of {len(examples)} rows for dev; both sets "
            "need rows. Use a share between 0 and 1, or give --dev_file."
        )
    shuffled = seeding.generator(seed, "dev rows").permutation(len(examples))
    groups = np.unique(examples.known_labels, axis=0, return_inverse=True)[1].reshape(-1)
    ordered = shuffled[np.argsort(groups[shuffled], kind="stable")]
    taken = ((np.arange(rows) + 0.5) * len(examples) / rows).astype(np.int64)
    is_dev = np.zeros(len(examples), dtype=bool)
    is_dev[ordered[taken]] = True
    return select_rows(examples, np.flatnonzero(~is_dev)), select_rows(
        examples, np.flatnonzero(is_dev)
    )


def select_rows(examples: Examples, rows: Sequence[int] | np.ndarray) -> Examples:
    """Return the examples at the indices ``rows``, in their order."""
    texts_b, labels = examples.texts_b, examples.labels
    return Examples(
        texts_a=[examples.texts_a[row] for row in rows],
        texts_b=[texts_b[row] for row in rows] if texts_b is not None else None,
        labels=labels[rows] if labels is not None else None,
        label_names=examples.label_names,
        multi_label=examples.multi_label,
        source=examples.source,
    )


def count_repeated(examples: Examples, others: Examples) -> int:
    """Return how many of ``examples`` have texts that stand in ``others``, whatever the label."""
    known = set(_texts(others))
    return sum(texts in known for texts in _texts(examples))


def _texts(examples: Examples) -> list[tuple[str, str]]:
    texts_b = examples.texts_b or [""] * len(examples)
    return [
        (first.strip(), second.strip())
        for first, second in zip(examples.texts_a, texts_b, strict=True)
    ]
