"""The report of a BERT's pretraining: curves, the model's card, and the run's page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.report import write_run_report

USAGE = """from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


def leave_pretraining_report(
    run_folder: Path, *, metrics: Mapping[str, Any], details: Mapping[str, Any]
) -> None:
    """Write curves, the model's card, and ``report.html``.

    Args:
        run_folder: the output_dir of pretrain, with the model's folder in it.
        metrics: its final figures.
        details: what else the card tells.
    """
    plot_curves(run_folder / "metrics.jsonl", run_folder / "plots" / "curves.png")
    write_model_card(
        run_folder / "model",
        title="BERT pretrained with nlpapp",
        summary="A BERT trained on masked tokens and, where the data has pairs, on next sentences.",
        metrics=metrics,
        usage=USAGE.format(folder=run_folder / "model"),
        run_folder=run_folder,
        details=details,
    )
    write_run_report(run_folder, metrics=metrics)
