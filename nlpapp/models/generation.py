"""Text from a language model, one token at a time, its memory kept between tokens.

So a token costs the same however long the text has become, once the memory is full. Where nothing
is remembered, the last tokens are read anew for each one.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from nlpapp.errors import ConfigError
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel

PROMPT_SEGMENT = 512
"""Tokens of a prompt that are read at once: bounds the memory that attention needs. Without memory,
the tokens that each one is written from."""


def check_sampling(
    *, temperature: float, top_k: int, top_p: float, repetition_penalty: float = 1.0
) -> None:
    """Raise ConfigError if an option of `next_token_probabilities` is out of range."""
    if not 0 <= temperature < math.inf:
        raise ConfigError(
            f"temperature: {temperature} is negative or not finite; 0 takes the likeliest token, "
            "1 samples."
        )
    if top_k < 0:
        raise ConfigError(
            f"top_k: {top_k} is negative; give 0 for all tokens, or how many to sample from."
        )
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p: {top_p} must be over 0 and at most 1 (1: all tokens).")
    if not 0 < repetition_penalty < math.inf:
        raise ConfigError(
            f"repetition_penalty: {repetition_penalty} must be over 0 and finite; 1 is none, 1.2 "
            "is usual."
        )


def next_token_probabilities(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
    """Return the probabilities to draw the next token from: (V,).

    Args:
        logits: (V,) log-probabilities or scores.
        temperature: scores are divided by it; 0 puts everything on the highest.
        top_k: keep the k likeliest tokens; 0: all.
        top_p: then keep the fewest likeliest tokens whose probabilities reach ``top_p`` together
            (Holtzman et al. 2020, arXiv 1904.09751).
    """
    if temperature == 0:
        certain = np.zeros(len(logits))
        certain[logits.argmax()] = 1.0
        return certain
    scores = logits.astype(np.float64) / temperature
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    if top_k:
        probabilities[order[top_k:]] = 0.0
        probabilities /= probabilities.sum()
    if top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]  # of the likelier ones
        probabilities[order[before >= top_p]] = 0.0
    return probabilities / probabilities.sum()


def penalise_repetition(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Return ``logits`` (V,) with the log-probabilities of ``seen`` ids multiplied by ``penalty``.

    Source: Keskar et al. 2019 (arXiv 1909.05858, section 4.1), in the form for negative scores.
    """
    penalised = logits.copy()
    places = np.unique(np.asarray(seen, dtype=np.int64))
    penalised[places] *= penalty
    return penalised


def equal_lengths(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of places in ``prompts``, each of prompts of one length."""
    ordered = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for _, group in itertools.groupby(ordered, key=lambda place: len(prompts[place])):
        places = list(group)
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]


@torch.inference_mode()
def generate_batch(
    model: TransformerXLLMHeadModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    rngs: Sequence[np.random.Generator],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    mem_len: int | None = None,
    forbidden: Sequence[int] = (),
) -> Iterator[list[int]]:
    """Yield the next token of each text that ``model`` puts after ``prompts``.

    Args:
        model: in evaluation mode.
        prompts: of equal length, since a memory has no padding; at least one id each.
        max_new_tokens: how many lists to yield.
        rngs: one for each prompt; what a prompt becomes depends on no other prompt.
        temperature: see `next_token_probabilities`, as for top_k and top_p.
        top_k: 0 for all.
        top_p: 1 for all.
        repetition_penalty: see `penalise_repetition`, over prompt and text; 1: none.
        mem_len: positions that each layer remembers; None: the model's own. With 0 each token is
            written from the last `PROMPT_SEGMENT` of prompt and text, which are read anew for it.
        forbidden: ids that are never yielded.

    Raises:
        ConfigError: an option is out of range, the prompts are of several lengths, or a model with
            absolute positions is to have a memory.
    """
    check_sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty
    )
    if len({len(prompt) for prompt in prompts}) != 1:
        raise ConfigError("prompts of one batch must have the same number of tokens.")
    device = next(model.parameters()).device
    mem_len = model.config.mem_len if mem_len is None else mem_len
    memory = None
    texts = [list(prompt) for prompt in prompts]
    pending = torch.tensor(texts, device=device)  # read but not yet seen by the model
    for _ in range(max_new_tokens):
        if not mem_len:
            pending = pending[:, -PROMPT_SEGMENT:]
        for segment in pending.split(PROMPT_SEGMENT, dim=1):
            output = model(segment, memory=memory, mem_len=mem_len, logits_to_keep=1)
            memory = output.memory
        tokens = []
        rows = output.logits[:, -1].float().cpu().numpy()
        for logits, text, rng in zip(rows, texts, rngs, strict=True):
            if repetition_penalty != 1:
                logits = penalise_repetition(logits, text, repetition_penalty)
            logits[list(forbidden)] = -np.inf
            probabilities = next_token_probabilities(
                logits, temperature=temperature, top_k=top_k, top_p=top_p
            )
            tokens.append(int(rng.choice(len(probabilities), p=probabilities)))
            text.append(tokens[-1])
        yield tokens
        new = torch.tensor(tokens, device=device)[:, None]
        pending = new if mem_len else torch.cat([pending, new], dim=1)


def generate_ids(
    model: TransformerXLLMHeadModel,
    prompt: Sequence[int],
    *,
    rng: np.random.Generator,
    **options: Any,
) -> Iterator[int]:
    """Yield the tokens that ``model`` puts after one ``prompt``; options as `generate_batch`."""
    for (token,) in generate_batch(model, [prompt], rngs=[rng], **options):
        yield token


def sample_text(
    model: TransformerXLLMHeadModel,
    vocabulary: Any,
    *,
    max_new_tokens: int,
    rng: np.random.Generator,
) -> str:
    """Return a text from its start, drawn with top_p 0.9, for people to see what was learnt.

    Args:
        model: in evaluation mode.
        vocabulary: a `text.vocabulary.Vocabulary`; <unk> is not written.
        max_new_tokens: its length.
        rng: draws it.
    """
    ids = generate_ids(
        model,
        [vocabulary.end_id],
        max_new_tokens=max_new_tokens,
        rng=rng,
        top_p=0.9,
        forbidden=[] if vocabulary.unknown_id is None else [vocabulary.unknown_id],
    )
    return str(vocabulary.decode(list(ids)))
