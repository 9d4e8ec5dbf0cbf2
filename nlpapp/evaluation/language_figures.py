"""Figures of a language model that can be compared over vocabularies: by character, byte and word.

A loss of n tokens is spread over the characters, bytes or words of the same text. For words this is
the perplexity that a model of whole words reports, though this one predicts pieces of them.
"""

import math
from pathlib import Path
from typing import Protocol

import numpy as np

from nlpapp.evaluation.plots import INK, PALETTE


class Counts(Protocol):
    """How long a text is, the end of each line included."""

    @property
    def characters(self) -> int:
        """Unicode characters."""

    @property
    def bytes(self) -> int:
        """Bytes of UTF-8."""

    @property
    def words(self) -> int:
        """What blanks separate."""


def text_figures(
    loss: float, token_ids: np.ndarray, counts: Counts, *, unknown_id: int | None = None
) -> dict[str, float]:
    """Return bits by character and byte and the word-level perplexity, and all counts.

    Args:
        loss: mean loss of a token, in nats.
        token_ids: (n,), the predicted tokens; all of the text's.
        counts: of the same text.
        unknown_id: of <unk>, whose share is ``unknown_rate``: a text with more of it is easier.
    """
    num_tokens = len(token_ids)
    nats = loss * num_tokens
    by_word = nats / counts.words
    unknown = {}
    if unknown_id is not None:
        unknown["unknown_rate"] = float((token_ids == unknown_id).mean())
    return unknown | {
        "predicted_tokens": float(num_tokens),
        "bits_per_character": nats / math.log(2) / counts.characters,
        "bits_per_byte": nats / math.log(2) / counts.bytes,
        "word_perplexity": math.exp(by_word) if by_word < 700 else math.inf,
        "words": float(counts.words),
        "characters": float(counts.characters),
        "bytes": float(counts.bytes),
    }


def plot_position_losses(with_memory: np.ndarray, without_memory: np.ndarray, output: Path) -> Path:
    """Draw the mean loss (T,) of the tokens at each position of the segment, for both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = {"with memory": with_memory, "without memory": without_memory}
    for (label, losses), colour in zip(drawn.items(), PALETTE, strict=False):
        axes.plot(np.arange(len(losses)), losses, color=colour, label=label, linewidth=1.8)
    axes.set_xlabel("position in the segment (tokens)", color=INK)
    axes.set_ylabel("mean loss (nats)", color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.4)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150, metadata={"Software": "nlpapp"})
    return output
