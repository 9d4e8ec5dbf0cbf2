"""Next-sentence prediction and sentence order: documents and a generator to pairs of segments.

As in BERT (Devlin et al. 2019, create_pretraining_data.py): sentences of a document are gathered
into chunks of a target length, a chunk is cut into A and B at random, and in half of the pairs B is
taken from another document and the rest of the chunk goes back. Different here, on purpose:

- Every label is a coin thrown before anything else of the pair is drawn. The original calls each
  chunk of one sentence "random" (54-100 % of all pairs); here such a sentence is cut in two, and
  the "random" B then also begins inside a sentence.
- The coin leans against the label that is ahead, by `LEANING` and at the first pair of a document
  by `FIRST_LEANING`, so that the share is 0.50 in a small corpus too. (Equal numbers within a
  document would not do: its last pair is never a random one, since a random one gives something
  back. For the same reason only first pairs make up for all of what is behind: what a random pair
  gives back is short, and must not be a true pair more often than others.)
- The random B is of another document that is no copy of this one, and never begins with the
  sentence that follows A. It is as long as the true B would be: the original fills it up to the
  target even where the document of A has ended, so that the length gives the label away.

Sentence order (ALBERT, Lan et al. 2020, section 3.1): B always follows A, and in half of the pairs
the two change places.

Segments are spans (start, end) of the block's flat ids: nothing is copied here.
"""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nlpapp import seeding
from nlpapp.data.token_blocks import TokenBlock

NEXT, RANDOM = 0, 1
"""Next-sentence labels: B follows A; B is random."""
IN_ORDER, SWAPPED = 0, 1
"""Sentence-order labels."""

LEANING = 0.01
"""Added to the chance of the label that is behind, for each pair that it is behind in this pass."""
FIRST_LEANING = 0.5
"""The same for the first pair of a document, which so has the label that is behind, if one is."""

TRIES = 20
"""Random places looked at for one that fits; the best of them is taken."""

FEWEST_TOKENS = 2
"""A pair needs a token on each side."""

Uniform = Callable[[], float]
"""Draws from [0, 1)."""


@dataclass
class Segments:
    """Spans of a block's ids: one row for each instance."""

    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(start of A, end of A, start of B, end of B); B is empty where there are no pairs."""
    labels: list[int] = field(default_factory=list)
    """1 for a random B, or for segments that changed places; empty where there are no pairs."""
    without_random: int = 0
    """Pairs that were to be random, and for which no other text could be had."""


class Wanted(NamedTuple):
    """What a random B is to be like: no more different from the true one than it must be."""

    length: int
    """In tokens."""
    full: bool
    """Whole sentences until ``length`` is reached, as where a chunk reached its target."""
    at_end: bool
    """The true B ends with its document: end so, too. (Only where not ``full``.)"""
    inside: bool
    """The true B begins inside a sentence: begin so, too. (Only where not ``full``.)"""


class RandomSegments:
    """Draws segments of other documents of a block; every draw is by the caller's generator."""

    def __init__(self, block: TokenBlock) -> None:
        """Index ``block``: documents with the same identity (parts, copies) count as one."""
        self.ids = block.ids.data  # A view gives numbers several times faster than the array.
        self.boundaries = [block.boundaries(d) for d in range(block.num_documents)]
        self.identity = block.identities
        self.usable = [d for d, bounds in enumerate(self.boundaries) if len(bounds) > 1]

    def draw(
        self, document: int, follows: tuple[int, int], want: Wanted, uniform: Uniform
    ) -> tuple[int, int] | None:
        """Return a span like ``follows``, the true continuation, or None if there is no other text.

        Args:
            document: the document that A is from; neither it nor a copy of it is drawn from.
            follows: span of the true B; what is drawn does not begin with its first sentence.
            want: what the span is to be like.
            uniform: source of the draw.
        """
        own = self.identity[document]
        count = len(self.usable)
        best: tuple[int, tuple[int, int]] | None = None
        for _ in range(TRIES):
            other = self.usable[int(uniform() * count)]
            if self.identity[other] == own:
                continue
            bounds = self.boundaries[other]
            span = place(bounds, want, uniform)
            if span is None or self._continues(document, span, follows):
                continue
            if want.full:
                return span
            misfit = _misfit(bounds, span, want)
            if 8 * misfit <= want.length:
                return span
            if best is None or misfit < best[0]:
                best = misfit, span
        return best[1] if best else self._any_other(document, follows, uniform)

    def _any_other(
        self, document: int, follows: tuple[int, int], uniform: Uniform
    ) -> tuple[int, int] | None:
        """Return the rest of another document from some sentence on: better than nothing."""
        offset = int(uniform() * len(self.usable))
        for other in self.usable[offset:] + self.usable[:offset]:
            if self.identity[other] != self.identity[document]:
                bounds = self.boundaries[other]
                for first in bounds[:-1]:
                    if not self._continues(document, (first, bounds[-1]), follows):
                        return first, bounds[-1]
        return None

    def _continues(self, document: int, span: tuple[int, int], follows: tuple[int, int]) -> bool:
        """Tell whether the text at ``span`` begins like the text at ``follows``, for a sentence."""
        ids, begin, there = self.ids, follows[0], span[0]
        if ids[begin] != ids[there]:  # Nearly always.
            return False
        bounds = self.boundaries[document]
        length = min(bounds[bisect.bisect_right(bounds, begin)] - begin, span[1] - there)
        return ids[begin : begin + length] == ids[there : there + length]


