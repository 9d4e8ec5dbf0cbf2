"""Masked language modelling: ids and a generator to masked ids, positions and labels.

Knows ids only. Works on a whole batch of examples at once: flat ids, and the offsets of the
examples. The scheme is BERT's (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % become
[MASK], 10 % a random token and 10 % stay, and the model predicts all of them.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from nlpapp.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MaskingUnit = Literal["token", "whole_word", "ngram"]

# <S> and <T> are of the Chinese vocabulary of BERT, where no text gives them.
_UNUSED = re.compile(r"[\[<](unused|extra_id_?).*[\]>]|<[ST]>")


@dataclass(frozen=True, kw_only=True)
class MaskingVocabulary:
    """What masking has to know of a tokenizer."""

    mask_id: int
    maskable: np.ndarray
    """bool by id: not a special token and not an unused one."""
    continues: np.ndarray
    """bool by id: the piece goes on with the word before it ("##" in WordPiece)."""
    alone: np.ndarray
    """bool by id: the piece is a word of its own, such as punctuation; a word begins after it."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "MaskingVocabulary":
        """Read the vocabulary of ``tokenizer``.

        Raises:
            ConfigError: the tokenizer has no mask token.
        """
        from nlpapp.text.words import word_table

        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "The tokenizer has no mask token; masked language modelling needs one."
            )
        maskable = np.zeros(len(tokenizer), dtype=bool)
        special = set(tokenizer.all_special_ids)
        for piece, index in tokenizer.get_vocab().items():
            maskable[index] = index not in special and not _UNUSED.fullmatch(piece)
        words = word_table(tokenizer)
        nothing = np.zeros(len(tokenizer), dtype=bool)
        return cls(
            mask_id=int(tokenizer.mask_token_id),
            maskable=maskable,
            continues=nothing if words is None else words.continues,
            alone=nothing if words is None else words.alone,
        )


@dataclass(frozen=True, kw_only=True)
class MaskingOptions:
    """How much is masked, and by what unit."""

    masked_lm_prob: float = 0.15
    """Share of the tokens to predict, 0 to 1."""
    max_predictions: int
    """Most tokens to predict in one example."""
    unit: MaskingUnit = "token"
    """What is chosen at once: a token, all pieces of a word, or several words in a row."""
    max_ngram: int = 3
    """Most words in a row for n-grams; n of them have a weight of 1/n, as in ALBERT."""
    mask_rate: float = 0.8
    """Share of the chosen tokens that become [MASK]."""
    random_rate: float = 0.1
    """Share of the chosen tokens that become a random token; the rest stays as it is."""


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """The masks of a batch of examples."""

    ids: np.ndarray
    """The flat ids with masks in place."""
    positions: np.ndarray
    """Index into the flat ids of each token to predict, ascending: int64 (K,)."""
    labels: np.ndarray
    """What stood there: (K,)."""
    counts: np.ndarray
    """Tokens to predict of each example: int64."""
    masked: int
    """How many became [MASK]."""
    replaced: int
    """How many became a random token."""


def predictions_needed(max_length: int, masked_lm_prob: float) -> int:
    """Return the ``max_predictions`` that leaves no example of ``max_length`` short: 20 for 128."""
    return max(1, math.ceil(max_length * masked_lm_prob))


def mask_tokens(
    ids: np.ndarray,
    offsets: np.ndarray,
    *,
    vocabulary: MaskingVocabulary,
    options: MaskingOptions,
    rng: np.random.Generator,
    continues: np.ndarray | None = None,
) -> MaskedTokens:
    """Choose and mask tokens of a batch of examples; ``ids`` itself stays as it is.

    An example of n tokens (special ones included) gets min(max_predictions, max(1, round(n *
    masked_lm_prob))) of them, or fewer where it has not as many that may be masked; none with a
    probability of 0. Whole words are taken in random order as long as they fit. N-grams too, and
    then single words for what is left.

    Args:
        ids: tokens of all examples, one after the other.
        offsets: where each example begins, and the end of the last.
        vocabulary: which ids may be masked, and which may be drawn.
        options: rates and unit.
        rng: source of all draws.
        continues: bool for each token: it goes on with the word before it; None: as the vocabulary
            has it.
    """
    lengths = np.diff(offsets)
    budget: np.ndarray = np.zeros(len(lengths), dtype=np.int64)
    if options.masked_lm_prob > 0:
        wanted = np.round(lengths * options.masked_lm_prob).astype(np.int64)
        budget = np.minimum(options.max_predictions, np.maximum(1, wanted))
    maskable = vocabulary.maskable[ids]
    if options.unit == "token":
        flags = _choose_tokens(maskable, offsets, budget, rng)
    else:
        starts = _word_starts(ids, offsets, maskable, vocabulary, continues)
        example = np.repeat(np.arange(len(lengths)), lengths)
        flags = np.zeros(len(ids), dtype=bool)
        if options.unit == "ngram":
            several = _ngram_starts(starts, maskable, example, options.max_ngram, rng)
            flags = _choose_units(np.cumsum(several) - 1, example, maskable, budget, rng)
            budget = budget - np.bincount(example[flags], minlength=len(lengths))
        words = np.cumsum(starts) - 1
        flags |= _choose_units(words, example, maskable & ~flags, budget, rng)
    chosen = np.flatnonzero(flags)
    masked = ids.copy()
    dice = rng.random(len(chosen))
    hidden = dice < options.mask_rate
    masked[chosen[hidden]] = vocabulary.mask_id
    replaced = chosen[~hidden & (dice < options.mask_rate + options.random_rate)]
    candidates = np.flatnonzero(vocabulary.maskable)
    if len(replaced):
        masked[replaced] = candidates[rng.integers(len(candidates), size=len(replaced))]
    return MaskedTokens(
        ids=masked,
        positions=chosen,
        labels=ids[chosen],
        counts=np.diff(np.searchsorted(chosen, offsets)),
        masked=int(hidden.sum()),
        replaced=len(replaced),
    )


