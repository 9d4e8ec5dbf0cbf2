"""The result of a whole chain: what it claims beside its baselines, as a table and as one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpapp.evaluation.metrics import confusion_matrix
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import plot_confusion, plot_trade_off

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure beside what it has to beat."""

    name: str
    measured: float
    baseline: str
    """What it is compared with, and the value of that."""
    holds: bool

    def row(self) -> dict[str, object]:
        """Return the claim as a row of a table."""
        mark = "yes" if self.holds else "NO"
        return {
            "figure": self.name,
            "measured": self.measured,
            "beside": self.baseline,
            "holds": mark,
        }


def claims(stages: Mapping[str, Metrics], yardsticks: Metrics) -> list[Claim]:
    """Return what the chain claims.

    Args:
        stages: the metrics of each stage, by the name of its folder.
        yardsticks: "majority" and "tfidf", accuracies on the test passages.
    """
    bert, teacher, scratch = stages["bert"], stages["teacher"], stages["teacher-from-scratch"]
    student, hard, timed = stages["student"], stages["student-hard-labels"], stages["benchmark"]
    language_model = stages["language-model"]
    before, after = bert["initial_masked_lm_loss"], bert["masked_lm_loss"]
    accuracy, majority = teacher["test_accuracy"], yardsticks["majority"]
    latency = {name: timed[f"{name}-bundle_fp32_p50_ms"] for name in ("teacher", "student")}
    with_memory = language_model["test_perplexity"]
    without_memory = language_model["test_perplexity_without_memory"]
    return [
        Claim(
            name="masked_lm_loss on held-out text",
            measured=after,
            # Before training the model knows the frequencies of words, and nothing else.
            baseline=f"{before:.3f} from frequencies alone; at most {0.9 * before:.3f}",
            holds=after <= 0.9 * before,
        ),
        Claim(
            name="next_sentence_accuracy on held-out text",
            measured=bert["next_sentence_accuracy"],
            baseline="0.500 by chance; at least 0.600",
            holds=bert["next_sentence_accuracy"] >= 0.6,
        ),
        Claim(
            name="test accuracy, fine-tuned from the pretrained BERT",
            measured=accuracy,
            baseline=f"{majority:.3f} majority class; at least {majority + 0.25:.3f}",
            holds=accuracy >= majority + 0.25,
        ),
        Claim(
            name="the same, beside random weights",
            measured=accuracy,
            baseline=f"{scratch['test_accuracy']:.3f} from random weights",
            holds=accuracy > scratch["test_accuracy"],
        ),
        Claim(
            name="the same, beside TF-IDF (a yardstick, not a bar)",
            measured=accuracy,
            baseline=f"{yardsticks['tfidf']:.3f} TF-IDF with logistic regression",
            holds=accuracy >= yardsticks["tfidf"],
        ),
        Claim(
            name="test accuracy of the distilled BiLSTM",
            measured=student["test_accuracy"],
            baseline=f"{accuracy:.3f} its teacher; at least {0.9 * accuracy:.3f}",
            holds=student["test_accuracy"] >= 0.9 * accuracy,
        ),
        Claim(
            name="the same, beside hard labels alone",
            measured=student["test_accuracy"],
            baseline=f"{hard['test_accuracy']:.3f} the same BiLSTM without a teacher",
            holds=student["test_accuracy"] >= hard["test_accuracy"],
        ),
        Claim(
            name="latency of the exported student, batch 1, median ms",
            measured=latency["student"],
            baseline=f"{latency['teacher']:.3f} the exported teacher; at least 3 times faster",
            holds=3 * latency["student"] <= latency["teacher"],
        ),
        Claim(
            name="Transformer-XL test perplexity",
            measured=with_memory,
            baseline=f"{without_memory:.2f} with mem_len 0",
            holds=with_memory < without_memory,
        ),
    ]


def format_claims(found: Sequence[Claim]) -> str:
    """Return the claims as lines of aligned columns."""
    rows = [("figure", "measured", "beside", "holds")]
    for claim in found:
        rows.append(
            (claim.name, f"{claim.measured:.3f}", claim.baseline, "yes" if claim.holds else "NO")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What the page of a chain shows."""

    folder: Path
    claims: Sequence[Claim]
    stages: Sequence[tuple[str, str, float]]
    """(folder, title, seconds) of each stage."""
    models: Sequence[Mapping[str, object]]
    """Rows of benchmark.json."""
    labels: Sequence[str]
    confusions: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Name of a model -> (predicted, true) classes of the test passages."""
    example: str
    """A text to try the exported model with."""


USAGE = """# Needs numpy, onnxruntime and tokenizers; no PyTorch.
from nlpapp.deployment.runtime import Predictor

predictor = Predictor("{bundle}")
print(predictor.predict(["{example}"]))"""


def write_chain_report(chain: Chain) -> Path:
    """Write report.html to the chain's folder: claims, curves, confusions, trade-off, usage."""
    plots = chain.folder / "plots"
    plots.mkdir(exist_ok=True)
    shown = [dict(row) | {"name": f"{row['model']} {row['kind']}"} for row in chain.models]
    trade_off = plot_trade_off(
        shown, x="p50_ms", y="accuracy", label="name", output=plots / "trade-off.png"
    )
    sections = [
        Section(
            "What was reached",
            "Every figure was measured by this run on this machine, beside what it has to beat.",
            table=[claim.row() for claim in chain.claims],
            exact_titles=True,
        ),
        Section(
            "Teacher and student",
            "Size, latency of one text, and accuracy on the test passages. Each model was timed in "
            "rotation with the others, on one thread.",
            table=[_model_row(row) for row in chain.models],
            image=trade_off,
        ),
        *_confusion_sections(chain, plots),
        Section(
            "How to use the exported student",
            "The bundle holds everything the model needs. Copy the folder anywhere.",
            code=USAGE.format(
                bundle=chain.folder / "student-bundle" / "bundle",
                example=chain.example.replace('"', "'"),
            ),
        ),
        *_curve_sections(chain),
        Section(
            "Stages",
            "Each stage is a run folder of its own, made by the command a user calls; its "
            "`report.html` says more.",
            table=[
                {"stage": title, "folder": folder, "seconds": seconds}
                for folder, title, seconds in chain.stages
            ],
        ),
    ]
    return write_report(
        chain.folder / "report.html",
        title="From text to a deployable model",
        subtitle="nlpapp quickstart",
        sections=sections,
    )


def _model_row(row: Mapping[str, object]) -> dict[str, object]:
    names = ("model", "kind", "parameters", "bytes", "p50_ms", "p95_ms", "accuracy")
    return {name: row.get(name) for name in names}


def _confusion_sections(chain: Chain, plots: Path) -> list[Section]:
    sections = []
    for name, (predicted, true) in chain.confusions.items():
        matrix = confusion_matrix(predicted, true, len(chain.labels))
        image = plot_confusion(matrix, chain.labels, plots / f"confusion-{name}.png")
        sections.append(Section(f"Where the {name} is right and wrong", image=image))
    return sections


def _curve_sections(chain: Chain) -> list[Section]:
    return [
        Section(f"Curves: {title}", image=image)
        for folder, title, _ in chain.stages
        if (image := chain.folder / folder / "plots" / "curves.png").is_file()
    ]
