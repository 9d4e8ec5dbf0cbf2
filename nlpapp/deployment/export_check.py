"""Whether a bundle does as well as the PyTorch model on a data set.

Legend: N rows, C classes (1 for a score).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.deployment.bundle_files import MODEL_FILES
from nlpapp.deployment.export_formats import TOLERANCE
from nlpapp.deployment.runtime import Predictor
from nlpapp.errors import CheckpointError

EQUAL_METRIC = 1e-4
"""Largest difference of the metric in float32: a near tie may fall the other way."""


@dataclass(frozen=True, kw_only=True)
class DevSet:
    """A labelled data set."""

    texts: Sequence[str]
    """Empty ones are left out of the comparison: a bundle refuses them."""
    pairs: Sequence[str] | None = None
    score: Callable[[np.ndarray], dict[str, float]]
    """(N, C) logits -> metrics, with <name>_low and <name>_high where there are intervals."""
    metric: str
    """Of these, the one that must hold; higher is better."""
    max_metric_drop: float = 0.01
    """How much of it fp16 and int8 models may lose."""


def check_dev_set(
    folder: Path, dev: DevSet, formats: Sequence[str], *, expected_logits: np.ndarray
) -> dict[str, float]:
    """Return the metrics of PyTorch and of each ONNX model of the bundle in ``folder``.

    ``expected_logits`` (N, C) are those of the PyTorch model with the tokenizer of its training.

    Names: dev_<pytorch, fp32, int8 ...>_<metric>, dev_<...>_max_difference, dev_rows.

    Raises:
        CheckpointError: the float32 model answers otherwise than PyTorch, or a smaller one loses
            more of the metric than ``max_metric_drop``.
    """
    seconds = dev.texts if dev.pairs is None else dev.pairs
    kept = [
        row
        for row, (first, second) in enumerate(zip(dev.texts, seconds, strict=True))
        if first.strip() and second.strip()
    ]
    texts = [dev.texts[row] for row in kept]
    pairs = None if dev.pairs is None else [dev.pairs[row] for row in kept]
    expected = dev.score(expected_logits)
    found: dict[str, float] = {"dev_rows": float(len(dev.texts))}
    found |= {f"dev_pytorch_{name}": value for name, value in expected.items()}
    for name in ("fp32", *(name for name in formats if name in MODEL_FILES)):
        predictor: Any = Predictor(folder, precision=name)  # type: ignore[arg-type]
        logits = expected_logits.copy()
        logits[kept] = predictor.logits(texts, pairs)
        gap = float(np.abs(logits - expected_logits).max())
        values = dev.score(logits)
        found[f"dev_{name}_max_difference"] = gap
        found |= {f"dev_{name}_{key}": value for key, value in values.items()}
        drop = expected[dev.metric] - values[dev.metric]
        found[f"dev_{name}_drop"] = drop
        if name == "fp32" and not (gap <= TOLERANCE["fp32"] and abs(drop) <= EQUAL_METRIC):
            raise CheckpointError(
                f"on the data set the exported model's logits differ from PyTorch's by {gap:.2g} "
                f"(at most {TOLERANCE['fp32']:g}) and its {dev.metric} by {drop:.2g}: nothing was "
                "exported. Is the tokenizer the one that the model was trained with?"
            )
        if not drop <= dev.max_metric_drop:
            raise CheckpointError(
                f"the {name} model loses {drop:.4f} of {dev.metric} ({expected[dev.metric]:.4f} in "
                f"PyTorch), over max_metric_drop {dev.max_metric_drop:g}: nothing was exported. "
                f"Leave {name} out, or allow more with --max_metric_drop."
            )
    return found
