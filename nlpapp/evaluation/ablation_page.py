"""The pages of an ablation: what each variant reaches, how sure that is, and what it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlpapp.evaluation.ablation_table import VariantResult, teacher_figure
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.pareto import Trade, plot_pareto, write_pareto_page

TABLE_NOTE = (
    "Figures on the dev set over the seeds of each variant. low and high are the ends of the 95 % "
    "interval of the mean: rows are drawn with replacement, and training adds Student's t over "
    "the seeds. The difference is that of the means to the variant in the column against; its "
    "interval is paired by rows and seeds, and it is sure where that excludes 0. A single run "
    "says nothing of the chance of training."
)
COST_NOTE = (
    "Latency of one text and of 32, and texts a second in batches of 32, tokenizer included, all "
    "models in turn on the texts of the dev set; p50 is the median. Models of the same shape are "
    "timed once. fp32 and int8 are exported models that need no PyTorch. The figure beside them is "
    "the mean over the seeds: models in fp32 are checked to compute what PyTorch does, those in "
    "int8 are scored by themselves."
)
COSTS = {
    "p50_ms": "latency of one text",
    "batch_32_p50_ms": "latency of 32 texts",
    "bytes": "size on disk",
    "compressed_bytes": "size of the weights, compressed",
}
"""Column -> words; each stands beside the first metric in a plot."""
SIZES = ("nonzero_parameters", "compressed_bytes")
"""Sizes that students have beside the usual ones as PyTorch models; pruning makes them smaller."""


def write_ablation_page(
    folder: Path,
    results: Sequence[VariantResult],
    rows: Sequence[dict[str, object]],
    costs: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    threads: int,
) -> Path:
    """Write report.html, and where there are ``costs`` pareto.html; return the report's path.

    Args:
        folder: of the ablation.
        results: of all variants.
        rows: of `ablation_table.ablation_rows`.
        costs: rows with "model" (a variant or a teacher), "kind" and what it costs; the first
            metric too where the model has not that of its variant.
        metrics: names; the first stands beside the costs.
        threads: that each timed model had.
    """
    sections = []
    several = _have_several_teachers(costs)
    for metric in metrics:
        table = [_without(row, "metric") for row in rows if row["metric"] == metric]
        theirs = teacher_figure(results, metric)
        if theirs is not None:
            who = "teachers, averaged" if several else "teacher"
            table.insert(0, {"variant": who, "mean": theirs})
        note = TABLE_NOTE if metric == metrics[0] else ""
        sections.append(Section(f"Variants: {metric}", note, table=table))
    if costs:
        drawn = _with_figures(results, rows, costs, metrics[0])
        trades = [
            Trade(title=f"{metrics[0].capitalize()} and {words}", x=column, y=metrics[0])
            for column, words in COSTS.items()
            if any(row.get(column) is not None for row in drawn)
        ]
        picture = plot_pareto(drawn, trades[0], output=folder / "plots" / "trade-off.png")
        note = f"{COST_NOTE}\n\nThreads of each model: {threads}. `pareto.html` has more plots."
        shown = [_without(row, "name") for row in drawn]
        sections.append(Section("Costs", note, table=shown, image=picture))
        write_pareto_page(
            folder / "pareto.html",
            title="What the variants reach and cost",
            subtitle=f"Means over seeds; latencies with threads: {threads}",
            rows=drawn,
            trades=trades,
        )
    sections.append(Section(f"Seeds: {metrics[0]}", table=_seed_rows(results, metrics[0])))
    return write_report(folder / "report.html", title="Ablation", sections=sections)


def _with_figures(
    results: Sequence[VariantResult],
    rows: Sequence[Mapping[str, object]],
    costs: Sequence[Mapping[str, Any]],
    metric: str,
) -> list[dict[str, Any]]:
    """Return ``costs`` with the mean ``metric`` of each model and a name for it and its kind."""
    means = {row["variant"]: row["mean"] for row in rows if row["metric"] == metric}
    if not _have_several_teachers(costs):
        means["teacher"] = teacher_figure(results, metric)  # Of several it is that of their mean.
    sizes = {
        result.name: {name: result.figures[0][name] for name in SIZES if name in result.figures[0]}
        for result in results
    }
    return [
        {"name": f"{row['model']} {row['kind']}", "model": row["model"], "kind": row["kind"]}
        | {metric: means.get(row["model"])}
        | dict(row)
        | (sizes.get(str(row["model"]), {}) if row["kind"] == "pytorch" else {})
        for row in costs
    ]


def _have_several_teachers(costs: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["model"] == "teacher 2" for row in costs)


def _seed_rows(results: Sequence[VariantResult], metric: str) -> list[dict[str, object]]:
    """Return a row for each variant with a column for each seed."""
    return [
        {"variant": result.name}
        | {
            folder.name: figures[metric]
            for folder, figures in zip(result.folders, result.figures, strict=True)
        }
        for result in results
    ]


def _without(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}
