"""What a user would try first: figures that a model has to beat."""

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def majority_accuracy(labels: Sequence[int | str]) -> float:
    """Return the accuracy of always answering the most frequent of ``labels``."""
    return Counter(labels).most_common(1)[0][1] / len(labels)


def tfidf_accuracy(
    train_texts: Sequence[str],
    train_labels: Sequence[int | str],
    test_texts: Sequence[str],
    test_labels: Sequence[int | str],
) -> float:
    """Return the accuracy of TF-IDF of words and word pairs with logistic regression.

    Options are scikit-learn's usual ones for text: sublinear counts, terms in at least two texts,
    and a weak penalty (C = 10). Nothing is tuned on the test texts.
    """
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    model.fit(list(train_texts), list(train_labels))
    return float(model.score(list(test_texts), list(test_labels)))
