"""Turn text into pretraining data for BERT."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from nlpapp.data.masking import MaskingUnit
from nlpapp.data.pretraining_instances import Objective, PretrainingOptions
from nlpapp.data.pretraining_shards import sound, write_pretraining_data
from nlpapp.text.documents import InputFormat
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Turn text into BERT pretraining data: parquet shards and a manifest with statistics."""

    inputs: list[str]
    """Text files, patterns such as 'books/*.txt', or folders (their .txt files)."""
    tokenizer: str
    """A folder that train-tokenizer or transformers wrote, or a vocab.txt."""
    output_dir: str
    """Folder for shards and manifest; started again, it goes on where it stopped."""
    input_format: InputFormat = "auto"
    """lines: a sentence a line, blank line between documents; text: prose; auto: look and say."""
    objective: Objective = "nsp"
    """nsp: pairs of segments with a next-sentence label; none: whole sentences, no label."""
    max_seq_length: int = 128
    """Longest instance in tokens, special tokens included; at least 8."""
    short_seq_prob: float = 0.1
    """Share of instances, 0 to 1, that aim at a random shorter length."""
    dupe_factor: int = 5
    """Passes over the corpus, each with other pairs and masks."""
    masked_lm_prob: float = 0.15
    """Share of the tokens to predict, 0 to 1."""
    max_predictions_per_seq: int | None = None
    """Most tokens to predict in one instance; None: max_seq_length * masked_lm_prob, rounded up."""
    masking: Literal["static", "dynamic"] = "static"
    """static: masks are drawn now; dynamic: anew in each epoch of the training."""
    masking_unit: MaskingUnit = "token"
    """Mask single tokens, or whole words (all their WordPiece pieces)."""
    seed: int = 42
    """Seed of pairs and masks."""

    def __post_init__(self) -> None:
        """Refuse options that cannot be run, before any file is read."""
        instance_options(self)


def run(config: Config) -> dict[str, float]:
    """Write the data, and return its counts and statistics."""
    run = RunFolder.open(config.output_dir, config=config, command="make-data", seed=config.seed)
    if run.finished is not None and sound(run.path):
        return run.finished
    options = instance_options(config)
    log.info("Up to %d predictions in one instance.", options.masking_options().max_predictions)
    manifest = write_pretraining_data(
        run.path,
        inputs=config.inputs,
        tokenizer=load_tokenizer(config.tokenizer),
        options=options,
        input_format=config.input_format,
    )
    log.info("%s", summary(manifest))
    metrics = {**manifest["counts"], **manifest["statistics"], "seconds": run.seconds}
    run.finish(metrics)
    return metrics


def instance_options(config: Config) -> PretrainingOptions:
    """Return the part of ``config`` that decides on the instances."""
    return PretrainingOptions(
        objective=config.objective,
        max_seq_length=config.max_seq_length,
        short_seq_prob=config.short_seq_prob,
        dupe_factor=config.dupe_factor,
        masked_lm_prob=config.masked_lm_prob,
        max_predictions_per_seq=config.max_predictions_per_seq,
        masking=config.masking,
        masking_unit=config.masking_unit,
        seed=config.seed,
    )


def summary(manifest: dict[str, Any]) -> str:
    """Return what came in and what came out, in a few lines."""
    counts, figures = manifest["counts"], manifest["statistics"]
    lines = [
        f"in:  {counts['documents']:,} documents, {counts['sentences']:,} sentences, "
        f"{counts['tokens']:,} tokens ({figures['unknown_rate']:.3%} [UNK])",
        f"out: {counts['instances']:,} instances in {len(manifest['shards'])} shards, "
        f"{figures['mean_length']:.1f} tokens on average",
    ]
    if manifest["options"]["masking"] == "static":
        lines.append(f"masked: {figures['mask_rate']:.2%} of the tokens")
    if manifest["options"]["objective"] == "nsp":
        share, cut = figures["next_sentence_random_share"], figures["truncated_rate"]
        lines.append(f"next sentence: {share:.2%} random; {cut:.2%} of the tokens cut off")
    lines += [
        f"{name.replace('_', ' ')}: {counts[name]:,}"
        for name in sorted(counts)
        if name.startswith(("dropped_", "sentences_"))
    ]
    return "\n".join(lines)
