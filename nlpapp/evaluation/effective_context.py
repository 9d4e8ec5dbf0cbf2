"""How far back language models use their context: the relative effective context length.

Source: Dai et al. 2019 (arXiv 1901.02860), appendix C. It is relative because only what improves on
the best of a group of models counts: so one model's length depends on which others there are.

Legend: N = models, C = lengths of context, S = scored tokens.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.errors import ConfigError
from nlpapp.evaluation.context_windows import window_losses
from nlpapp.evaluation.plots import INK, PALETTE, blank_figure, save_figure

RATIOS = (0.1, 0.5, 1.0)
"""Shares of the hardest tokens, as in the paper."""


def measure_effective_context(
    models: Sequence[Any],
    names: Sequence[str],
    token_ids: np.ndarray,
    *,
    lengths: Sequence[int],
    num_targets: int,
    plot: Path,
) -> dict[str, float]:
    """Return effective_context_10_percent, ..._50_percent and ..._100_percent of the first model.

    Those of the others begin with compared_1_, compared_2_ and so on.

    Args:
        models: N, in evaluation mode, of one vocabulary.
        names: of the models, for the plot.
        token_ids: (n,) the text; may be memory-mapped.
        lengths: (C,) evenly growing lengths of context, in tokens.
        num_targets: the most tokens that are predicted, S.
        plot: a PNG file, which gets the losses by length of context.

    Raises:
        ConfigError: the text is too short.
    """
    losses = np.stack(
        [context_losses(m, token_ids, lengths=lengths, num_targets=num_targets) for m in models]
    )
    found: dict[str, float] = {}
    labels = []
    for index, name in enumerate(names):
        measured = [
            relative_effective_context_length(losses, lengths, index, ratio=ratio)
            for ratio in RATIOS
        ]
        start = f"compared_{index}_" if index else ""
        for ratio, length in zip(RATIOS, measured, strict=True):
            found[f"{start}effective_context_{round(100 * ratio)}_percent"] = float(length)
        labels.append(f"{name}: {', '.join(map(str, measured))}")
    plot_context_losses(losses, lengths, labels, plot)
    return found


def plot_context_losses(
    losses: np.ndarray, lengths: Sequence[int], labels: Sequence[str], output: Path
) -> Path:
    """Draw each model's mean loss by length of context.

    Args:
        losses: (N, C, S), in nats.
        lengths: (C,), in tokens.
        labels: names of the models and their effective lengths.
        output: a PNG file.
    """
    figure = blank_figure(7.2, 4.0 + 0.2 * len(labels))
    axes = figure.add_subplot()
    for means, label, colour in zip(losses.mean(-1), labels, cycle(PALETTE), strict=False):
        axes.plot(lengths, means, "-o", color=colour, label=label, markersize=4)
    axes.set_xlabel("context (tokens)", color=INK)
    axes.set_ylabel("mean loss (nats)", color=INK)
    shares = ", ".join(f"{ratio:.0%}" for ratio in RATIOS)
    title = f"relative effective context length at the hardest {shares} of tokens"
    figure.legend(loc="outside lower left", title=title, frameon=False, labelcolor=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.4)
    return save_figure(figure, output)


def context_losses(
    model: Any,
    token_ids: np.ndarray,
    *,
    lengths: Sequence[int],
    num_targets: int,
    batch_size: int = 8,
) -> np.ndarray:
    """Return the losses of tokens, evenly spread over the text, by length of context: (C, S).

    Args:
        model: in evaluation mode.
        token_ids: (n,) the text; may be memory-mapped.
        lengths: (C,) of context, in tokens.
        num_targets: the most tokens.
        batch_size: windows read side by side.

    Raises:
        ConfigError: the text is too short.
    """
    longest = max(lengths)
    if len(token_ids) <= longest + 1:
        raise ConfigError(
            f"the text has {len(token_ids)} tokens, too few for a context of {longest}."
        )
    places = np.linspace(longest, len(token_ids) - 1, min(num_targets, len(token_ids) - longest))
    targets = np.unique(places.astype(np.int64))
    rows = [
        window_losses(model, token_ids, targets, window=length, batch_size=batch_size)
        for length in lengths
    ]
    return np.stack(rows)


def relative_gain(
    losses: np.ndarray, model: int, short: int, long: int, *, ratio: float = 1.0
) -> float:
    """Return the relative fall of perplexity from a longer context, 0 to 1 (the paper's g_i).

    Only what improves on the best model of the group with the short context counts, and only at the
    share ``ratio`` of tokens that this best model finds hardest (appendix C of the paper).

    Args:
        losses: (N, C, S), in nats.
        model: index i of the model in its group.
        short: index of the short context.
        long: index of the long context.
        ratio: r of the paper, which uses 0.1, 0.5 and 1.
    """
    baseline = losses[:, short].min(axis=0)  # (S,)
    hardest = np.argsort(-baseline, kind="stable")[: max(1, round(ratio * len(baseline)))]

    def relative_loss(context: int) -> float:
        return float(np.minimum(baseline, losses[model, context])[hardest].mean())

    # 1 - exp of a difference: the perplexities themselves may be beyond what a float holds.
    return -float(np.expm1(relative_loss(long) - relative_loss(short)))


def relative_effective_context_length(
    losses: np.ndarray,
    lengths: Sequence[int],
    model: int,
    *,
    ratio: float = 1.0,
    threshold: float = 0.01,
) -> int:
    """Return the length from which one step more gains less than ``threshold`` (the paper's RECL).

    Args:
        losses: (N, C, S), in nats, of a group of models that predict the same tokens.
        lengths: (C,) evenly growing lengths of context, in tokens.
        model: index of the model in its group.
        ratio: see `relative_gain`.
        threshold: of the relative gain; 0.01 in the paper.
    """
    for short in range(len(lengths) - 1):
        if relative_gain(losses, model, short, short + 1, ratio=ratio) < threshold:
            return lengths[short]
    return lengths[-1]
