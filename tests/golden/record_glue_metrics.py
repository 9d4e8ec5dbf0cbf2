"""Write glue_compute_metrics.json: what transformers 4.33 computes on random predictions.

Run it where that version, scikit-learn and scipy are installed:

    python tests/golden/record_glue_metrics.py
"""

import json
from pathlib import Path

import numpy as np
from transformers.data.metrics import glue_compute_metrics

ROWS = 60
CLASSES = {"cola": 2, "sst-2": 2, "mrpc": 2, "qqp": 2, "mnli": 3, "rte": 2, "sts-b": 0}


def main() -> None:
    """Draw labels and predictions for each task, score them, and write the file beside this one."""
    rng = np.random.default_rng(2026)
    cases = []
    for task, classes in CLASSES.items():
        if classes:
            labels = rng.integers(0, classes, ROWS)
            predictions = np.where(rng.random(ROWS) < 0.6, labels, rng.integers(0, classes, ROWS))
            if task == "cola":  # Nearly one class only, as bad runs have it.
                predictions[:] = np.where(rng.random(ROWS) < 0.9, 1, predictions)
        else:
            labels = np.round(rng.random(ROWS) * 5, 1)
            predictions = np.round(labels + rng.normal(size=ROWS), 3)
        figures = glue_compute_metrics(task, predictions, labels)
        cases.append(
            {
                "task": task,
                "predictions": predictions.tolist(),
                "references": labels.tolist(),
                "figures": {name: float(value) for name, value in figures.items()},
            }
        )
    source = "glue_compute_metrics of transformers 4.33.0 (transformers/data/metrics/__init__.py)"
    path = Path(__file__).with_name("glue_compute_metrics.json")
    path.write_text(json.dumps({"source": source, "cases": cases}), encoding="utf-8")


if __name__ == "__main__":
    main()
