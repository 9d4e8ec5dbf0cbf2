"""Next-sentence prediction: documents and a generator to pairs of segments.

As in BERT (Devlin et al. 2019, create_pretraining_data.py): sentences of a document are gathered
into chunks of a target length, a chunk is cut into A and B at random, and in half of the pairs B is
taken from another document and the rest of the chunk goes back. Different here, on purpose:

- Every label is a coin thrown before anything else of the pair is drawn. The original calls each
  chunk of one sentence "random" (54-100 % of all pairs); here such a sentence is cut in two, and
  the "random" B then also begins inside a sentence.
- The coin leans by `LEANING` against the label that is ahead, so that the share is 0.50 in a small
  corpus too. (Equal numbers within a document would not do: its last pair is never a random one,
  since a random one gives something back.)
- The random B is of another document that is no copy of this one, and never begins with the
  sentence that follows A. It is as long as the true B would be: the original fills it up to the
  target even where the document of A has ended, so that the length gives the label away.

Segments are spans (start, end) of the block's flat ids: nothing is copied here. Random documents
are drawn from the block (some 8 MB of text), not from the whole corpus.
"""

import bisect
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from nlpapp import seeding
from nlpapp.data.token_blocks import TokenBlock

NEXT, RANDOM = 0, 1
"""Labels: B follows A; B is random."""

LEANING = 0.01
"""Added to the chance of the label that is behind, for each pair that it is behind in this pass."""

TRIES = 20
"""Random places looked at for one that fits; the best of them is taken."""

FEWEST_TOKENS = 2
"""A pair needs a token on each side."""


@dataclass
class Segments:
    """Spans of a block's ids: one row for each instance."""

    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(start of A, end of A, start of B, end of B); B is empty without next-sentence prediction."""
    labels: list[int] = field(default_factory=list)
    """0: B follows A, 1: B is random; empty without next-sentence prediction."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was dropped, by reason."""

    def add(self, span: tuple[int, int, int, int], label: int | None = None) -> None:
        """Append one instance."""
        self.spans.append(span)
        if label is not None:
            self.labels.append(label)


@dataclass(frozen=True)
class Wanted:
    """What a random B is to be like: no more different from the true one than it must be."""

    length: int
    """In tokens."""
    full: bool
    """Whole sentences until ``length`` is reached, as where a chunk reached its target."""
    at_end: bool
    """The true B ends with its document: end so, too. (Only where not ``full``.)"""
    inside: bool
    """The true B begins inside a sentence: begin so, too. (Only where not ``full``.)"""

    def span(self, bounds: list[int], rng: np.random.Generator) -> tuple[int, int] | None:
        """Return such a span of a document with these boundaries, or None if it is too short."""
        latest = bounds[-1] - self.length
        if latest < bounds[0]:
            return None
        if self.full:
            first = bounds[int(rng.integers(bisect.bisect_right(bounds, latest)))]
            return first, bounds[bisect.bisect_left(bounds, first + self.length)]
        earliest = bisect.bisect_left(bounds, bounds[0] + self.length)
        end = bounds[-1] if self.at_end else bounds[int(rng.integers(earliest, len(bounds)))]
        start = end - self.length
        if not self.inside:
            above = bisect.bisect_left(bounds, start)
            below = bounds[max(0, above - 1)]
            near = bounds[above] if bounds[above] - start <= start - below else below
            start = near if near < end else below
        return start, end

    def misfit(self, span: tuple[int, int], bounds: list[int]) -> int:
        """Return by how many tokens ``span`` is not as wanted."""
        if self.full:
            return 0
        starts_inside = bounds[bisect.bisect_left(bounds, span[0])] != span[0]
        return abs(span[1] - span[0] - self.length) + (starts_inside != self.inside) * self.length


