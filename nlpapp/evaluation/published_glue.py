"""Published GLUE figures, to stand beside one's own; each with its source and its set.

All are shares, not percent. The GLUE server's test figures and those of a dev set differ, on small
tasks by several points.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MINIATURES = (
    "Turc et al. 2019 (arXiv 1908.08962), README of github.com/google-research/bert; "
    "best rate and batch size on dev, 4 epochs"
)
RUN_GLUE = (
    "bert-base-cased, README of run_glue.py in github.com/huggingface/transformers; "
    "one run, 3 epochs (MRPC and WNLI 5)"
)
DEVLIN = "Devlin et al. 2019 (arXiv 1810.04805), table 1; without WNLI, not all metrics"


@dataclass(frozen=True)
class Published:
    """The row of one model."""

    name: str
    measured_on: str
    """"dev" or "test"."""
    source: str
    figures: Mapping[tuple[str, str], float]
    """(task, metric) -> share; metrics of MNLI's second set are called mismatched_accuracy."""


COLUMNS = (
    ("cola", "matthews_correlation"),
    ("sst2", "accuracy"),
    ("mrpc", "f1"),
    ("mrpc", "accuracy"),
    ("stsb", "pearson"),
    ("stsb", "spearmanr"),
    ("qqp", "f1"),
    ("qqp", "accuracy"),
    ("mnli", "accuracy"),
    ("mnli", "mismatched_accuracy"),
    ("qnli", "accuracy"),
    ("rte", "accuracy"),
    ("wnli", "accuracy"),
)
"""The order in which the rows below give their percents."""


def _row(name: str, measured_on: str, source: str, percents: str) -> Published:
    values = percents.replace("/", " ").split()
    figures = {
        column: round(float(value) / 100, 4)
        for column, value in zip(COLUMNS, values, strict=True)
        if value != "-"
    }
    return Published(name, measured_on, source, figures)


PUBLISHED = (
    _row(
        *("BERT-tiny", "test", MINIATURES),
        "0.0 83.2 81.1/71.1 74.3/73.6 62.2/83.4 70.2 70.3 81.5 57.2 62.3",
    ),
    _row(
        *("BERT-mini", "test", MINIATURES),
        "0.0 85.9 81.1/71.8 75.4/73.3 66.4/86.2 74.8 74.3 84.1 57.9 62.3",
    ),
    _row(
        *("BERT-small", "test", MINIATURES),
        "27.8 89.7 83.4/76.2 78.8/77.0 68.1/87.0 77.6 77.0 86.4 61.8 62.3",
    ),
    _row(
        *("BERT-medium", "test", MINIATURES),
        "38.0 89.6 86.6/81.6 80.4/78.4 69.6/87.9 80.0 79.1 87.7 62.2 62.3",
    ),
    _row(
        *("BERT-base", "test", DEVLIN),
        "52.1 93.5 88.9/- -/85.8 71.2/- 84.6 83.4 90.5 66.4 -",
    ),
    _row(
        *("BERT-base", "dev", RUN_GLUE),
        "56.53 92.32 88.85/84.07 88.64/88.48 87.49/90.71 83.91 84.10 90.66 65.70 56.34",
    ),
)
