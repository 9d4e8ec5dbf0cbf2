"""What a trained classifier leaves for people: curves, model card and report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.report import write_run_report

USAGE = """from transformers import pipeline

classify = pipeline("text-classification", "{folder}")
print(classify({example}))"""


def write_classifier_report(
    run: Path,
    model: Path,
    *,
    base: str | None,
    data: str,
    rows: int,
    label_names: Sequence[str],
    pairs: bool,
    texts: Texts,
    metrics: Mapping[str, Any],
) -> None:
    """Write plots/curves.png, the model's README.md and report.html.

    Args:
        run: the run's folder.
        model: the model's folder.
        base: what was fine-tuned; None: random weights.
        data: name of the training data.
        rows: of the training set.
        label_names: classes in order; none: scores.
        pairs: whether an example is a pair of texts.
        texts: of the rows in the run's dev predictions.
        metrics: the final figures.
    """
    plot_curves(run / "metrics.jsonl", run / "plots" / "curves.png")
    example = '{"text": "...", "text_pair": "..."}' if pairs else '"..."'
    write_model_card(
        model,
        title=f"{base or 'A BERT from random weights'} fine-tuned on {data}",
        summary=f"Classes: {', '.join(label_names) or 'none, it gives a score'}.",
        metrics=metrics,
        usage=USAGE.format(folder=model, example=example),
        run_folder=run,
        details={"pipeline_tag": "text-classification", "dataset": data, "rows": rows},
    )
    write_run_report(run, metrics=dict(metrics), texts=texts)