def place(bounds: list[int], want: Wanted, uniform: Uniform) -> tuple[int, int] | None:
    """Return a span as wanted of a document with these ``bounds``; None if it is too short."""
    length = want.length
    latest = bounds[-1] - length
    if latest < bounds[0]:
        return None
    if want.full:
        first = bounds[int(uniform() * bisect.bisect_right(bounds, latest))]
        return first, bounds[bisect.bisect_left(bounds, first + length)]
    earliest = bisect.bisect_left(bounds, bounds[0] + length)
    end = bounds[-1]
    if not want.at_end:
        end = bounds[earliest + int(uniform() * (len(bounds) - earliest))]
    start = end - length
    if not want.inside:
        above = bisect.bisect_left(bounds, start)
        below = bounds[max(0, above - 1)]
        near = bounds[above] if bounds[above] - start <= start - below else below
        start = near if near < end else below
    return start, end


def _misfit(bounds: list[int], span: tuple[int, int], want: Wanted) -> int:
    """Return by how many tokens ``span`` is not as wanted."""
    starts_inside = bounds[bisect.bisect_left(bounds, span[0])] != span[0]
    return abs(span[1] - span[0] - want.length) + (starts_inside != want.inside) * want.length


def uniform_draws(rng: np.random.Generator) -> Uniform:
    """Return a function that draws from [0, 1), many times faster than ``rng`` does one by one."""

    def draws() -> Iterator[float]:
        while True:
            yield from rng.random(4096).tolist()

    return draws().__next__


def next_sentence_pairs(
    block: TokenBlock, *, seed: int, repeat: int, max_tokens: int, short_seq_prob: float
) -> Segments:
    """Return the pairs of one pass over ``block``; each sentence is in one of them at least.

    Args:
        block: the documents; its guests are only drawn from.
        seed: of the run; block number and ``repeat`` are added to it.
        repeat: number of the pass over the corpus (of ``dupe_factor``).
        max_tokens: tokens of A and B together, special tokens not counted.
        short_seq_prob: share of chunks that aim at a random shorter length, so that the model also
            sees short input, as it will be fine-tuned on.
    """
    uniform = uniform_draws(seeding.generator(seed, "sentence pairs", repeat, block.number))
    segments = Segments()
    others = RandomSegments(block)
    spans, labels = segments.spans, segments.labels
    ahead = 0  # Random pairs more than true ones.
    for document in range(block.num_own):
        bounds = _own_bounds(block, document)
        position, last = 0, len(bounds) - 1
        while position < last:
            target = _target(max_tokens, short_seq_prob, uniform)
            end = chunk_end(bounds, position, target)
            middle, inside = _cut(bounds, position, end, uniform)
            if inside:
                end, last = end + 1, last + 1
            start, follows = bounds[position], (bounds[middle], bounds[end])
            if _throw(uniform, ahead, first=position == 0):
                full = not inside and bounds[end] - start >= target
                length = (start + target if full else bounds[end]) - bounds[middle]
                want = Wanted(max(1, length), full, end == last, inside)
                drawn = others.draw(document, follows, want, uniform)
                if drawn is not None:
                    if bounds[last] - bounds[middle] < FEWEST_TOKENS:
                        middle = last  # Too little to go back: it stays with A.
                    spans.append((start, bounds[middle], *drawn))
                    labels.append(RANDOM)
                    position, ahead = middle, ahead + 1
                    continue
                segments.without_random += 1
            spans.append((start, bounds[middle], *follows))
            labels.append(NEXT)
            position, ahead = end, ahead - 1
    return segments


