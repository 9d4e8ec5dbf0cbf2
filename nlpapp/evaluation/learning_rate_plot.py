"""The plot of a search for the learning rate: loss against rate."""

from pathlib import Path
from typing import Protocol

import numpy as np

from nlpapp.evaluation.plots import INK, PALETTE, blank_figure, save_figure


class Search(Protocol):
    """A search over N steps, as `find_learning_rate` returns it."""

    @property
    def rates(self) -> np.ndarray:
        """(N,) learning rates."""
        ...

    @property
    def losses(self) -> np.ndarray:
        """(N,) losses at these rates."""
        ...

    @property
    def smoothed(self) -> np.ndarray:
        """(N,) moving mean of the losses."""
        ...

    @property
    def suggestion(self) -> float:
        """The rate to train with."""
        ...


def plot_learning_rates(search: Search, output: Path) -> Path:
    """Draw the losses against the rates, faint, their moving mean, and the suggestion as a line.

    Returns ``output``.
    """
    figure = blank_figure(7.2, 4.2)
    axes = figure.add_subplot()
    axes.plot(
        search.rates,
        search.losses,
        color=PALETTE[0],
        alpha=0.35,
        linewidth=1,
        label="loss of a batch",
    )
    axes.plot(search.rates, search.smoothed, color=PALETTE[0], linewidth=2, label="moving mean")
    label = f"suggested: {search.suggestion:.2g}"
    axes.axvline(search.suggestion, color=PALETTE[1], linestyle="--", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate, log scale", color=INK)
    axes.set_ylabel("training loss", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return save_figure(figure, output)