class RandomSegments:
    """Draws segments of other documents of a block; every draw is by the caller's generator."""

    def __init__(self, block: TokenBlock) -> None:
        """Index ``block``: documents with the same tokens count as one."""
        self.block = block
        self.boundaries = [block.boundaries(d) for d in range(block.num_documents)]
        groups: dict[bytes, int] = {}
        self.group = [
            groups.setdefault(block.tokens(d).tobytes(), d) for d in range(block.num_documents)
        ]
        self.usable = [d for d in range(block.num_documents) if len(self.boundaries[d]) > 1]
        self.distinct = len({self.group[d] for d in self.usable})

    def draw(
        self, document: int, follows: tuple[int, int], want: "Wanted", rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Return a span like ``follows``, the true continuation, or None if there is no other text.

        Args:
            document: the document that A is from; neither it nor a copy of it is drawn from.
            follows: span of the true B; what is drawn does not begin with its first sentence.
            want: what the span is to be like.
            rng: source of the draw.
        """
        best: tuple[int, tuple[int, int]] | None = None
        for _ in range(TRIES):
            other = self.usable[int(rng.integers(len(self.usable)))]
            bounds = self.boundaries[other]
            if self.group[other] == self.group[document]:
                continue
            span = want.span(bounds, rng)
            if span is None or self._continues(document, span, follows):
                continue
            misfit = want.misfit(span, bounds)
            if best is None or misfit < best[0]:
                best = misfit, span
            if 8 * misfit <= want.length:
                break
        return best[1] if best else self._any_other(document, follows, rng)

    def _any_other(
        self, document: int, follows: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Return the rest of another document from some sentence on: better than nothing."""
        offset = int(rng.integers(len(self.usable)))
        for other in self.usable[offset:] + self.usable[:offset]:
            if self.group[other] != self.group[document]:
                bounds = self.boundaries[other]
                for first in bounds[:-1]:
                    if not self._continues(document, (first, bounds[-1]), follows):
                        return first, bounds[-1]
        return None

    def _continues(self, document: int, span: tuple[int, int], follows: tuple[int, int]) -> bool:
        """Tell whether the text at ``span`` begins like the text at ``follows``, for a sentence."""
        bounds = self.boundaries[document]
        end = bounds[bisect.bisect_right(bounds, follows[0])]
        length = min(end - follows[0], span[1] - span[0])
        ids = self.block.ids
        return bool(
            np.array_equal(ids[follows[0] : follows[0] + length], ids[span[0] : span[0] + length])
        )


def next_sentence_pairs(
    block: TokenBlock, *, seed: int, repeat: int, max_tokens: int, short_seq_prob: float
) -> Segments:
    """Return the pairs of one pass over ``block``; each sentence is in one of them at least.

    Args:
        block: the documents.
        seed: of the run; document number and ``repeat`` are added to it.
        repeat: number of the pass over the corpus (of ``dupe_factor``).
        max_tokens: tokens of A and B together, special tokens not counted.
        short_seq_prob: share of chunks that aim at a random shorter length, so that the model also
            sees short input, as it will be fine-tuned on.
    """
    segments = Segments()
    others = RandomSegments(block)
    ahead = 0  # Random pairs more than true ones.
    for document in range(block.num_documents):
        rng = seeding.generator(seed, "sentence pairs", repeat, block.first_document + document)
        bounds = list(others.boundaries[document])
        if bounds[-1] - bounds[0] < FEWEST_TOKENS:
            segments.counts["documents_of_fewer_than_2_tokens"] += 1
            continue
        position = 0
        while position < len(bounds) - 1:
            target = target_length(max_tokens, short_seq_prob, rng)
            end = _chunk_end(bounds, position, target)
            if end == position + 1:
                # One sentence: cut in two, so that there is a true continuation.
                cut = int(rng.integers(bounds[position] + 1, bounds[end]))
                bounds.insert(end, cut)
                end, inside = end + 1, True
                middle = position + 1
            else:
                inside = False
                middle = int(rng.integers(position + 1, end))
            label = RANDOM if rng.random() < 0.5 - LEANING * ahead else NEXT
            follows = (bounds[middle], bounds[end])
            full = not inside and bounds[end] - bounds[position] >= target
            length = (bounds[position] + target if full else bounds[end]) - bounds[middle]
            want = Wanted(max(1, length), full, end == len(bounds) - 1, inside)
            drawn = others.draw(document, follows, want, rng) if label == RANDOM else None
            if label and drawn is None:
                segments.counts["no_other_text_for_random"] += 1
                label = NEXT
            if label == RANDOM and drawn is not None:
                if bounds[-1] - bounds[middle] < FEWEST_TOKENS:
                    middle = len(bounds) - 1  # Too little to go back: it stays with A.
                segments.add((bounds[position], bounds[middle], *drawn), RANDOM)
                position, ahead = middle, ahead + 1
            else:
                segments.add((bounds[position], bounds[middle], *follows), NEXT)
                position, ahead = end, ahead - 1
    return segments


def target_length(max_tokens: int, short_seq_prob: float, rng: np.random.Generator) -> int:
    """Return ``max_tokens``, or with probability ``short_seq_prob`` a random length from 2 up."""
    if rng.random() < short_seq_prob:
        return int(rng.integers(FEWEST_TOKENS, max_tokens + 1))
    return max_tokens


def _chunk_end(bounds: list[int], position: int, target: int) -> int:
    """Return the boundary at which a chunk from ``position`` on reaches ``target`` tokens."""
    end = position + 1
    while end < len(bounds) - 1 and bounds[end] - bounds[position] < target:
        end += 1
    # A single token left over could be no pair.
    return end + 1 if bounds[-1] - bounds[end] == 1 else end


def full_sentences(
    block: TokenBlock, *, seed: int, repeat: int, max_tokens: int, short_seq_prob: float
) -> Segments:
    """Return runs of whole sentences of one document, as long as fit: no pairs, nothing cut off.

    The input format "DOC-SENTENCES" of RoBERTa (Liu et al. 2019, section 4.2).
    """
    segments = Segments()
    for document in range(block.num_documents):
        rng = seeding.generator(seed, "full sentences", repeat, block.first_document + document)
        bounds = block.boundaries(document)
        if bounds[-1] == bounds[0]:
            segments.counts["documents_without_tokens"] += 1
        position = 0
        while position < len(bounds) - 1:
            target = target_length(max_tokens, short_seq_prob, rng)
            end = position + 1
            while end < len(bounds) - 1 and bounds[end + 1] - bounds[position] <= target:
                end += 1
            segments.add((bounds[position], bounds[end], bounds[end], bounds[end]))
            position = end
    return segments


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
