"""What is off in pretraining data, from its manifest alone, and what to do about it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpapp.evaluation.plots import describe

LABELS = {"nsp": ("B follows A", "B is random"), "sop": ("in order", "swapped")}
"""The words for labels 0 and 1, by objective."""
SECOND_LABELS = {"nsp": "random_next", "sop": "swapped_order"}
"""The count of instances of label 1, by objective."""
MASKING_SHARES = {
    "masked_as_mask": ("became [MASK]", 0.8),
    "masked_as_random": ("became a random token", 0.1),
    "masked_kept": ("stayed as they are", 0.1),
}
"""Count -> what became of tokens to predict, and the share (Devlin et al. 2019, section 3.1)."""
REASONS = {
    "dropped_documents_short": "too short for the options",
    "dropped_documents_duplicate": "equal to an earlier one",
    "dropped_documents_without_tokens": "without a token",
}
MOST_UNKNOWN = 0.01
LEAST_HALF, MOST_HALF = 0.49, 0.51
LEAST_FILLED = 0.6
MOST_DUPLICATES = 0.05
MOST_TRUNCATED = 0.2
MOST_DROPPED = 0.2
MOST_CUT_UP = 0.05
MOST_TOKENS_PER_WORD = 2.5
LEAST_DOCUMENTS = 10
"""With fewer, the random sentences of next-sentence prediction come from hardly anywhere else."""


@dataclass(frozen=True)
class Finding:
    """Something that is off in the data, and what to do about it."""

    what: str
    advice: str


def findings(manifest: Mapping[str, Any]) -> list[Finding]:
    """Return what is off in pretraining data, worst first; empty if all is as it should be.

    Args:
        manifest: the content of manifest.json.
    """
    counts = Counter(manifest.get("counts", {}))
    if not counts["instances"]:
        return [
            Finding(
                "The data holds no instance.",
                "Look at what was dropped and why, and at the input format.",
            )
        ]
    options = manifest.get("options", {})
    return [
        *_count_findings(counts),
        *_document_findings(counts, options),
        *_tokenizer_findings(counts),
        *_label_findings(counts, options),
        *_length_findings(counts, options),
        *_mask_findings(manifest, counts, options),
    ]


def _count_findings(counts: Counter[str]) -> Iterator[Finding]:
    dropped = sum(dropped_documents(counts).values())
    if counts["documents_read"] != counts["documents"] + dropped:
        yield Finding(
            f"The documents do not add up: {counts['documents_read']:,} read, "
            f"{counts['documents']:,} used and {dropped:,} dropped.",
            "Do not train on it: remove the folder and make the data again. If it happens again, "
            "it is a fault of the program.",
        )


def _document_findings(counts: Counter[str], options: Mapping[str, Any]) -> Iterator[Finding]:
    pairs = options.get("objective") in LABELS
    documents = counts["documents"]
    if documents == 1:
        yield Finding(
            "The corpus is one document.",
            "Put a blank line between documents, or give more files: texts that have nothing to do "
            "with each other now share instances.",
        )
    elif options.get("objective") == "nsp" and documents < LEAST_DOCUMENTS:
        yield Finding(
            f"There are only {documents} documents.",
            f"The random sentences of one come from the {documents - 1} others, and their topic "
            "gives them away. Divide the text into smaller documents, or take objective sop or "
            "none.",
        )
    if pairs and documents > 1 and counts["sentences"] < 2 * documents:
        yield Finding(
            f"A document has {counts['sentences'] / documents:.2f} sentences on average.",
            "Most have no two segments to pair. If every line is a sentence, put blank lines "
            "between documents only; if every line is a document of prose, take another "
            "input_format; else objective none.",
        )
    dropped = sum(dropped_documents(counts).values())
    if dropped > MOST_DROPPED * counts["documents_read"]:
        yield Finding(
            f"{_percent(dropped, counts['documents_read'])} of the documents were dropped.",
            "See below what for, and whether the options ask for too much.",
        )
    if counts["duplicate_documents"] > MOST_DUPLICATES * counts["documents_read"]:
        share = _percent(counts["duplicate_documents"], counts["documents_read"])
        kept = counts["duplicate_documents"] > counts["dropped_documents_duplicate"]
        yield Finding(
            f"{share} of the documents are equal to an earlier one.",
            "They are in the data all the same, and the model learns them by heart: have them "
            "dropped, and see that no file is given twice."
            if kept
            else "They were dropped. See that no file is given twice.",
        )


def _tokenizer_findings(counts: Counter[str]) -> Iterator[Finding]:
    if counts["unknown_tokens"] > MOST_UNKNOWN * counts["tokens"]:
        yield Finding(
            f"{_percent(counts['unknown_tokens'], counts['tokens'])} of the tokens are [UNK]; the "
            f"most that is usual is {MOST_UNKNOWN:.0%}.",
            "The tokenizer does not know the characters of this text: take one of its language, or "
            "train one on it with nlpapp train-tokenizer.",
        )
    if counts["words"] and counts["tokens"] > MOST_TOKENS_PER_WORD * counts["words"]:
        yield Finding(
            f"A word takes {counts['tokens'] / counts['words']:.2f} tokens on average.",
            "The vocabulary does not fit the text: it was made for another language or domain, or "
            "is too small.",
        )
    if counts["sentences_cut_up"] > MOST_CUT_UP * counts["sentences"]:
        yield Finding(
            f"{_percent(counts['sentences_cut_up'], counts['sentences'])} of the sentences are too "
            "long and were cut up.",
            "Lines may hold whole paragraphs: with input_format text, sentences are found in them.",
        )


def _label_findings(counts: Counter[str], options: Mapping[str, Any]) -> Iterator[Finding]:
    objective = str(options.get("objective"))
    if objective not in LABELS:
        return
    share = counts[SECOND_LABELS[objective]] / counts["instances"]
    if not LEAST_HALF <= share <= MOST_HALF:
        by_chance = abs(share - 0.5) <= 2 * standard_error(0.5, counts["instances"])
        yield Finding(
            f'{share:.2%} of the instances have the label "{LABELS[objective][1]}"; half of them '
            "should.",
            f"With {counts['instances']:,} instances chance alone explains this."
            if by_chance
            else "Documents of one segment leave no choice: the more of them, the further off. A "
            "model gains by guessing the common label; join short documents, or take objective "
            "none.",
        )


def _length_findings(counts: Counter[str], options: Mapping[str, Any]) -> Iterator[Finding]:
    longest = options.get("max_seq_length", 0)
    mean = counts["instance_tokens"] / counts["instances"]
    if mean < LEAST_FILLED * longest:
        yield Finding(
            f"An instance has {mean:.1f} tokens on average, {mean / longest:.0%} of max_seq_length "
            f"{longest}.",
            "Documents are short. Train with tokens_per_batch, which groups by length and pads "
            "little, or make data with a smaller max_seq_length.",
        )
    if counts["truncated_tokens"] > MOST_TRUNCATED * counts["instance_tokens"]:
        share = _percent(counts["truncated_tokens"], counts["instance_tokens"])
        yield Finding(
            f"Tokens cut off to fit max_seq_length are {share} of those kept.",
            "Sentences are long beside max_seq_length: raise it, or see that a line is a sentence.",
        )


def _mask_findings(
    manifest: Mapping[str, Any], counts: Counter[str], options: Mapping[str, Any]
) -> Iterator[Finding]:
    wanted = options.get("masked_lm_prob", 0.0)
    if options.get("masking") != "static" or not wanted:
        return
    achieved = counts["masked_tokens"] / max(counts["instance_tokens"], 1)
    expected = expected_mask_rate(manifest)
    if achieved < 0.9 * wanted:
        # A tenth below what the lengths and the cap allow: then it is not the cap.
        capped = expected < 0.9 * wanted
        yield Finding(
            f"Only {achieved:.2%} of the tokens are to be predicted, not {wanted:.2%}.",
            f"max_predictions_per_seq {options.get('max_predictions_per_seq')} is too small for "
            "these lengths: raise it, or leave it out."
            if capped
            else "Instances hold too few tokens or words that may be masked; look at the examples.",
        )
    elif expected and achieved > 1.1 * wanted:
        yield Finding(
            f"{achieved:.2%} of the tokens are to be predicted, not {wanted:.2%}.",
            "An instance has at least one token to predict, and very short ones have too many by "
            "it. Join short documents.",
        )
    for name, (words, share) in MASKING_SHARES.items():
        achieved = counts[name] / max(counts["masked_tokens"], 1)
        chance = 5 * standard_error(share, counts["masked_tokens"])
        if counts["masked_tokens"] and abs(achieved - share) > chance:
            yield Finding(
                f"{achieved:.2%} of the tokens to predict {words}, not {share:.0%}.",
                "Chance does not explain this: it is a fault of the program.",
            )
    if options.get("dupe_factor", 0) == 1:
        yield Finding(
            "The masks are static and every document is used once.",
            "Each epoch shows the same masks. Take masking dynamic, or a larger dupe_factor.",
        )


def dropped_documents(counts: Mapping[str, int]) -> dict[str, int]:
    """Return reason -> documents; the known reasons always, others where there are some."""
    names = sorted(name for name in counts if name.startswith("dropped_documents_"))
    return {
        REASONS.get(name, describe(name.removeprefix("dropped_documents_"))): counts.get(name, 0)
        for name in dict.fromkeys([*REASONS, *names])
    }


def expected_mask_rate(manifest: Mapping[str, Any]) -> float:
    """Return the share of tokens to predict that lengths, rate and cap ask for; 0 if unknown."""
    options = manifest.get("options", {})
    numbers = np.asarray(manifest.get("lengths", ()), dtype=np.int64)
    lengths = np.arange(len(numbers))
    wanted = np.maximum(1, np.round(lengths * options.get("masked_lm_prob", 0.0)))
    capped = np.minimum(wanted, options.get("max_predictions_per_seq") or np.inf)
    return float((capped * numbers).sum() / max((lengths * numbers).sum(), 1))


def standard_error(share: float, number: int) -> float:
    """Return how far off ``share`` chance alone brings a count of ``number``, one sigma."""
    return math.sqrt(share * (1 - share) / max(number, 1))


def _percent(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.2%}"
