"""Text from a language model, one token at a time, its memory kept between tokens."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from nlpapp.errors import ConfigError
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel

PROMPT_SEGMENT = 512
"""Tokens of a prompt that are read at once: bounds the memory that attention needs."""


def check_sampling(*, temperature: float, top_k: int, top_p: float) -> None:
    """Raise ConfigError if an option of `next_token_probabilities` is out of range."""
    if temperature < 0:
        raise ConfigError(
            f"temperature: {temperature} is negative; 0 takes the likeliest token, 1 samples."
        )
    if top_k < 0:
        raise ConfigError(
            f"top_k: {top_k} is negative; give 0 for all tokens, or how many to sample from."
        )
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p: {top_p} must be over 0 and at most 1 (1: all tokens).")


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
        return np.eye(len(logits))[int(logits.argmax())]
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


@torch.inference_mode()
def generate_ids(
    model: TransformerXLLMHeadModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    mem_len: int | None = None,
    forbidden: Sequence[int] = (),
) -> Iterator[int]:
    """Yield the tokens that ``model`` puts after ``prompt``.

    Args:
        model: in evaluation mode.
        prompt: at least one id; a text's start is <eos>.
        max_new_tokens: how many to yield.
        rng: draws them.
        temperature: see `next_token_probabilities`, as for top_k and top_p.
        top_k: 0 for all.
        top_p: 1 for all.
        mem_len: positions that each layer remembers; None: the model's own.
        forbidden: ids that are never yielded.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    device = next(model.parameters()).device
    memory = None
    pending = list(prompt)  # read but not yet seen by the model
    for _ in range(max_new_tokens):
        for start in range(0, len(pending), PROMPT_SEGMENT):
            segment = torch.tensor([pending[start : start + PROMPT_SEGMENT]], device=device)
            output = model(segment, memory=memory, mem_len=mem_len, logits_to_keep=1)
            memory = output.memory
        logits = output.logits[0, -1].float().cpu().numpy()
        logits[list(forbidden)] = -np.inf
        probabilities = next_token_probabilities(
            logits, temperature=temperature, top_k=top_k, top_p=top_p
        )
        token = int(rng.choice(len(probabilities), p=probabilities))
        yield token
        pending = [token]
