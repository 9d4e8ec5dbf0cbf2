"""What pretraining data is like, on one page, before hours of training go into it.

All figures come from the manifest of the data folder; the shards are not read.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nlpapp.evaluation.data_findings import (
    LABELS,
    MASKING_SHARES,
    SECOND_LABELS,
    dropped_documents,
    expected_mask_rate,
    findings,
    standard_error,
)
from nlpapp.evaluation.instance_view import InstanceView, format_instance
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import DOTS_PER_INCH, GRID, INK, PALETTE, format_number

__all__ = ["LABELS", "InstanceView", "findings", "format_instance", "write_data_report"]

MOST_SOURCES = 20
"""Sources that the page names one by one."""
MOST_EXAMPLES = 5
MOST_BARS = 128
MOST_TIMES_MEDIAN = 20
"""A bar that is longer than this many median bars makes the scale logarithmic."""
MANY_STEPS = 100_000
Row = dict[str, object]


def write_data_report(
    folder: Path,
    manifest: Mapping[str, Any],
    examples: Sequence[InstanceView],
    *,
    padding: Mapping[str, float],
    example_batch_sizes: Sequence[int] = (32, 256, 4096),
) -> Path:
    """Write ``report.html`` and ``plots/lengths.png`` to a data folder; return the page's path.

    Args:
        folder: the data folder.
        manifest: the content of its manifest.json; a count that is missing is 0.
        examples: instances to show; the first five are taken.
        padding: way of batching -> share of padding among the tokens of its batches, 0 to 1.
        example_batch_sizes: instances in one optimizer step, for the size of an epoch.
    """
    folder, counts = Path(folder), Counter(manifest.get("counts", {}))
    sections = [
        *_finding_sections(manifest),
        _overview(manifest, counts),
        _input_section(counts),
        _source_section(manifest, counts),
        _loss_section(manifest, counts),
        *_length_sections(folder, manifest, counts, padding),
        *_draw_sections(manifest, counts),
        *_example_sections(examples),
        _epoch_section(manifest, counts, example_batch_sizes),
        _option_section(manifest),
    ]
    return write_report(
        folder / "report.html",
        title=f"Pretraining data: {folder.absolute().name}",
        subtitle=f"{counts['instances']:,} instances, tokenizer "
        f"{str(manifest.get('tokenizer_fingerprint', 'unknown'))[:16]}",
        sections=sections,
    )


def _finding_sections(manifest: Mapping[str, Any]) -> list[Section]:
    found = findings(manifest)
    if not found:
        return []
    return [
        Section(
            "Warnings",
            "Look at these before training.",
            table=[
                {"what is off": finding.what, "what to do": finding.advice} for finding in found
            ],
            exact_titles=True,
        )
    ]


def _overview(manifest: Mapping[str, Any], counts: Counter[str]) -> Section:
    longest = manifest.get("options", {}).get("max_seq_length", 0)
    return Section(
        "At a glance",
        "" if findings(manifest) else "Nothing is off: every check of this page has passed.",
        figures={
            "documents used": counts["documents"],
            "instances": counts["instances"],
            "tokens in the instances": counts["instance_tokens"],
            f"mean length, of at most {longest}": _ratio(counts, "instance_tokens", "instances"),
            "[UNK] among the tokens": f"{_ratio(counts, 'unknown_tokens', 'tokens') or 0:.3%}",
        },
        exact_titles=True,
    )


def _input_section(counts: Counter[str]) -> Section:
    rows: list[Row] = [
        {"": "documents", "read": counts["documents_read"], "used": counts["documents"]},
        {"": "sentences", "read": counts["sentences_read"], "used": counts["sentences"]},
        {"": "text (MB)", "read": counts["text_bytes_read"] / 1e6},
        {"": "tokens", "used": counts["tokens"]},
        {"": "words", "used": counts["words"]},
        {"": "tokens per word", "used": _ratio(counts, "tokens", "words")},
        {"": "[UNK] tokens", "used": counts["unknown_tokens"]},
    ]
    return Section("What went in", document_sum(counts), table=rows, exact_titles=True)


def document_sum(counts: Mapping[str, int]) -> str:
    """Return the line that proves that no document was lost, or says that some were."""
    read, used = counts.get("documents_read", 0), counts.get("documents", 0)
    reasons = dropped_documents(counts)
    dropped = sum(reasons.values())
    parts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    line = f"Documents in = used + dropped: {read:,} = {used:,} + {dropped:,} ({parts}). "
    if read == used + dropped:
        return line + "It adds up: none is lost."
    return line + f"It does not add up: the right side is {used + dropped:,}."


def _source_section(manifest: Mapping[str, Any], counts: Counter[str]) -> Section:
    sources = manifest.get("sources", [])
    rows: list[Row] = [
        {
            "file": source.get("file"),
            "format": source.get("format"),
            "compression": source.get("compression"),
            "MB": source.get("bytes", 0) / 1e6,
            "documents": source.get("documents"),
        }
        for source in sources[:MOST_SOURCES]
    ]
    rest = sources[MOST_SOURCES:]
    if rest:
        rows.append(
            {
                "file": f"and {len(rest):,} more",
                "MB": sum(source.get("bytes", 0) for source in rest) / 1e6,
                "documents": sum(source.get("documents") or 0 for source in rest),
            }
        )
    size = sum(source.get("bytes", 0) for source in sources) / 1e6
    named = "1 source" if len(sources) == 1 else f"{len(sources):,} sources"
    return Section(
        "Sources", f"{named}, {format_number(size)} MB on disk.", table=rows, exact_titles=True
    )


def _loss_section(manifest: Mapping[str, Any], counts: Counter[str]) -> Section:
    documents, sentences = counts["documents_read"], counts["sentences_read"]
    rows = [
        _part(f"documents dropped: {reason}", number, documents, "documents read")
        for reason, number in dropped_documents(counts).items()
    ]
    duplicates, without = counts["duplicate_documents"], counts["dropped_sentences_without_tokens"]
    reasons = ("short", "duplicate", "without_pair")
    of_dropped = sum(counts[f"dropped_sentences_{reason}"] for reason in reasons)
    cut_up, truncated = counts["sentences_cut_up"], counts["truncated_tokens"]
    rows += [
        _part("duplicates found, kept or not", duplicates, documents, "documents read"),
        _part("sentences dropped: without a token", without, sentences, "sentences read"),
        _part("sentences of dropped documents", of_dropped, sentences, "sentences read"),
        _part("sentences cut up, being too long", cut_up, sentences, "sentences read"),
        _part("tokens cut off at max_seq_length", truncated, counts["instance_tokens"], "kept"),
    ]
    return Section(
        "What was dropped or cut",
        "A sentence that is cut up loses nothing. Tokens are cut off in each of the "
        f"{manifest.get('options', {}).get('dupe_factor', 1)} passes over the text.",
        table=rows,
        exact_titles=True,
    )


def _part(name: str, number: int, whole: int, of: str) -> Row:
    share = 100 * number / whole if whole else 0
    return {"": name, "number": number, "share (%)": share, "of the": of}


def _length_sections(
    folder: Path, manifest: Mapping[str, Any], counts: Counter[str], padding: Mapping[str, float]
) -> list[Section]:
    lengths = np.asarray(manifest.get("lengths", ()), dtype=np.int64)
    longest = int(manifest.get("options", {}).get("max_seq_length", 0))
    batching: list[Row] = [
        {"batches": name, "padding (%)": 100 * share} for name, share in padding.items()
    ]
    if not lengths.sum():
        return [Section("Padding", table=batching, exact_titles=True)] if batching else []
    low, middle, high = np.searchsorted(
        np.cumsum(lengths), np.ceil(lengths.sum() * np.array([0.05, 0.5, 0.95]))
    )
    full = int(lengths[longest:].sum()) / int(lengths.sum())
    return [
        Section(
            "Lengths",
            f"Half of the instances have at most {middle} tokens, nine of ten {low} to {high}; "
            f"{full:.1%} are full. The shards hold no padding "
            f"({format_number(counts['bytes'] / 1e6)} MB in {len(manifest.get('shards', ()))} "
            f"shards, {format_number(_ratio(counts, 'bytes', 'instance_tokens'))} bytes a token); "
            "batches do, and it costs time: the table has its share.",
            table=batching,
            image=plot_lengths(lengths, longest, folder / "plots" / "lengths.png"),
            exact_titles=True,
        )
    ]


def plot_lengths(lengths: np.ndarray, longest: int, output: Path) -> Path:
    """Draw how many instances have how many tokens; return ``output``.

    Args:
        lengths: instances of 0, 1, 2 ... tokens, (longest length + 1,).
        longest: max_seq_length, the end of the axis.
        output: the PNG file.
    """
    end = max(longest + 1, len(lengths))
    width = math.ceil(end / MOST_BARS)
    starts = np.arange(0, end, width)
    padded = np.zeros(len(starts) * width, dtype=np.int64)
    padded[: len(lengths)] = lengths
    shares = padded.reshape(-1, width).sum(axis=1) / lengths.sum()
    figure = Figure(figsize=(8.4, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(starts, shares, width=width * 0.9, align="edge", color=PALETTE[0])
    mean = float((np.arange(len(lengths)) * lengths).sum() / lengths.sum())
    axes.axvline(mean, color=PALETTE[1], linestyle="--", linewidth=1.6, label=f"mean {mean:.1f}")
    axes.set_xlim(0, len(starts) * width)
    # Most instances are full: beside their bar all others would be a flat line.
    logarithmic = shares.max() > MOST_TIMES_MEDIAN * np.median(shares[shares > 0])
    if logarithmic:
        axes.set_yscale("log")
    label = f"tokens in an instance, at most {longest}"
    axes.set_xlabel(label + (f"; a bar is {width} lengths" if width > 1 else ""), color=INK)
    axes.set_ylabel("share of the instances" + (", log scale" if logarithmic else ""), color=INK)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left")
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9.5)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=DOTS_PER_INCH, metadata={"Software": "nlpapp"})
    return output


def _draw_sections(manifest: Mapping[str, Any], counts: Counter[str]) -> list[Section]:
    options = manifest.get("options", {})
    text = (
        "What was drawn at random, beside what was asked for. `by chance` is two standard errors: "
        "so far off, and seldom further, chance alone brings a share."
    )
    rows: list[Row] = []
    if options.get("masking") == "static":
        expected = expected_mask_rate(manifest)
        achieved = counts["masked_tokens"] / max(counts["instance_tokens"], 1)
        rows.append({"": "tokens to predict", **_percent_row(achieved, expected)})
        rows += [
            {"": f"of these, {words}", **_share_row(counts, name, "masked_tokens", share)}
            for name, (words, share) in MASKING_SHARES.items()
        ]
        asked = options.get("masked_lm_prob", 0)
        text += (
            f"\n\nTokens to predict: `masked_lm_prob` {asked:g}, rounded in each "
            "instance, at least one of it, and at most "
            f"{format_number(options.get('max_predictions_per_seq'))}. Where whole words are "
            "masked, it may be a little less: the last word has to fit."
        )
    else:
        text += "\n\nThe masks are drawn during training, anew in each epoch."
    objective = str(options.get("objective"))
    if objective in LABELS:
        name = f"instances with the label \N{LEFT DOUBLE QUOTATION MARK}{LABELS[objective][1]}"
        row = _share_row(counts, SECOND_LABELS[objective], "instances", 0.5)
        rows.append({"": f"{name}\N{RIGHT DOUBLE QUOTATION MARK}", **row})
    return [Section("Masks and labels", text, table=rows, exact_titles=True)]


def _share_row(counts: Counter[str], part: str, whole: str, expected: float) -> Row:
    chance = 200 * standard_error(expected, counts[whole])
    return _percent_row(counts[part] / max(counts[whole], 1), expected) | {"by chance (%)": chance}


def _percent_row(achieved: float, expected: float) -> Row:
    # Rounded, so that 9.99999 does not become 10.000 beside a 10.
    return {"measured (%)": round(100 * achieved, 3), "expected (%)": round(100 * expected, 3)}


def _example_sections(examples: Sequence[InstanceView]) -> list[Section]:
    shown = examples[:MOST_EXAMPLES]
    if not shown:
        return []
    return [
        Section(
            "Examples",
            "`[MASK: walked]` hides a token, `{car -> walked}` shows a random one in its place, "
            "`{kept: walked}` leaves it in sight. The model predicts them all.",
            code="\n\n".join(format_instance(view) for view in shown),
        )
    ]


def _epoch_section(
    manifest: Mapping[str, Any], counts: Counter[str], batch_sizes: Sequence[int]
) -> Section:
    passes = manifest.get("options", {}).get("dupe_factor", 1)
    mean = _ratio(counts, "instance_tokens", "instances") or 0
    rows: list[Row] = []
    for size in batch_sizes:
        steps = math.ceil(counts["instances"] / size)
        rows.append(
            {
                "instances a step": size,
                "steps per epoch": steps,
                "tokens a step": round(min(size, counts["instances"]) * mean),
                "tokens per epoch": counts["instance_tokens"],
                f"epochs in {MANY_STEPS:,} steps": MANY_STEPS / steps if steps else None,
            }
        )
    return Section(
        "How long an epoch is",
        f"An epoch shows every document {passes} times (`dupe_factor`), each time in other "
        "instances. Tokens are counted without padding. Divide the tokens of an epoch by "
        "`tokens_per_second` of a short run's metrics.json to have its seconds.",
        table=rows,
        exact_titles=True,
    )


def _option_section(manifest: Mapping[str, Any]) -> Section:
    options = manifest.get("options", {})
    return Section("Options", code="\n".join(f"{name}: {options[name]}" for name in options))


def _ratio(counts: Counter[str], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts[whole] else None


def summary(manifest: Mapping[str, Any]) -> str:
    """Return what came in and what came out, in a few lines."""
    counts, figures, options = manifest["counts"], manifest["statistics"], manifest["options"]
    lines = [
        document_sum(counts),
        f"in:  {counts['sentences']:,} sentences, {counts['tokens']:,} tokens "
        f"({figures['tokens_per_word']:.2f} a word, {figures['unknown_rate']:.3%} [UNK])",
        f"out: {counts['instances']:,} instances in {len(manifest['shards'])} shards, "
        f"{figures['mean_length']:.1f} tokens on average, "
        f"{figures['bytes_per_token']:.2f} bytes on disk a token",
    ]
    if options["masking"] == "static":
        lines.append(f"masked: {figures['mask_rate']:.2%} of the tokens")
    if options["objective"] == "nsp":
        lines.append(f"next sentence: {figures['next_sentence_random_share']:.2%} random")
    if options["objective"] == "sop":
        lines.append(f"sentence order: {figures['sentence_order_swapped_share']:.2%} swapped")
    lines.append(f"{figures['truncated_rate']:.2%} of the tokens cut off")
    return "\n".join(lines + [f"note: {found.what} {found.advice}" for found in findings(manifest)])
