"""Whether a classifier that says 80 % is right in 80 % of such rows.

Legend: N rows, C classes, B bins.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpapp.evaluation.plots import INK, PALETTE, blank_figure, save_figure

BINS = 15
"""As in Guo et al. 2017."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence beside accuracy, in bins of equal width; an empty bin holds zeros."""

    counts: np.ndarray
    """(B,) rows in each bin."""
    confidence: np.ndarray
    """(B,) mean probability of the predicted class."""
    accuracy: np.ndarray
    """(B,) share of right predictions."""

    @property
    def expected_error(self) -> float:
        """ECE: the mean of |accuracy - confidence| over the bins, weighted by their rows."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((gaps * self.counts).sum() / max(self.counts.sum(), 1))


def calibrate(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Return accuracy by confidence (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599).

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) class indices.
        bins: bin b of B holds the confidences in (b/B, (b+1)/B].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    rows = np.maximum(counts, 1)
    return Calibration(
        counts,
        np.bincount(place, weights=confidence, minlength=bins) / rows,
        np.bincount(place, weights=right, minlength=bins) / rows,
    )


def plot_reliability(calibration: Calibration, output: Path) -> Path:
    """Draw the reliability diagram: accuracy by confidence above, rows by confidence below."""
    bins = len(calibration.counts)
    left = np.arange(bins) / bins
    figure = blank_figure(5.4, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = {"width": 1 / bins, "align": "edge", "edgecolor": "white"}
    upper.bar(left, calibration.accuracy, color=PALETTE[0], label="accuracy", **width)
    filled = calibration.counts > 0
    points = (calibration.confidence[filled], calibration.accuracy[filled])
    upper.plot(*points, "o", color=PALETTE[1], markersize=4, label="mean confidence of the bin")
    upper.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="calibrated")
    upper.set_ylabel("accuracy", color=INK)
    upper.legend(frameon=False, fontsize=9)
    upper.set_title(f"ECE {calibration.expected_error:.3f}", loc="left", fontsize=12, color=INK)
    lower.bar(left, calibration.counts, color=PALETTE[5], **width)
    lower.set_ylabel("rows", color=INK)
    lower.set_xlabel("probability of the predicted class", color=INK)
    lower.set_xlim(0, 1)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, output)
