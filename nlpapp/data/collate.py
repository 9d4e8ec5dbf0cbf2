"""Examples to a padded batch. Nothing is padded on disk; a batch is as wide as its longest row."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from nlpapp import seeding
from nlpapp.data.masking import (
    MaskedTokens,
    MaskingOptions,
    MaskingVocabulary,
    mask_tokens,
    predictions_needed,
)
from nlpapp.data.pretraining_data import PretrainingData, PretrainingExample
from nlpapp.errors import ConfigError


def pad_rows(rows: Sequence[np.ndarray | Sequence[int]], value: int) -> torch.Tensor:
    """Return ``rows`` as one (B, S) int64 tensor, filled on the right with ``value``.

    S is at least 1: no model reads a batch without positions, were all its texts empty.
    """
    width = max([1, *map(len, rows)])
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def attention_mask(rows: Sequence[np.ndarray | Sequence[int]]) -> torch.Tensor:
    """Return a (B, S) int64 tensor: 1 at the tokens of ``rows``, 0 at padding."""
    return pad_rows([np.ones(len(row), dtype=np.int64) for row in rows], 0)


class PretrainingCollator:
    """(indices, epoch) -> a batch of pretraining instances.

    The batch has ``input_ids``, ``attention_mask`` and ``token_type_ids`` (B, S),
    ``masked_positions`` (K,) as indices into the flattened B * S, ``masked_labels`` (K,), and
    ``next_sentence_labels`` or ``sentence_order_labels`` (B,) if the data has them; all int64.
    Static masks come from the data. Dynamic ones are drawn here, by a generator of their own for
    each (epoch, instance): whatever the batch, the masks are the same.
    """

    def __init__(
        self,
        data: PretrainingData,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        fixed_masks: bool = False,
    ) -> None:
        """Collate ``data``; ``fixed_masks`` draws the same dynamic masks in every epoch.

        Raises:
            ConfigError: the tokenizer has no padding token, or no mask token.
        """
        if tokenizer.pad_token_id is None:
            raise ConfigError("The tokenizer has no padding token; batches need one.")
        self.data = data
        self.seed = seed
        self.fixed_masks = fixed_masks
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.vocabulary = MaskingVocabulary.of(tokenizer)
        options = data.manifest["options"]
        self.masking = MaskingOptions(
            masked_lm_prob=options["masked_lm_prob"],
            max_predictions=options["max_predictions_per_seq"]
            or predictions_needed(options["max_seq_length"], options["masked_lm_prob"]),
            unit=options["masking_unit"],
            max_ngram=options.get("max_ngram", 3),
        )

    def __call__(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """Return the batch of the instances ``indices``, as wide as the longest of them."""
        examples = [self.data[int(index)] for index in indices]
        masks = [
            (example.masked_lm_positions, example.masked_lm_ids, example.input_ids)
            if example.masked_lm_positions is not None and example.masked_lm_ids is not None
            else self._draw(example, int(index), epoch)
            for index, example in zip(indices, examples, strict=True)
        ]
        rows = [ids for _, _, ids in masks]
        width = max(map(len, rows), default=0)
        positions = [
            positions.astype(np.int64) + row * width for row, (positions, _, _) in enumerate(masks)
        ]
        batch = {
            "input_ids": pad_rows(rows, self.pad_token_id),
            "attention_mask": attention_mask(rows),
            "token_type_ids": pad_rows([example.token_type_ids for example in examples], 0),
            "masked_positions": _joined(positions),
            "masked_labels": _joined([labels for _, labels, _ in masks]),
        }
        if self.data.has_next_sentence:
            labels = [example.next_sentence_label for example in examples]
            batch["next_sentence_labels"] = torch.tensor(labels, dtype=torch.int64)
        if self.data.has_sentence_order:
            labels = [example.sentence_order_label for example in examples]
            batch["sentence_order_labels"] = torch.tensor(labels, dtype=torch.int64)
        return batch

    def _draw(
        self, example: PretrainingExample, index: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        masked: MaskedTokens = mask_tokens(
            example.input_ids,
            np.array([0, len(example.input_ids)]),
            vocabulary=self.vocabulary,
            options=self.masking,
            rng=seeding.generator(self.seed, "masking", 0 if self.fixed_masks else epoch, index),
            continues=example.word_continues,
        )
        return masked.positions, masked.labels, masked.ids


def _joined(parts: Sequence[np.ndarray]) -> torch.Tensor:
    flat = np.concatenate(parts) if parts else np.zeros(0)
    return torch.from_numpy(flat.astype(np.int64))
