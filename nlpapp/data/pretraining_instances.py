"""A block of documents to a table of pretraining instances: pure, so that any process can do it.

segments of each pass -> [CLS] A [SEP] B [SEP] -> masks -> arrow table, nothing padded
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

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
    Segments,
    full_sentences,
    next_sentence_pairs,
    truncate_pairs,
)
from nlpapp.data.token_blocks import TokenBlock
from nlpapp.errors import ConfigError

Objective = Literal["nsp", "none"]

SHORTEST_SEQUENCE = 8


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """What decides which instances a corpus gives; stored in the manifest."""

    objective: Objective = "nsp"
    """nsp: pairs of segments with a next-sentence label; none: whole sentences, no label."""
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
    """Mask single tokens, or all pieces of a word."""
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
        choices = {
            "objective": ("nsp", "none"),
            "masking": ("static", "dynamic"),
            "masking_unit": ("token", "whole_word"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} '{getattr(self, name)}' is unknown; expected {' or '.join(known)}."
                )

    @property
    def max_tokens(self) -> int:
        """Return the tokens that fit beside the special ones."""
        return self.max_seq_length - (3 if self.objective == "nsp" else 2)

    @property
    def longest_sentence(self) -> int:
        """Return the tokens from which a sentence is cut up: a pair should hold two of them."""
        return max(2, self.max_tokens // 2) if self.objective == "nsp" else self.max_tokens

    def masking_options(self) -> MaskingOptions:
        """Return the options of `masking.mask_tokens`."""
        needed = predictions_needed(self.max_seq_length, self.masked_lm_prob)
        return MaskingOptions(
            masked_lm_prob=self.masked_lm_prob,
            max_predictions=self.max_predictions_per_seq or needed,
            unit=self.masking_unit,
        )


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The ids that instances are put together with."""

    cls: int
    sep: int
    unknown: int
    vocabulary: MaskingVocabulary

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, options: PretrainingOptions) -> "SpecialIds":
        """Read them off ``tokenizer``, and check that it can do what ``options`` ask.

        Raises:
            ConfigError: a special token is missing, sequences are longer than the tokenizer allows,
                or it does not tell words.
        """
        for name in ("cls_token_id", "sep_token_id", "unk_token_id"):
            if getattr(tokenizer, name) is None:
                raise ConfigError(f"The tokenizer has no {name.removesuffix('_id')}.")
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
    block: TokenBlock, options: PretrainingOptions, special: SpecialIds, *, index: int
) -> tuple[pa.Table, Counter[str]]:
    """Return the instances of block number ``index`` (by pass, then document), and counts."""
    tables = []
    counts: Counter[str] = Counter(
        documents=block.num_documents,
        sentences_without_tokens=block.empty_sentences,
        sentences_cut_up=block.split_sentences,
        tokens=len(block.ids),
        unknown_tokens=int((block.ids == special.unknown).sum()),
        masked_tokens=0,
        random_next=0,
    )
    make = next_sentence_pairs if options.objective == "nsp" else full_sentences
    for repeat in range(options.dupe_factor):
        segments = make(
            block,
            seed=options.seed,
            repeat=repeat,
            max_tokens=options.max_tokens,
            short_seq_prob=options.short_seq_prob,
        )
        counts.update({f"dropped_{reason}": n for reason, n in segments.counts.items()})
        tables.append(_assemble(block, segments, options, special, (repeat, index), counts))
    return pa.concat_tables(tables), counts


def _assemble(
    block: TokenBlock,
    segments: Segments,
    options: PretrainingOptions,
    special: SpecialIds,
    stream: tuple[int, int],
    counts: Counter[str],
) -> pa.Table:
    """Return the instances of one pass; adds to ``counts``. ``stream``: pass and block number."""
    whole = np.asarray(segments.spans, dtype=np.int64).reshape(-1, 4)
    rng = seeding.generator(options.seed, "truncation", *stream)
    spans = truncate_pairs(whole, options.max_tokens, rng)
    ids, types, offsets = join_segments(block.ids, spans, special, pairs=options.objective == "nsp")
    counts["instances"] += len(spans)
    counts["instance_tokens"] += len(ids)
    kept = spans[:, 1::2] - spans[:, ::2]
    counts["truncated_tokens"] += int((whole[:, 1::2] - whole[:, ::2] - kept).sum())
    columns = {}
    if options.masking == "static":
        masked = mask_tokens(
            ids,
            offsets,
            vocabulary=special.vocabulary,
            options=options.masking_options(),
            rng=seeding.generator(options.seed, "static masks", *stream),
        )
        ids = masked.ids
        ends = np.concatenate([[0], np.cumsum(masked.counts)])
        begins = np.repeat(offsets[:-1], masked.counts)
        columns["masked_lm_positions"] = _lists((masked.positions - begins).astype(np.uint16), ends)
        columns["masked_lm_ids"] = _lists(masked.labels, ends)
        counts["masked_tokens"] += len(masked.positions)
    columns = {
        "input_ids": _lists(ids, offsets),
        "token_type_ids": _lists(types, offsets),
    } | columns
    if options.objective == "nsp":
        columns["next_sentence_label"] = pa.array(np.asarray(segments.labels, dtype=np.uint8))
        counts["random_next"] += sum(segments.labels)
    return pa.table(columns)


def join_segments(
    ids: np.ndarray, spans: np.ndarray, special: SpecialIds, *, pairs: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flat ids, token types (uint8), offsets of [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""
    length_a, length_b = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
    lengths = length_a + 2 + (length_b + 1 if pairs else 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    start = offsets[:-1]
    joined = np.full(offsets[-1], special.sep, dtype=ids.dtype)
    types = np.zeros(offsets[-1], dtype=np.uint8)
    joined[start] = special.cls
    joined[ranges(start + 1, length_a)] = ids[ranges(spans[:, 0], length_a)]
    if pairs:
        second = start + 2 + length_a
        joined[ranges(second, length_b)] = ids[ranges(spans[:, 2], length_b)]
        types[ranges(second, length_b + 1)] = 1
    return joined, types, offsets


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``range(start, start + length)`` for each pair, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
