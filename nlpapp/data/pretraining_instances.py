"""A block of documents to a table of pretraining instances: pure, so that any process can do it.

segments of each pass -> [CLS] A [SEP] B [SEP] -> masks -> arrow table, nothing padded
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from nlpapp import seeding
from nlpapp.data.masking import (
    MaskingOptions,
    MaskingUnit,
    MaskingVocabulary,
    check_unit,
    mask_tokens,
    predictions_needed,
)
from nlpapp.data.sentence_pairs import (
    FEWEST_TOKENS,
    Segments,
    full_sentences,
    next_sentence_pairs,
    sentence_order_pairs,
    truncate_pairs,
)
from nlpapp.data.token_blocks import TokenBlock
from nlpapp.errors import ConfigError
from nlpapp.text.words import Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Objective = Literal["nsp", "sop", "none"]

OBJECTIVES = {
    "nsp": next_sentence_pairs,
    "sop": sentence_order_pairs,
    "none": full_sentences,
}
LABELS = {"nsp": "next_sentence_label", "sop": "sentence_order_label"}
"""Column of the labels."""

SHORTEST_SEQUENCE = 8


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """What decides which instances a corpus gives; stored in the manifest."""

    objective: Objective = "nsp"
    """nsp: next sentence or a random one; sop: in order or swapped; none: whole sentences."""
    max_seq_length: int = 128
    """Longest instance in tokens, special tokens included."""
    short_seq_prob: float = 0.1
    """Share of instances that aim at a random shorter length."""
    dupe_factor: int = 5
    """Passes over the corpus, each with other pairs and masks."""
    masked_lm_prob: float = 0.15
    """Share of tokens to predict."""
    max_predictions_per_seq: int | None = None
    """Most tokens to predict in one instance; None: what max_seq_length tokens need."""
    masking: Literal["static", "dynamic"] = "static"
    """static: masks are drawn here; dynamic: by the collator, anew in each epoch."""
    masking_unit: MaskingUnit = "token"
    """Mask single tokens, whole words, or n-grams of words."""
    max_ngram: int = 3
    """Most words of an n-gram; n of them have a weight of 1/n."""
    segmenter: Segmenter = "none"
    """What tells the words of text without blanks (Chinese): jieba, or max_match."""
    seed: int = 42
    """Seed of all draws."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.max_seq_length < SHORTEST_SEQUENCE:
            raise ConfigError(
                f"max_seq_length {self.max_seq_length} is too short: expected at least "
                f"{SHORTEST_SEQUENCE} tokens, three of them special."
            )
        if self.max_seq_length > np.iinfo(np.uint16).max:
            raise ConfigError(f"max_seq_length {self.max_seq_length} is over 65535.")
        for name in ("masked_lm_prob", "short_seq_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is no share: expected 0 to 1.")
        if self.dupe_factor < 1:
            raise ConfigError(f"dupe_factor {self.dupe_factor}: expected 1 or more passes.")
        if self.max_predictions_per_seq is not None and self.max_predictions_per_seq < 1:
            raise ConfigError(
                f"max_predictions_per_seq {self.max_predictions_per_seq}: expected 1 or more "
                "(masked_lm_prob: 0 turns masking off)."
            )
        if self.max_ngram < 1:
            raise ConfigError(f"max_ngram {self.max_ngram}: expected 1 or more words.")
        if self.segmenter != "none" and self.masking_unit == "token":
            raise ConfigError(
                f"segmenter: {self.segmenter} tells words, and masking_unit: token masks none. Use "
                "masking_unit: whole_word or ngram."
            )
        choices = {
            "objective": OBJECTIVES,
            "masking": ("static", "dynamic"),
            "masking_unit": ("token", "whole_word", "ngram"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} '{getattr(self, name)}' is unknown; expected {' or '.join(known)}."
                )

    @property
    def max_tokens(self) -> int:
        """Return the tokens that fit beside the special ones."""
        return self.max_seq_length - (3 if self.pairs else 2)

    @property
    def pairs(self) -> bool:
        """Tell whether an instance is a pair of segments."""
        return self.objective != "none"

    @property
    def longest_sentence(self) -> int:
        """Return the tokens from which a sentence is cut up: two of them should fill a pair.

        Rounded up: with two of a token less a chunk would take a third, most of it to be cut off.
        """
        return -(-self.max_tokens // 2) if self.pairs else self.max_tokens

    def masking_options(self) -> MaskingOptions:
        """Return the options of `masking.mask_tokens`."""
        needed = predictions_needed(self.max_seq_length, self.masked_lm_prob)
        return MaskingOptions(
            masked_lm_prob=self.masked_lm_prob,
            max_predictions=self.max_predictions_per_seq or needed,
            unit=self.masking_unit,
            max_ngram=self.max_ngram,
        )


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The ids that instances are put together with."""

    cls: int
    sep: int
    unknown: int
    vocabulary: MaskingVocabulary

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", options: PretrainingOptions) -> "SpecialIds":
        """Read them off ``tokenizer``, and check that it can do what ``options`` ask.

        Raises:
            ConfigError: a special token is missing, sequences are longer than the tokenizer allows,
                or it does not tell words.
        """
        for name in ("cls_token_id", "sep_token_id", "unk_token_id"):
            if getattr(tokenizer, name) is None:
                raise ConfigError(
                    f"The tokenizer has no {name.removesuffix('_id')}, and an instance needs "
                    "[CLS], [SEP] and [UNK], whatever they are called. Take a tokenizer made for "
                    "BERT, or add them to this one with transformers' add_special_tokens."
                )
        if options.max_seq_length > tokenizer.model_max_length:
            raise ConfigError(
                f"max_seq_length {options.max_seq_length} is over the tokenizer's limit of "
                f"{tokenizer.model_max_length} tokens."
            )
        vocabulary = MaskingVocabulary.of(tokenizer)
        check_unit(options.masking_unit, vocabulary)
        return cls(
            cls=int(tokenizer.cls_token_id),
            sep=int(tokenizer.sep_token_id),
            unknown=int(tokenizer.unk_token_id),
            vocabulary=vocabulary,
        )


def build_table(
    block: TokenBlock, options: PretrainingOptions, special: SpecialIds
) -> tuple[pa.Table, Counter[str]]:
    """Return the instances of a block, and what there is to count.

    They are in the order of the text, those of all passes over one place side by side: that is how
    compression finds what they share. Whoever trains on them shuffles.
    """
    own = block.own_tokens
    sizes = np.diff(block.sentence_offsets[block.document_offsets[: block.num_own + 1]])
    unusable = block.whole[: block.num_own] & (sizes < (FEWEST_TOKENS if options.pairs else 1))
    alone = int(sizes[unusable].sum())  # Tokens of documents of one, which cannot be a pair.
    continues = special.vocabulary.continues[own]
    if block.continues is not None:
        continues = block.continues[: len(own)]
    counts: Counter[str] = Counter(
        documents=-int(unusable.sum()),
        dropped_documents_without_tokens=int(unusable.sum()),
        sentences=block.num_sentences - block.empty_sentences - alone,
        tokens=len(own) - alone,
        words=len(own) - alone - int(continues.sum()),
        unknown_tokens=int((own == special.unknown).sum()),
        dropped_sentences_without_tokens=block.empty_sentences,
        dropped_sentences_without_pair=alone,
        dropped_tokens=alone,
        sentences_cut_up=block.split_sentences,
    )
    tables, places = [], []
    for repeat in range(options.dupe_factor):
        segments = OBJECTIVES[options.objective](
            block,
            seed=options.seed,
            repeat=repeat,
            max_tokens=options.max_tokens,
            short_seq_prob=options.short_seq_prob,
        )
        counts["pairs_without_random_text"] += segments.without_random
        places += [span[0] for span in segments.spans]
        tables.append(_assemble(block, segments, options, special, repeat, counts))
    order = np.argsort(np.array(places, dtype=np.int64), kind="stable")
    return pa.concat_tables(tables).take(flat_array(order)), counts


def _assemble(
    block: TokenBlock,
    segments: Segments,
    options: PretrainingOptions,
    special: SpecialIds,
    repeat: int,
    counts: Counter[str],
) -> pa.Table:
    """Return the instances of one pass; adds to ``counts``."""
    whole = np.asarray(segments.spans, dtype=np.int64).reshape(-1, 4)
    rng = seeding.generator(options.seed, "truncation", repeat, block.number)
    spans = truncate_pairs(whole, options.max_tokens, rng)
    layout = Layout(spans, pairs=options.pairs)
    ids, types = layout.ids(block.ids, special), layout.token_types()
    marks = None if block.continues is None else layout.continues(block.continues)
    counts["instances"] += len(spans)
    counts["instance_tokens"] += len(ids)
    kept = spans[:, 1::2] - spans[:, ::2]
    counts["truncated_tokens"] += int((whole[:, 1::2] - whole[:, ::2] - kept).sum())
    columns = {}
    if options.masking == "static":
        masked = mask_tokens(
            ids,
            layout.offsets,
            vocabulary=special.vocabulary,
            options=options.masking_options(),
            rng=seeding.generator(options.seed, "static masks", repeat, block.number),
            continues=marks,
        )
        ends = np.concatenate([[0], np.cumsum(masked.counts)])
        begins = np.repeat(layout.offsets[:-1], masked.counts)
        positions = (masked.positions - begins).astype(np.uint16)
        columns["masked_lm_positions"] = list_array(positions, ends)
        # The text itself stays whole: passes over it differ in these two columns only.
        columns["masked_lm_inputs"] = list_array(masked.ids[masked.positions], ends)
        counts["masked_tokens"] += len(positions)
        counts["masked_as_mask"] += masked.masked
        counts["masked_as_random"] += masked.replaced
        counts["masked_kept"] += len(positions) - masked.masked - masked.replaced
    elif marks is not None:
        columns["word_continues"] = list_array(marks, layout.offsets)
    columns = {
        "input_ids": list_array(ids, layout.offsets),
        "token_type_ids": list_array(types, layout.offsets),
    } | columns
    if options.pairs:
        columns[LABELS[options.objective]] = flat_array(np.asarray(segments.labels, np.uint8))
        counted = "random_next" if options.objective == "nsp" else "swapped_order"
        counts[counted] += sum(segments.labels)
    return pa.table(columns)


class Layout:
    """Where the tokens of [CLS] A [SEP], or [CLS] A [SEP] B [SEP], of many instances go."""

    def __init__(self, spans: np.ndarray, *, pairs: bool) -> None:
        """Lay out ``spans`` (n, 4): start and end of A, start and end of B in a block's ids."""
        self.length_a, self.length_b = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
        lengths = self.length_a + 2 + (self.length_b + 1 if pairs else 0)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        """Where each instance begins, and the end of the last."""
        self.start = self.offsets[:-1]
        self.second = self.start + 2 + self.length_a
        # Where each token of A and B goes, and what it comes from.
        self._to = ranges(self.start + 1, self.length_a)
        self._from = ranges(spans[:, 0], self.length_a)
        if pairs:
            self._to = np.concatenate([self._to, ranges(self.second, self.length_b)])
            self._from = np.concatenate([self._from, ranges(spans[:, 2], self.length_b)])
        self.pairs = pairs

    def ids(self, ids: np.ndarray, special: SpecialIds) -> np.ndarray:
        """Return flat ids."""
        joined = np.full(self.offsets[-1], special.sep, dtype=ids.dtype)
        joined[self.start] = special.cls
        joined[self._to] = ids[self._from]
        return joined

    def token_types(self) -> np.ndarray:
        """Return flat token types, uint8: 1 at B and the [SEP] after it."""
        if not self.pairs:
            return np.zeros(self.offsets[-1], dtype=np.uint8)
        lengths = np.stack([self.length_a + 2, self.length_b + 1], axis=1).ravel()
        return np.repeat(np.tile(np.array([0, 1], np.uint8), len(self.start)), lengths)

    def continues(self, continues: np.ndarray) -> np.ndarray:
        """Return flat marks of tokens that go on with a word; none at the front of A and B."""
        joined = np.zeros(self.offsets[-1], dtype=bool)
        joined[self._to] = continues[self._from]
        joined[self.start[self.length_a > 0] + 1] = False
        if self.pairs:
            joined[self.second[self.length_b > 0]] = False
        return joined


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``range(start, start + length)`` for each pair, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def flat_array(values: np.ndarray) -> pa.Array:
    """Return an arrow array of ``values``, without `pa.array`, which would import pandas first."""
    if values.dtype == bool:
        bits = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def list_array(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """Return an arrow array of lists: ``values`` cut at ``offsets``."""
    return pa.ListArray.from_arrays(flat_array(offsets.astype(np.int32)), flat_array(values))
