"""Masked language modelling: ids and a generator to masked ids, positions and labels.

Knows ids only. Works on a whole batch of examples at once: flat ids, and the offsets of the
examples. The scheme is BERT's (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % become
[MASK], 10 % a random token and 10 % stay, and the model predicts all of them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from nlpapp.errors import ConfigError

MaskingUnit = Literal["token", "whole_word"]


@dataclass(frozen=True, kw_only=True)
class MaskingVocabulary:
    """What masking has to know of a tokenizer."""

    mask_id: int
    maskable: np.ndarray
    """bool by id: not a special token and not an unused one."""
    continues: np.ndarray
    """bool by id: the piece goes on with the word before it ("##" in WordPiece)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "MaskingVocabulary":
        """Read the vocabulary of ``tokenizer``.

        Raises:
            ConfigError: the tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "The tokenizer has no mask token; masked language modelling needs one."
            )
        maskable = np.zeros(len(tokenizer), dtype=bool)
        continues = np.zeros(len(tokenizer), dtype=bool)
        special = set(tokenizer.all_special_ids)
        for piece, index in tokenizer.get_vocab().items():
            maskable[index] = index not in special and not piece.startswith("[unused")
            continues[index] = piece.startswith("##") and len(piece) > 2
        return cls(mask_id=int(tokenizer.mask_token_id), maskable=maskable, continues=continues)


@dataclass(frozen=True, kw_only=True)
class MaskingOptions:
    """How much is masked, and by what unit."""

    masked_lm_prob: float = 0.15
    """Share of the tokens to predict, 0 to 1."""
    max_predictions: int
    """Most tokens to predict in one example."""
    unit: MaskingUnit = "token"
    """What is chosen at once: a token, or all pieces of a word."""
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
) -> MaskedTokens:
    """Choose and mask tokens of a batch of examples; ``ids`` itself stays as it is.

    An example of n tokens (special ones included) gets min(max_predictions, max(1, round(n *
    masked_lm_prob))) of them, or fewer where it has not as many that may be masked; none with a
    probability of 0. Whole words are taken in random order as long as they fit.

    Args:
        ids: tokens of all examples, one after the other.
        offsets: where each example begins, and the end of the last.
        vocabulary: which ids may be masked, and which may be drawn.
        options: rates and unit.
        rng: source of all draws.
    """
    lengths = np.diff(offsets)
    example = np.repeat(np.arange(len(lengths)), lengths)
    budget: np.ndarray = np.zeros(len(lengths), dtype=np.int64)
    if options.masked_lm_prob > 0:
        wanted = np.round(lengths * options.masked_lm_prob).astype(np.int64)
        budget = np.minimum(options.max_predictions, np.maximum(1, wanted))
    maskable = vocabulary.maskable[ids]
    if options.unit == "token":
        unit: np.ndarray = np.arange(len(ids))
    else:
        starts = ~vocabulary.continues[ids] | ~maskable
        # What follows a token that may not be masked, or opens an example, begins a word.
        starts[1:] |= ~maskable[:-1]
        starts[offsets[:-1][lengths > 0]] = True
        unit = np.cumsum(starts) - 1
    chosen = np.flatnonzero(_choose(unit, example, maskable, budget, rng))
    masked = ids.copy()
    dice = rng.random(len(chosen))
    masked[chosen[dice < options.mask_rate]] = vocabulary.mask_id
    replaced = (dice >= options.mask_rate) & (dice < options.mask_rate + options.random_rate)
    masked[chosen[replaced]] = rng.choice(np.flatnonzero(vocabulary.maskable), replaced.sum())
    return MaskedTokens(
        ids=masked,
        positions=chosen,
        labels=ids[chosen],
        counts=np.bincount(example[chosen], minlength=len(lengths)),
    )


def _choose(
    unit: np.ndarray,
    example: np.ndarray,
    maskable: np.ndarray,
    budget: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return for each token whether it is chosen.

    Units (tokens, or words: ``unit`` numbers them in ascending order) are put in random order
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
    open_ = np.ones(len(units), dtype=bool)
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
    """Raise `ConfigError` if whole words are asked for and the vocabulary does not tell them."""
    if unit == "whole_word" and not vocabulary.continues.any():
        raise ConfigError(
            "masking_unit: whole_word needs a WordPiece vocabulary, whose pieces inside words "
            "begin "
            "with '##'; this tokenizer has none. Use masking_unit: token."
        )
