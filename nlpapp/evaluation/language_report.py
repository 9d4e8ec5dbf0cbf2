"""The report of a language model's training: the run's page, and the texts it wrote on the way."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.report import run_sections, run_subtitle, run_title
from nlpapp.evaluation.run_record import read_run

FILE_NAME = "samples.jsonl"
USAGE = """nlpapp generate --model {folder} --prompt "The" --max_new_tokens 50
nlpapp evaluate-lm --model {folder} --text_file text.txt --output_dir runs/evaluate-lm"""


class SampleTexts:
    """The texts that a model wrote at its evaluations, in samples.jsonl of the run's folder."""

    def __init__(self, run_folder: Path) -> None:
        """Keep the texts in ``run_folder``; those of a run that goes on are kept."""
        self.path = run_folder / FILE_NAME

    def add(self, loss: float, text: str) -> None:
        """Append a text, with the validation loss of the weights that wrote it.

        A resumed run evaluates some weights again, with the same loss: their text is kept once.
        """
        if all(record["loss"] != loss for record in self.read()):
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"loss": loss, "text": text}, ensure_ascii=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the records, oldest first; a last line that a kill has cut is left out."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")]


def leave_language_report(
    run_folder: Path, *, metrics: Mapping[str, Any], details: Mapping[str, Any]
) -> None:
    """Write curves, the model's card, and ``report.html`` with figures, plots and sample texts.

    Args:
        run_folder: the output_dir of train-lm, with the model's folder in it.
        metrics: its final figures.
        details: what else the card tells.
    """
    plot_curves(run_folder / "metrics.jsonl", run_folder / "plots" / "curves.png")
    write_model_card(
        run_folder / "model",
        title="Transformer-XL language model",
        summary="Predicts the next token of a text, with a memory of past segments.",
        metrics=metrics,
        usage=USAGE.format(folder=run_folder / "model"),
        run_folder=run_folder,
        details=details,
    )
    run = read_run(run_folder, metrics=metrics)
    sections = run_sections(run, plots=run.path / "plots")
    ablation = _memory_rows(metrics)
    if ablation:
        what = "The same weights and text, scored with memories of several lengths."
        sections.insert(1, Section("What the memory is worth", what, table=ablation))
    samples = SampleTexts(run_folder).read()
    if samples:
        what = "What the model wrote at its evaluations, always with the same random numbers."
        sections.insert(2, Section("Texts", what, table=[dict(record) for record in samples]))
    write_report(
        run.path / "report.html",
        title=run_title(run),
        subtitle=run_subtitle(run),
        sections=sections,
    )


def _memory_rows(metrics: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return perplexities by length of memory, from names such as test_perplexity_mem_len_128."""
    rows: list[dict[str, object]] = []
    for name, value in metrics.items():
        split, found, memory = name.partition("_perplexity_")
        if found and (memory == "without_memory" or memory.startswith("mem_len_")):
            if not rows:
                rows.append(
                    {"memory": "as evaluated", "perplexity": metrics[f"{split}_perplexity"]}
                )
            rows.append({"memory": memory.replace("_", " "), "perplexity": value})
    return rows
