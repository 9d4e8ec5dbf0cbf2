"""The metrics of the package as `evaluate.Metric` modules, which load with no network."""

from typing import Any

import datasets
import evaluate
import numpy as np

from nlpapp.evaluation.metrics import FUNCTIONS, OF_SCORES


class LocalMetric(evaluate.Metric):
    """A metric of `nlpapp.evaluation.metrics` as an `evaluate` module.

    It keeps its rows in memory: nothing is written to a cache folder, so any number of processes
    and a home folder without write access are fine.
    """

    def __init__(self, name: str, *, multi_label: bool = False) -> None:
        """Make the module called ``name``, one of `FUNCTIONS`."""
        self.function = FUNCTIONS[name]
        self.multi_label = multi_label
        super().__init__(config_name=name, keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return ""  # the base class would make a folder under the home folder

    def _info(self) -> evaluate.MetricInfo:
        value: Any = datasets.Value("float64" if self.config_name in OF_SCORES else "int64")
        value = datasets.Sequence(value) if self.multi_label else value
        return evaluate.MetricInfo(
            description=str(self.function.__doc__),
            citation="",
            inputs_description="predictions and references: one value for each row, same order.",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        value = self.function(np.asarray(predictions), np.asarray(references), **options)
        return {str(self.config_name): value}


def load_metric(name: str, *, multi_label: bool = False) -> LocalMetric:
    """Return the `evaluate` module called ``name``; as `evaluate.load`, with no network.

    ``multi_label``: its rows are lists of 0 and 1, one for each class.
    """
    return LocalMetric(name, multi_label=multi_label)
