"""The parts of a page that say where a classifier is right, how sure it is, and where it fails."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nlpapp.evaluation.calibration import calibrate, plot_reliability
from nlpapp.evaluation.error_analysis import (
    Texts,
    by_length,
    difference,
    hardest,
    same_rows,
    shown,
)
from nlpapp.evaluation.metrics import confusion_matrix
from nlpapp.evaluation.page import Section
from nlpapp.evaluation.plots import format_number, plot_confusion
from nlpapp.evaluation.prediction_table import PredictionTable, averaged, pooled

MOST_CLASSES = 60
HARDEST = 10
CHANGED = 20
CONFUSION_NOTE = "Of the rows that belong in a class (left), how many were put where (below)."
CALIBRATION_NOTE = (
    "How often the model is right when it is so sure. The expected calibration error (ECE) is the "
    "mean distance from the diagonal, weighted by rows (Guo et al. 2017, 15 bins)."
)


def prediction_sections(
    tables: Sequence[PredictionTable], texts: Texts | None, plots: Path, *, name: str = ""
) -> list[Section]:
    """Return confusion matrix, calibration, accuracy by length and hardest examples.

    Args:
        tables: of one model, or of the seeds of one task, on the same rows.
        texts: of these rows; None: what needs them is left out.
        plots: folder for the pictures.
        name: of the task, before each title; empty: nothing.
    """
    together = pooled(tables)
    title = f"{name}: {{}}".format if name else str.capitalize
    prefix = f"{name}-" if name else ""
    rows = f" The {len(tables)} seeds together." if len(tables) > 1 else ""
    sections = []
    if together.probabilities is not None and len(together.names) <= MOST_CLASSES:
        matrix = confusion_matrix(together.predictions, together.labels, len(together.names))
        image = plot_confusion(matrix, together.names, plots / f"{prefix}confusion.png")
        sections.append(Section(title("confusion matrix"), CONFUSION_NOTE + rows, image=image))
    if together.probabilities is not None:
        found = calibrate(together.probabilities, together.labels)
        image = plot_reliability(found, plots / f"{prefix}calibration.png")
        sections.append(Section(title("calibration"), CALIBRATION_NOTE + rows, image=image))
    if texts is not None and len(texts) == len(tables[0]):
        sections += [
            _length_section(title, tables, texts),
            _hardest_section(title("hardest examples"), tables, texts),
        ]
    return sections


def _length_section(
    title: Callable[[str], str], tables: Sequence[PredictionTable], texts: Texts
) -> Section:
    lengths = np.array([sum(map(len, text)) for text in texts])
    together = pooled(tables)
    groups = by_length(together.wrong, np.tile(lengths, len(tables)))
    classes = bool(together.names)
    return Section(
        title("accuracy by length" if classes else "distance by length"),
        "Characters of the text, or of both texts of a pair.",
        table=[
            {
                "characters": f"{group.shortest:,} to {group.longest:,}",
                "rows": group.rows // len(tables),
                "accuracy" if classes else "mean distance": 1 - group.wrong
                if classes
                else group.wrong,
            }
            for group in groups
        ],
    )


def _hardest_section(title: str, tables: Sequence[PredictionTable], texts: Texts) -> Section:
    mean = averaged(tables)
    of_seeds = ", the mean over the seeds" if len(tables) > 1 else ""
    note = (
        f"The rows whose true class got the smallest probability{of_seeds}; some of their labels "
        "may be wrong."
        if mean.names
        else f"The rows whose predicted score is farthest from the label{of_seeds}."
    )
    return Section(
        title,
        note,
        table=[_row_of(mean, row, texts) for row in hardest(mean, HARDEST)],
        exact_titles=True,
    )


def _row_of(table: PredictionTable, row: int, texts: Texts) -> dict[str, object]:
    cells: dict[str, object] = {
        "row": int(row),
        "text": shown(texts[row]),
        "label": table.word(table.labels[row]),
        "predicted": table.word(table.predictions[row]),
    }
    if table.probabilities is not None:
        probabilities = zip(table.names, table.probabilities[row], strict=True)
        cells["probabilities"] = ", ".join(f"{name} {value:.3f}" for name, value in probabilities)
    return cells


def difference_section(
    tables: Mapping[str, PredictionTable | None], texts: Texts | None, *, title: str = ""
) -> Section | None:
    """Return the rows on which two runs differ; None if they did not answer the same rows.

    Args:
        tables: name -> predictions of the two runs.
        texts: of the rows; None: they are shown by their numbers alone.
        title: what the section's title begins with.
    """
    (first, one), (second, other) = tables.items()
    if one is None or other is None or not same_rows(one, other):
        return None
    title += "Rows on which the two differ"
    known = texts if texts is not None and len(texts) == len(one) else None
    found = difference(one, other)
    if found is None:
        return _moved_scores({first: one, second: other}, known, title)
    changed = [(row, first) for row in found.first_only] + [
        (row, second) for row in found.second_only
    ]
    changed.sort(key=lambda item: -abs(float(one.errors[item[0]] - other.errors[item[0]])))
    text = (
        f"Of {len(one):,} rows both are right on {found.both:,}, neither on {found.neither:,}, "
        f"only {first} on {len(found.first_only):,} and only {second} on "
        f"{len(found.second_only):,}: p = {format_number(found.p_value)} that models of equal "
        "accuracy part so unevenly (McNemar's exact test). Below are those on which the "
        "probability of the true class moved most."
    )
    table: list[dict[str, object]] = [
        {
            "row": int(row),
            **({"text": shown(known[row])} if known is not None else {}),
            "label": one.word(one.labels[row]),
            "right in": right,
            f"p of the label, {first}": 1 - float(one.errors[row]),
            f"p of the label, {second}": 1 - float(other.errors[row]),
        }
        for row, right in changed[:CHANGED]
    ]
    return Section(title, text, table=table or None, exact_titles=True)


def _moved_scores(
    tables: Mapping[str, PredictionTable], texts: Texts | None, title: str
) -> Section:
    """Return the rows whose predicted scores moved most between two runs."""
    (first, one), (second, other) = tables.items()
    moved = np.abs(one.predictions - other.predictions)
    nearer = one.errors < other.errors
    text = (
        f"The scores of {len(one):,} rows moved by {format_number(float(moved.mean()))} on "
        f"average; {first} is nearer to {int(nearer.sum()):,} labels, {second} to "
        f"{int((one.errors > other.errors).sum()):,}. Below are those that moved most."
    )
    table: list[dict[str, object]] = [
        {
            "row": int(row),
            **({"text": shown(texts[row])} if texts is not None else {}),
            "label": float(one.labels[row]),
            first: float(one.predictions[row]),
            second: float(other.predictions[row]),
        }
        for row in np.argsort(-moved, kind="stable")[:CHANGED]
    ]
    return Section(title, text, table=table, exact_titles=True)
