import numpy as np
import pytest

from nlpapp.data.sentence_pairs import (
    NEXT,
    RANDOM,
    SWAPPED,
    full_sentences,
    next_sentence_pairs,
    sentence_order_pairs,
    truncate_pairs,
)
from nlpapp.data.token_blocks import TokenBlock


def block_of(documents, *, number=0, identities=None, guests=0):
    """A block of documents given as lists of sentences, a sentence as a list of ids."""
    sentences = [sentence for document in documents for sentence in document]
    return TokenBlock(
        ids=np.array([token for sentence in sentences for token in sentence], dtype=np.uint16),
        sentence_offsets=np.cumsum([0, *map(len, sentences)]),
        document_offsets=np.cumsum([0, *map(len, documents)]),
        identities=identities or [str(document) for document in documents],
        whole=np.ones(len(documents), dtype=bool),
        number=number,
        num_own=len(documents) - guests,
    )


def corpus(num_documents, num_sentences, seed=0, shortest=3, longest=20):
    """Documents whose tokens are all different: a token tells where it is from."""
    rng = np.random.default_rng(seed)
    token = iter(range(60_000))
    return [
        [
            [next(token) for _ in range(rng.integers(shortest, longest))]
            for _ in range(num_sentences)
        ]
        for _ in range(num_documents)
    ]


def pairs(block, *, seed=0, repeat=0, max_tokens=60, short_seq_prob=0.1):
    return next_sentence_pairs(
        block, seed=seed, repeat=repeat, max_tokens=max_tokens, short_seq_prob=short_seq_prob
    )


def document_of(block, position):
    starts = block.sentence_offsets[block.document_offsets]
    return int(np.searchsorted(starts, position, side="right")) - 1


SHAPES = [(200, 1), (2, 50), (200, 3), (100, 20), (3, 200)]


@pytest.mark.parametrize("shape", SHAPES)
def test_google_bert_next_sentence_label_share(shape):
    # google-research/bert gives 53.7 to 100 % random pairs for these shapes: every chunk of a
    # single sentence is "random" there.
    block = block_of(corpus(*shape, longest=14))
    labels = []
    for repeat in range(400):
        labels += pairs(block, repeat=repeat).labels
        if len(labels) > 4000:
            break
    assert len(labels) > 4000
    assert np.mean(labels) == pytest.approx(0.5, abs=0.02)


def test_the_share_is_within_one_percent_of_a_real_size():
    block = block_of(corpus(300, 12, longest=18))
    labels = [label for repeat in range(5) for label in pairs(block, repeat=repeat).labels]
    assert np.mean(labels) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(100, 1), (150, 2), (100, 6), (100, 20)])
def test_the_share_is_within_one_percent_from_a_hundred_documents_on(shape):
    # In a single pass, whatever the seed: chance alone would be 3 % off for 300 pairs.
    block = block_of(corpus(*shape, longest=20))
    shares = np.array([np.mean(pairs(block, seed=seed).labels) for seed in range(40)])
    assert np.abs(shares - 0.5).max() < 0.015 and np.mean(np.abs(shares - 0.5) < 0.01) > 0.9
    assert np.mean(shares) == pytest.approx(0.5, abs=0.002)


