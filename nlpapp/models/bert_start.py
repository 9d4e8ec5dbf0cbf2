"""The BERT that pretraining starts from: random weights of some size, or a model folder."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import BertForPreTraining

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.initial_attention import apply_initial_attention
from nlpapp.models.initial_words import start_words
from nlpapp.models.pretrained import (
    check_sequence_length,
    check_tokenizer_fits,
    load_pretrained,
    read_config,
)

CountWords = Callable[[int], tuple[np.ndarray, torch.Tensor]]
"""Hidden size -> frequencies and vectors of the tokens, as `start_words` takes them."""

logger = logging.getLogger("nlpapp")

ADAPTATION_RATE = 2e-5
"""What the original BERT's README advises for going on from its weights."""


def build_pretraining_bert(
    folder: str | None,
    *,
    size: BertSizeConfig,
    vocab_size: int,
    pad_token_id: int,
    fingerprint: str,
    longest: int,
    count_words: CountWords | None = None,
) -> BertForPreTraining:
    """Return the model to pretrain; what is random comes from torch's generator.

    Args:
        folder: weights to go on from; None: random ones.
        size: of a random model.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.
        fingerprint: of the tokenizer.
        longest: tokens of the longest sequence it will read.
        count_words: what random weights' words start from; None: random vectors.

    Raises:
        CheckpointError: there is no model in ``folder``, or a damaged one.
        ConfigError: it is no BERT, was trained with another tokenizer, or has too few positions.
    """
    bert: BertForPreTraining
    if folder is not None:
        _read_bert_config(folder)
        bert = load_pretrained(BertForPreTraining, folder)
    else:
        config = bert_config(size, vocab_size=vocab_size, pad_token_id=pad_token_id)
        bert = BertForPreTraining(config)
    check_sequence_length(bert, longest)
    check_tokenizer_fits(bert, vocab_size=vocab_size, fingerprint=fingerprint)
    if folder is None:
        if count_words is not None:
            start_words(bert, *count_words(bert.config.hidden_size))
        apply_initial_attention(bert)
    return bert


def positions_of(folder: str | None, size: BertSizeConfig, *, vocab_size: int) -> int:
    """Return the longest sequence, in tokens, that the model of these options will read.

    Raises:
        CheckpointError: there is no model in ``folder``.
        ConfigError: it is no BERT.
    """
    config = _read_bert_config(folder) if folder else bert_config(size, vocab_size=vocab_size)
    return int(config.max_position_embeddings)


def _read_bert_config(folder: str) -> Any:
    config = read_config(folder)
    if config.model_type != "bert":
        # BertForPreTraining would find none of its weights there, and start from random ones.
        raise ConfigError(
            f"model: {folder} holds a '{config.model_type}'; expected a BERT (model_type bert). "
            "Give the folder of one, or leave model out to start from random weights"
        )
    return config


def check_start(
    folder: str | None, size: BertSizeConfig, learning_rate: float, *, word_start: bool
) -> None:
    """Check how a run starts, and advise against a rate that pretrained weights hardly survive.

    Args:
        folder: pretrained weights; None: random ones of ``size``.
        size: the option of that name.
        learning_rate: the highest one.
        word_start: the option of that name.

    Raises:
        ConfigError: both weights and a size are given, or weights and `start_words`.
    """
    if folder is None:
        return
    if size != BertSizeConfig():
        raise ConfigError(
            f"size is for random weights; {folder} has its own: leave one of them out"
        )
    if word_start:
        raise ConfigError(
            f"word_start is for random weights; {folder} has word vectors of its own: leave one of "
            "them out"
        )
    if learning_rate > 5 * ADAPTATION_RATE:
        logger.warning(
            "learning_rate %g may wipe out what the model in %s has learned; %g is usual for going "
            "on from pretrained weights",
            *(learning_rate, folder, ADAPTATION_RATE),
        )
