"""Text augmentation for distillation: Tang et al. 2019 (arXiv 1903.12136), section 3.3.

From each example, ``n_iter`` new ones are drawn:
    1. masking: each word becomes [MASK] with probability ``p_mask``, which shows the teacher's view
       of what each word contributes;
    2. n-gram sampling: with probability ``p_ng``, only a random n-gram of the example is kept, with
       n uniform in 1..5. The rest is dropped, not masked.
Of pairs, the first sentence, the second, and both are changed in turn. Duplicates are dropped. The
paper's third rule, a word for another of the same part of speech, is not offered.

A word stands between white space; each ideograph of unspaced scripts is a word.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nlpapp import seeding
from nlpapp.errors import ConfigError

LONGEST_NGRAM = 5
IDEOGRAPHS = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+")

Text = tuple[str, str | None]
"""A text, and the second text of a pair."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How much text is made from each training example."""

    n_iter: int = 20
    """New examples drawn from each one, before duplicates are dropped; 0 turns augmentation off."""
    p_mask: float = 0.1
    """Probability that a word is masked."""
    p_ng: float = 0.25
    """Probability that only an n-gram of 1 to 5 words is kept."""

    def __post_init__(self) -> None:
        if self.n_iter < 0:
            raise ConfigError(f"n_iter is {self.n_iter}; use 0 (no augmentation) or more.")
        for name in ("p_mask", "p_ng"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; a probability is between 0 and 1.")


def split_words(text: str) -> list[str]:
    """Return the words of ``text``."""
    return WORD.findall(text)


def augment_words(
    words: list[str], rng: np.random.Generator, *, p_mask: float, p_ng: float, mask_token: str
) -> list[str]:
    """Return one new list of words: masked, and with probability ``p_ng`` cut to an n-gram."""
    masked = [
        mask_token if draw < p_mask else word
        for word, draw in zip(words, rng.random(len(words)), strict=True)
    ]
    if rng.random() >= p_ng or not words:
        return masked
    size = min(int(rng.integers(1, LONGEST_NGRAM + 1)), len(words))
    start = int(rng.integers(0, len(words) - size + 1))
    return masked[start : start + size]


def augment_example(
    text: Text, rng: np.random.Generator, config: AugmentationConfig, *, mask_token: str
) -> Iterator[Text]:
    """Yield ``config.n_iter`` new texts or pairs made from ``text``."""
    sides = [split_words(side) for side in text if side is not None]
    for iteration in range(config.n_iter):
        changed = (0, 1) if len(sides) == 1 else ((0,), (1,), (0, 1))[iteration % 3]
        new = [
            augment_words(words, rng, p_mask=config.p_mask, p_ng=config.p_ng, mask_token=mask_token)
            if side in changed
            else words
            for side, words in enumerate(sides)
        ]
        yield " ".join(new[0]), " ".join(new[1]) if len(new) == 2 else None


def augment(
    texts_a: list[str],
    texts_b: list[str] | None,
    config: AugmentationConfig,
    *,
    seed: int,
    mask_token: str,
) -> tuple[list[str], list[str] | None]:
    """Return new texts (and second texts of pairs) for a whole set.

    The texts of one example depend on (seed, its index) only. A text that was there already, in the
    set or among the new ones, is dropped; white space does not make a difference.
    """
    pairs: list[Text] = [
        (text, None if texts_b is None else texts_b[index]) for index, text in enumerate(texts_a)
    ]
    seen = {
        tuple(None if side is None else " ".join(split_words(side)) for side in pair)
        for pair in pairs
    }
    new: list[Text] = []
    for index, pair in enumerate(pairs):
        rng = seeding.generator(seed, "augmentation", index)
        for text in augment_example(pair, rng, config, mask_token=mask_token):
            if text not in seen:
                seen.add(text)
                new.append(text)
    return [text for text, _ in new], None if texts_b is None else [str(other) for _, other in new]