def test_short_pairs_are_random_as_often_as_long_ones():
    # What a random pair gives back is short, and must not make up for it by being a true pair.
    block = block_of(corpus(150, 3))
    lengths, labels = [], []
    for seed in range(40):
        found = pairs(block, seed=seed, short_seq_prob=0.0)
        lengths += [b - a + d - c for a, b, c, d in found.spans]
        labels += found.labels
    is_short = np.array(lengths) < np.median(lengths)
    assert np.mean(np.array(labels)[is_short]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_google_bert_random_pairs_of_the_same_document(shape):
    # There, a corpus of one document gave 70 % "random" pairs, all of that document.
    block = block_of(corpus(*shape, longest=14))
    found = pairs(block)
    for (start_a, end_a, start_b, end_b), label in zip(found.spans, found.labels, strict=True):
        assert start_a < end_a and start_b < end_b
        a, b = document_of(block, start_a), document_of(block, start_b)
        assert document_of(block, end_a - 1) == a and document_of(block, end_b - 1) == b
        if label == NEXT:
            assert start_b == end_a
        else:
            assert a != b


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("short_seq_prob", [0.0, 0.5, 1.0])
def test_every_token_of_every_document_is_used(shape, short_seq_prob):
    block = block_of(corpus(*shape, longest=14))
    found = pairs(block, short_seq_prob=short_seq_prob)
    used = np.zeros(len(block.ids), dtype=int)
    for (start_a, end_a, start_b, end_b), label in zip(found.spans, found.labels, strict=True):
        used[start_a:end_a] += 1
        if label == NEXT:
            used[start_b:end_b] += 1
    assert (used == 1).all()


def test_copies_of_a_document_are_no_other_document():
    one, two = corpus(2, 10)
    block = block_of([one, one, one, one, two])
    copies = int(block.sentence_offsets[block.document_offsets[4]])
    for seed in range(5):
        found = pairs(block, seed=seed)
        for (start_a, _, start_b, _), label in zip(found.spans, found.labels, strict=True):
            if label == RANDOM:
                assert (start_a < copies) != (start_b < copies)


def test_a_random_segment_never_begins_with_the_true_next_sentence():
    # All documents share all but one sentence each, in the same order.
    shared = corpus(1, 6, longest=6)[0]
    block = block_of([[*shared, [50_000 + number, 1, 2]] for number in range(6)])
    ids = block.ids.tolist()
    for seed in range(20):
        found = pairs(block, seed=seed, max_tokens=20)
        for (_, end_a, start_b, end_b), label in zip(found.spans, found.labels, strict=True):
            if label == RANDOM:
                ends = [end for end in block.sentence_offsets.tolist() if end > end_a]
                length = min(ends[0] - end_a, end_b - start_b) if ends else 0
                if length and document_of(block, end_a) == document_of(block, end_a - 1):
                    assert ids[start_b : start_b + length] != ids[end_a : end_a + length]


def test_only_copies_give_no_random_pairs():
    (one,) = corpus(1, 10)
    found = pairs(block_of([one, one]))
    assert set(found.labels) == {NEXT} and found.without_random > 0


def test_a_single_sentence_is_cut_in_two():
    block = block_of([[list(range(10))], [list(range(20, 30))]])
    for seed in range(30):
        found = pairs(block, seed=seed, short_seq_prob=0.0)
        first, label = found.spans[0], found.labels[0]
        assert first[0] == 0 and 0 < first[1] <= 10
        if label == NEXT:
            assert first[1] < 10 and first[2:] == (first[1], 10)


def test_a_document_of_one_token_gives_no_pair():
    found = pairs(block_of([[[1]], [[2, 3]], [[4, 5, 6]]]))
    assert found.spans and all(span[0] > 0 for span in found.spans)


def test_slices_of_one_document_are_no_other_document():
    slices = corpus(4, 10)
    block = block_of(slices, identities=["novel", "novel", "novel", "other"])
    own = int(block.sentence_offsets[block.document_offsets[3]])
    labels = []
    for seed in range(5):
        found = pairs(block, seed=seed)
        labels += found.labels
        for (start_a, _, start_b, _), label in zip(found.spans, found.labels, strict=True):
            if label == RANDOM:
                assert (start_a < own) != (start_b < own)
    assert np.mean(labels) == pytest.approx(0.5, abs=0.05)


def test_guests_are_drawn_from_and_give_no_pairs():
    block = block_of(corpus(3, 20), identities=["novel", "novel", "guest"], guests=1)
    own = len(block.own_tokens)
    found = pairs(block)
    assert all(span[0] < own for span in found.spans)
    drawn = [s for s, label in zip(found.spans, found.labels, strict=True) if label == RANDOM]
    assert drawn and all(span[2] >= own for span in drawn)
    assert found.without_random == 0


def test_a_token_left_over_at_the_end_is_not_lost():
    for seed in range(20):
        block = block_of([[[1, 2, 3], [4, 5, 6], [7]], [[8, 9, 10], [11, 12, 13], [14]]])
        found = pairs(block, seed=seed, max_tokens=6, short_seq_prob=0.0)
        used = [t for (a, b, _, _) in found.spans for t in range(a, b)]
        used += [
            t
            for (_, _, a, b), label in zip(found.spans, found.labels, strict=True)
            if label == NEXT
            for t in range(a, b)
        ]
        assert sorted(used) == list(range(14))


def test_the_length_does_not_give_the_label_away():
    # In the original a random B fills the pair up to the target, a true one ends with its document.
    block = block_of(corpus(400, 5, shortest=4, longest=20))
    totals = {NEXT: [], RANDOM: []}
    for repeat in range(3):
        found = pairs(block, repeat=repeat, max_tokens=125)
        for span, label in zip(found.spans, found.labels, strict=True):
            totals[label].append(span[1] - span[0] + span[3] - span[2])
    assert np.mean(totals[RANDOM]) == pytest.approx(np.mean(totals[NEXT]), rel=0.05)


def test_pairs_depend_on_seed_and_pass_and_nothing_else():
    block = block_of(corpus(20, 10))
    assert pairs(block, seed=1).spans == pairs(block, seed=1).spans
    assert pairs(block, seed=1).spans != pairs(block, seed=2).spans
    assert pairs(block, repeat=0).spans != pairs(block, repeat=1).spans
    other = block_of(corpus(20, 10), number=1)
    assert pairs(block).spans != pairs(other).spans


def test_short_targets_give_shorter_pairs():
    block = block_of(corpus(20, 40))
    lengths = [
        np.mean([s[1] - s[0] + s[3] - s[2] for s in pairs(block, short_seq_prob=p).spans])
        for p in (0.0, 1.0)
    ]
    assert lengths[1] < 0.75 * lengths[0]


def test_full_sentences_are_whole_and_all_there():
    block = block_of(corpus(30, 20))
    found = full_sentences(block, seed=0, repeat=0, max_tokens=60, short_seq_prob=0.2)
    assert [span[0] for span in found.spans[1:]] == [span[1] for span in found.spans[:-1]]
    assert found.spans[-1][1] == len(block.ids) and found.labels == []
    starts = set(block.sentence_offsets.tolist())
    for start, end, *second in found.spans:
        assert start in starts and end in starts and second == [end, end] and end - start <= 60
        assert document_of(block, start) == document_of(block, end - 1)


def truncate_one(length_a, length_b, most):
    """The original's loop, on lengths alone."""
    while length_a + length_b > most:
        if length_a > length_b:
            length_a -= 1
        else:
            length_b -= 1
    return length_a, length_b


def test_truncation_gives_the_lengths_of_the_original_loop():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, size=(500, 2))
    starts = rng.integers(0, 1000, size=(500, 2))
    spans = np.stack(
        [starts[:, 0], starts[:, 0] + lengths[:, 0], starts[:, 1], starts[:, 1] + lengths[:, 1]], 1
    )
    cut = truncate_pairs(spans, 40, rng)
    for before, after in zip(spans.tolist(), cut.tolist(), strict=True):
        expected = truncate_one(before[1] - before[0], before[3] - before[2], 40)
        assert (after[1] - after[0], after[3] - after[2]) == expected
        assert before[0] <= after[0] <= after[1] <= before[1]
        assert before[2] <= after[2] <= after[3] <= before[3]


def test_truncation_cuts_front_and_back_alike():
    spans = np.tile([0, 100, 100, 200], (4000, 1))
    cut = truncate_pairs(spans, 100, np.random.default_rng(0))
    assert cut[:, 0].mean() == pytest.approx(25, abs=0.5)
    assert truncate_pairs(spans, 200, np.random.default_rng(0)).tolist() == spans.tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_sentence_order_swaps_half_of_the_pairs_and_uses_every_token_once(shape):
    block = block_of(corpus(*shape, longest=14))
    labels = []
    for repeat in range(20):
        found = sentence_order_pairs(
            block, seed=0, repeat=repeat, max_tokens=60, short_seq_prob=0.1
        )
        labels += found.labels
        used = np.zeros(len(block.ids), dtype=int)
        for (start_a, end_a, start_b, end_b), label in zip(found.spans, found.labels, strict=True):
            assert start_a < end_a and start_b < end_b
            assert start_a == end_b if label == SWAPPED else end_a == start_b
            assert document_of(block, start_a) == document_of(block, start_b)
            used[start_a:end_a] += 1
            used[start_b:end_b] += 1
        assert (used == 1).all()
    assert np.mean(labels) == pytest.approx(0.5, abs=0.02)