def sentence_order_pairs(
    block: TokenBlock, *, seed: int, repeat: int, max_tokens: int, short_seq_prob: float
) -> Segments:
    """Return the pairs of one pass over ``block``, half of them with A and B in each other's place.

    Arguments as for `next_sentence_pairs`; each sentence is in exactly one pair.
    """
    uniform = uniform_draws(seeding.generator(seed, "sentence order", repeat, block.number))
    segments = Segments()
    ahead = 0  # Swapped pairs more than others.
    for document in range(block.num_own):
        bounds = _own_bounds(block, document)
        position = 0
        while position < len(bounds) - 1:
            target = _target(max_tokens, short_seq_prob, uniform)
            end = chunk_end(bounds, position, target)
            middle, inside = _cut(bounds, position, end, uniform)
            end += inside
            one, other = (bounds[position], bounds[middle]), (bounds[middle], bounds[end])
            swapped = _throw(uniform, ahead, first=position == 0)
            segments.spans.append((*other, *one) if swapped else (*one, *other))
            segments.labels.append(SWAPPED if swapped else IN_ORDER)
            position, ahead = end, ahead + (1 if swapped else -1)
    return segments


def full_sentences(
    block: TokenBlock, *, seed: int, repeat: int, max_tokens: int, short_seq_prob: float
) -> Segments:
    """Return runs of whole sentences of one document, as long as fit: no pairs, nothing cut off.

    The input format "DOC-SENTENCES" of RoBERTa (Liu et al. 2019, section 4.2).
    """
    uniform = uniform_draws(seeding.generator(seed, "full sentences", repeat, block.number))
    segments = Segments()
    for document in range(block.num_own):
        bounds = block.boundaries(document)
        position, last = 0, len(bounds) - 1
        while position < last:
            target = _target(max_tokens, short_seq_prob, uniform)
            end = bisect.bisect_right(bounds, bounds[position] + target) - 1
            end = max(end, position + 1)
            segments.spans.append((bounds[position], bounds[end], bounds[end], bounds[end]))
            position = end
    return segments


def _own_bounds(block: TokenBlock, document: int) -> list[int]:
    """Return the sentence bounds of a document; none of one that is too short for a pair."""
    bounds = block.boundaries(document)
    return bounds if bounds[-1] - bounds[0] >= FEWEST_TOKENS else []


def _target(max_tokens: int, short_seq_prob: float, uniform: Uniform) -> int:
    """Return ``max_tokens``, or with probability ``short_seq_prob`` a random length from 2 up."""
    if uniform() < short_seq_prob:
        return FEWEST_TOKENS + int(uniform() * (max_tokens + 1 - FEWEST_TOKENS))
    return max_tokens


def _throw(uniform: Uniform, ahead: int, *, first: bool) -> bool:
    """Throw the coin of a pair, given how far label 1 is ahead, and if it is a document's first."""
    return uniform() < 0.5 - (FIRST_LEANING if first else LEANING) * ahead


def chunk_end(bounds: list[int], position: int, target: int) -> int:
    """Return the boundary at which a chunk from ``position`` on reaches ``target`` tokens."""
    last = len(bounds) - 1
    end = bisect.bisect_left(bounds, bounds[position] + target, position + 1)
    end = min(end, last)
    # A single token left over could be no pair.
    return end + 1 if bounds[last] - bounds[end] == 1 else end


def _cut(bounds: list[int], position: int, end: int, uniform: Uniform) -> tuple[int, bool]:
    """Return the boundary between A and B of a chunk, and whether it is inside a sentence.

    A chunk of one sentence is cut in two, so that there is a B: that adds a boundary.
    """
    if end > position + 1:
        return position + 1 + int(uniform() * (end - position - 1)), False
    room = bounds[end] - bounds[position] - 1
    bounds.insert(end, bounds[position] + 1 + int(uniform() * room))
    return position + 1, True


def truncate_pairs(spans: np.ndarray, max_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``spans`` (n, 4) cut to ``max_tokens`` tokens for A and B together.

    As in the original: a token at a time off the longer segment (B if they are equal), at its front
    or back by a fair coin. Drawn at once here: the number cut at the front is binomial.
    """
    start_a, end_a, start_b, end_b = spans.astype(np.int64).T
    length_a, length_b = end_a - start_a, end_b - start_b
    excess = np.maximum(length_a + length_b - max_tokens, 0)
    level = np.minimum(excess, np.abs(length_a - length_b))  # Until both are equally long.
    rest = excess - level
    cut_a = np.where(length_a > length_b, level, 0) + rest // 2
    cut_b = excess - cut_a
    front_a, front_b = rng.binomial(cut_a, 0.5), rng.binomial(cut_b, 0.5)
    return np.stack(
        [
            start_a + front_a,
            end_a - (cut_a - front_a),
            start_b + front_b,
            end_b - (cut_b - front_b),
        ],
        axis=1,
    )
