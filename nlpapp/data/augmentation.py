"""Text augmentation for distillation: Tang et al. 2019 (arXiv 1903.12136), section 3.3.

From each example, ``n_iter`` new ones are drawn. For each word X ~ Uniform(0, 1):
    1. masking: X < p_mask makes it [MASK], which shows the teacher's view of what it contributes;
    2. replacement: p_mask <= X < p_mask + p_pos puts another word of the same part of speech there,
       drawn by its frequency in the set among the words of that part of speech;
    3. n-gram sampling: with probability p_ng only a random n-gram of the example is then kept, with
       n uniform in 1..5. The rest is dropped, not masked.
Of pairs, the first sentence, the second, and both are changed in turn. Duplicates are dropped.

A word stands between white space (each ideograph is one), unless the tagger cuts words itself.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpapp import seeding
from nlpapp.data.part_of_speech import UnigramsByTag, check_tagger, core, load_tagger, split_words
from nlpapp.data.task_pool import Report, TaskPool, Work, usable_cores
from nlpapp.errors import ConfigError

LONGEST_NGRAM = 5
P_POS = 0.1
"""The paper's probability of a replacement."""
PART_ROWS = 2_000
"""Examples that a worker takes at a time; what is drawn does not depend on it."""

Sides = tuple[str, ...]
"""A text, or both texts of a pair."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How much text is made from each training example."""

    n_iter: int = 20
    """New examples drawn from each one, before duplicates are dropped; 0 turns augmentation off."""
    p_mask: float = 0.1
    """Probability that a word is masked."""
    p_ng: float = 0.25
    """Probability that only an n-gram of 1 to 5 words is kept."""
    tagger: str | None = None
    """What tells the parts of speech: hanta (English), jieba (Chinese), or spacy:<model>."""
    p_pos: float | None = None
    """Probability that a word is replaced by one of its part of speech; None: 0.1 with a tagger."""

    def __post_init__(self) -> None:
        if self.n_iter < 0:
            raise ConfigError(f"n_iter is {self.n_iter}; use 0 (no augmentation) or more.")
        for name in ("p_mask", "p_ng", "p_pos"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; a probability is between 0 and 1.")
        if self.p_pos and self.tagger is None:
            raise ConfigError(
                f"p_pos is {self.p_pos}, but no tagger tells the parts of speech: give tagger "
                "hanta (English), jieba (Chinese) or spacy:<model>, or leave p_pos out."
            )
        if self.p_pos == 0 and self.tagger is not None:
            raise ConfigError(f"tagger {self.tagger} has no work with p_pos 0: leave both out.")
        if self.p_mask + self.p_replace > 1:
            raise ConfigError(
                f"p_mask {self.p_mask} and p_pos {self.p_replace} make more than 1; a word is "
                "masked or replaced, not both."
            )
        if self.tagger is not None:
            check_tagger(self.tagger)

    @property
    def p_replace(self) -> float:
        """The probability of a replacement in force."""
        if self.p_pos is not None:
            return self.p_pos
        return P_POS if self.tagger is not None else 0.0


@dataclass(frozen=True, kw_only=True)
class AugmentationCounts:
    """What the rules did; words are counted where a side was changed, before n-grams were cut."""

    drawn: int = 0
    """Examples drawn."""
    kept: int = 0
    """Examples that were new."""
    sides: int = 0
    """Texts changed: as many as examples, or more of pairs."""
    ngrams: int = 0
    """Texts cut to an n-gram."""
    words: int = 0
    """Words of these texts."""
    masked: int = 0
    """Words masked."""
    replaced: int = 0
    """Words drawn anew by their part of speech; some are drawn as they were."""

    def __add__(self, other: "AugmentationCounts") -> "AugmentationCounts":
        mine, others = vars(self), vars(other)
        return AugmentationCounts(**{name: mine[name] + others[name] for name in mine})

    def __str__(self) -> str:
        shares = self.shares()
        return (
            f"{self.kept:,} new texts of {self.drawn:,} drawn, the others were there already; "
            f"words masked {shares['masked_share']:.1%}, replaced {shares['replaced_share']:.1%}; "
            f"n-grams {shares['ngram_share']:.1%}"
        )

    def shares(self) -> dict[str, float]:
        """Return the shares of masked and replaced words, of n-grams, and of examples kept."""
        return {
            "masked_share": self.masked / max(self.words, 1),
            "replaced_share": self.replaced / max(self.words, 1),
            "ngram_share": self.ngrams / max(self.sides, 1),
            "kept_share": self.kept / max(self.drawn, 1),
        }


@dataclass(frozen=True, kw_only=True)
class AugmentedPart:
    """New examples of a run of rows."""

    texts: list[Sides]
    rows: list[int]
    """The row that each was made from."""
    counts: AugmentationCounts


@dataclass(frozen=True)
class TaggedRow:
    """Both strings hold words with a blank between them: one tag for each word of a side."""

    texts: Sides
    tags: Sides | None = None


@dataclass(frozen=True)
class Rules:
    """What all workers share."""

    config: AugmentationConfig
    seed: int
    mask_token: str
    unigrams: UnigramsByTag | None


def augment(
    texts_a: Sequence[str],
    texts_b: Sequence[str] | None,
    config: AugmentationConfig,
    *,
    seed: int,
    mask_token: str,
    workers: int | None = None,
) -> Iterator[AugmentedPart]:
    """Yield new texts, or pairs, for a whole set, in the order of its rows.

    What is drawn from an example depends on (seed, its row, its text), and with a tagger on the
    words of the set: never on the number of workers. A text that was there already, in the set or
    among the new ones, is dropped; white space does not make a difference.

    Args:
        texts_a: the texts.
        texts_b: the second texts of pairs.
        config: the rules.
        seed: of what is drawn.
        mask_token: stands for a masked word.
        workers: processes; None: one for each core, none for a small set.
    """
    if not config.n_iter:
        return
    columns = [texts_a] if texts_b is None else [texts_a, texts_b]
    starts = range(0, len(texts_a), PART_ROWS)
    count = max(1, min(workers or usable_cores(), len(starts)))
    with TaskPool(workers=count) as pool:
        parts: list[Any] = [
            list(zip(*(texts[start : start + PART_ROWS] for texts in columns), strict=True))
            for start in starts
        ]
        tagged: list[list[TaggedRow]] = list(_in_order(pool, tag_rows, config.tagger, parts))
        unigrams = None if config.tagger is None else UnigramsByTag(_count_words(tagged))
        rules = Rules(config, seed, mask_token, unigrams)
        # Digests, not texts: what is known then takes the same memory for texts of any length. Two
        # of a billion texts share one with a probability of 1e-21.
        seen = {_digest(row.texts) for part in tagged for row in part}
        tasks = list(zip(starts, tagged, strict=True))
        for start, (drawn, counts) in zip(
            starts, _in_order(pool, draw_rows, rules, tasks), strict=True
        ):
            yield _without_known(drawn, counts, start=start, n_iter=config.n_iter, seen=seen)


def _without_known(
    drawn: list[Sides],
    counts: AugmentationCounts,
    *,
    start: int,
    n_iter: int,
    seen: set[bytes],
) -> AugmentedPart:
    texts: list[Sides] = []
    rows: list[int] = []
    for number, sides in enumerate(drawn):
        digest = _digest(sides)
        if digest not in seen and all(sides):  # What is made of an empty text is empty.
            seen.add(digest)
            texts.append(sides)
            rows.append(start + number // n_iter)
    counts += AugmentationCounts(drawn=len(drawn), kept=len(texts))
    return AugmentedPart(texts=texts, rows=rows, counts=counts)


def _digest(sides: Sides) -> bytes:
    return hashlib.blake2b(
        "\t".join(sides).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def _in_order(pool: TaskPool, work: Work, context: Any, tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield the results of ``tasks`` in their order."""
    early: dict[int, Any] = {}
    following = 0
    for index, result in pool.run(work, context, tasks):
        early[index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def tag_rows(tagger: str | None, rows: list[Sides], report: Report) -> list[TaggedRow]:
    """Return the words, and with a tagger their parts of speech, of each text."""
    if tagger is None:
        return [TaggedRow(tuple(" ".join(split_words(side)) for side in sides)) for sides in rows]
    tag = load_tagger(tagger)
    found = []
    for sides in rows:
        words, tags = zip(*(tag(side) for side in sides), strict=True)
        found.append(TaggedRow(tuple(map(" ".join, words)), tuple(map(" ".join, tags))))
    return found


def _count_words(parts: list[list[TaggedRow]]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for part in parts:
        for row in part:
            assert row.tags is not None
            for words, tags in zip(row.texts, row.tags, strict=True):
                cores = [core(word)[1] for word in words.split()]
                counts.update(zip(tags.split(), cores, strict=True))
    return counts


def draw_rows(
    rules: Rules, task: tuple[int, list[TaggedRow]], report: Report
) -> tuple[list[Sides], AugmentationCounts]:
    """Return ``n_iter`` new texts or pairs a row; ``task`` is (number of the first row, rows)."""
    first, rows = task
    drawn: list[Sides] = []
    counts = AugmentationCounts()
    for number, row in enumerate(rows, start=first):
        rng = seeding.generator(rules.seed, "augmentation", number)
        columns = []
        for side, words in enumerate(row.texts):
            changed = _iterations(rules.config.n_iter, side, len(row.texts))
            tags = row.tags[side].split() if row.tags is not None else None
            texts, done = draw_texts(words.split(), tags, len(changed), rng, rules)
            counts += done
            column = [words] * rules.config.n_iter
            for iteration, text in zip(changed, texts, strict=True):
                column[iteration] = text
            columns.append(column)
        drawn += zip(*columns, strict=True)
    return drawn, counts


def _iterations(n_iter: int, side: int, num_sides: int) -> list[int]:
    """Return the iterations that change ``side``; of a pair the first, the second, both in turn."""
    return [i for i in range(n_iter) if num_sides == 1 or i % 3 != 1 - side]


def draw_texts(
    words: list[str],
    tags: list[str] | None,
    count: int,
    rng: np.random.Generator,
    rules: Rules,
) -> tuple[list[str], AugmentationCounts]:
    """Return ``count`` new texts made from ``words`` by the three rules, and what was done."""
    p_mask, p_pos = rules.config.p_mask, rules.config.p_replace
    below_1 = float(np.nextafter(1.0, 0.0))
    draws = rng.random((count, len(words)))
    texts = [words.copy() for _ in range(count)]
    chosen, columns = np.nonzero(draws < p_mask + p_pos)
    masked = 0
    for row, column, draw in zip(
        chosen.tolist(), columns.tolist(), draws[chosen, columns].tolist(), strict=True
    ):
        if draw < p_mask:
            texts[row][column] = rules.mask_token
            masked += 1
        else:
            assert tags is not None and rules.unigrams is not None
            before, _, after = core(words[column])
            # Given that the word is replaced, this is uniform in 0..1, and decides by which word.
            uniform = min((draw - p_mask) / p_pos, below_1)
            texts[row][column] = before + rules.unigrams.draw(tags[column], uniform) + after
    ngrams = np.flatnonzero(rng.random(count) < rules.config.p_ng)
    sizes = np.minimum(rng.integers(1, LONGEST_NGRAM + 1, len(ngrams)), len(words))
    starts = rng.integers(0, len(words) - sizes + 1)
    for row, size, start in zip(ngrams.tolist(), sizes.tolist(), starts.tolist(), strict=True):
        texts[row] = texts[row][start : start + size]
    counts = AugmentationCounts(
        sides=count,
        ngrams=len(ngrams),
        words=draws.size,
        masked=masked,
        replaced=len(chosen) - masked,
    )
    return list(map(" ".join, texts)), counts