def exchange(
    ids: np.ndarray, positions: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``ids`` with ``values`` at ``positions``, and what stood there.

    With what the model sees, masks go in, and the labels come out; with the labels, the reverse.
    """
    changed = ids.copy()
    changed[positions] = values
    return changed, ids[positions]


def _choose_tokens(
    maskable: np.ndarray, offsets: np.ndarray, budget: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return for each token whether it is chosen: ``budget`` of each example, all sets equally so.

    Drawn with replacement until enough different ones are there, all examples at once: far fewer
    draws than a shuffle of all tokens needs. Of which more than half is to be chosen, what is left
    out is drawn.
    """
    before = np.concatenate([[0], np.cumsum(maskable)])
    first, end = before[offsets[:-1]], before[offsets[1:]]
    available = end - first
    wanted = np.minimum(budget, available)
    inverse = 2 * wanted > available
    missing = np.where(inverse, available - wanted, wanted)
    target = missing
    drawn = np.zeros(before[-1], dtype=bool)
    filled = np.flatnonzero(available)  # np.add.reduceat knows no empty example.
    while missing.any():
        rows = np.repeat(np.arange(len(missing)), missing)
        drawn[first[rows] + (rng.random(len(rows)) * available[rows]).astype(np.int64)] = True
        missing = target.copy()
        missing[filled] -= np.add.reduceat(drawn, first[filled], dtype=np.int64)
    if inverse.any():
        drawn ^= np.repeat(inverse, available)
    flags = np.zeros(len(maskable), dtype=bool)
    flags[maskable] = drawn
    return flags


def _word_starts(
    ids: np.ndarray,
    offsets: np.ndarray,
    maskable: np.ndarray,
    vocabulary: MaskingVocabulary,
    continues: np.ndarray | None,
) -> np.ndarray:
    """Return for each token whether a word begins with it."""
    if continues is None:
        starts = ~vocabulary.continues[ids]
        ends = ~maskable | vocabulary.alone[ids]
        starts |= ends
        starts[1:] |= ends[:-1]
    else:
        starts = ~continues | ~maskable
        # What follows a token that may not be masked begins a word.
        starts[1:] |= ~maskable[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    return starts


def _ngram_starts(
    words: np.ndarray,
    maskable: np.ndarray,
    example: np.ndarray,
    longest: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return for each token whether an n-gram begins with it, given where words begin.

    The text is cut into n-grams one after the other, n drawn anew for each: so none overlap, and
    choosing among them by a fair draw gives lengths with the weights they were cut with.
    """
    begins = np.flatnonzero(words)
    weights = 1 / np.arange(1, longest + 1)
    sizes = rng.choice(np.arange(1, longest + 1), size=len(begins), p=weights / weights.sum())
    first = np.concatenate([[0], np.cumsum(sizes)])
    starts = np.zeros(len(begins), dtype=bool)
    starts[first[first < len(begins)]] = True
    # None goes over a special token, or on into the next example.
    starts |= ~maskable[begins]
    starts[1:] |= ~maskable[begins[:-1]] | (example[begins[1:]] != example[begins[:-1]])
    flags = np.zeros(len(words), dtype=bool)
    flags[begins[starts]] = True
    return flags


def _choose_units(
    unit: np.ndarray,
    example: np.ndarray,
    maskable: np.ndarray,
    budget: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return for each token whether it is chosen.

    Units (words or n-grams: ``unit`` numbers them in ascending order) are put in random order
    within their example, and taken one after the other; one that is larger than what is left of
    the budget is passed over, as in the original.
    """
    token = np.flatnonzero(maskable)
    first = np.flatnonzero(np.diff(unit[token], prepend=-1))
    units, owner = unit[token[first]], example[token[first]]
    size = np.diff(first, append=len(token))
    # Example in the high bits, chance in the low ones: one sort for all examples.
    chance = rng.integers(2**32, size=len(units), dtype=np.int64)
    order = np.argsort((owner.astype(np.int64) << 32) | chance)
    units, size, owner = units[order], size[order], owner[order]
    opens = np.searchsorted(owner, np.arange(len(budget)))  # First unit of each example.
    taken = np.zeros(len(units), dtype=bool)
    open_ = size <= budget[owner]
    while open_.any():
        # Units that fit when all open ones before them are taken too.
        total = np.concatenate([[0], np.cumsum(np.where(open_ | taken, size, 0))])
        fits = total[1:] - total[opens[owner]] <= budget[owner]
        taken |= open_ & fits
        spent = np.bincount(owner[taken], weights=size[taken], minlength=len(budget))
        open_ &= ~taken & (size <= (budget - spent)[owner])
    flags = np.zeros(int(unit[-1]) + 1 if len(unit) else 0, dtype=bool)
    flags[units[taken]] = True
    return flags[unit] & maskable


def check_unit(unit: MaskingUnit, vocabulary: MaskingVocabulary) -> None:
    """Raise `ConfigError` if words are asked for and the vocabulary does not tell them."""
    if unit != "token" and not vocabulary.continues.any():
        raise ConfigError(
            f"masking_unit: {unit} needs a tokenizer that tells where words begin (WordPiece, "
            "byte-level BPE or SentencePiece); no piece of this one goes on with a word. Use "
            "masking_unit: token."
        )
