"""Convert BERT pretraining data from and to the TFRecord files of the original scripts."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from nlpapp.data.manifest import MANIFEST, read_manifest
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.tfrecord_files import check_installed
from nlpapp.data.tfrecord_import import LabelMeaning, import_tfrecords
from nlpapp.data.tfrecords import export_layout, find_tfrecords, write_tfrecords
from nlpapp.disk import damage
from nlpapp.errors import ConfigError
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Convert BERT pretraining data from and to the TFRecord files of the original scripts."""

    source: str
    """A folder that make-data wrote, or TFRecord files: one, a pattern, or a folder of them."""
    to: Literal["tfrecord", "parquet"]
    """tfrecord: files for the original scripts; parquet: a data folder for pretrain."""
    output_dir: str
    """Folder for the converted data."""
    tokenizer: str | None = None
    """What TFRecord files were made with: a tokenizer folder or a vocab.txt; parquet needs it."""
    num_files: int = 1
    """TFRecord files to write, each with the same share of the instances."""
    shuffle_seed: int | None = None
    """Order of the instances in TFRecord files: None as they are, a number at random by it."""
    labels: LabelMeaning = "nsp"
    """What 1 means in TFRecord files: nsp, B is a random sentence; sop, A and B are swapped."""

    def __post_init__(self) -> None:
        """Refuse options that cannot be run, before any file is read."""
        if self.to == "parquet" and self.tokenizer is None:
            raise ConfigError(
                "to parquet needs --tokenizer, the folder or vocab.txt the TFRecord files were "
                "made with: their ids mean nothing without it."
            )
        if self.num_files < 1:
            raise ConfigError(f"num_files {self.num_files}: expected 1 or more.")


def run(config: Config) -> dict[str, float]:
    """Write the converted data, and return its counts."""
    check_installed()
    run = RunFolder.open(
        config.output_dir, config=config, command="convert-data", seed=config.shuffle_seed or 0
    )
    if run.finished is not None and complete(run.path, config):
        return run.finished
    metrics = to_parquet(config, run) if config.to == "parquet" else to_tfrecord(config, run)
    metrics["seconds"] = run.seconds
    run.finish(metrics)
    return metrics


def complete(folder: Path, config: Config) -> bool:
    """Tell whether all that a finished run wrote is still there, and shards are sound."""
    if config.to == "tfrecord":
        return len(list(folder.glob("data-*.tfrecord"))) == config.num_files
    return (folder / MANIFEST).is_file() and all(
        damage(folder / record["file"], record["sha256"]) is None
        for record in read_manifest(folder)["shards"]
    )


def to_tfrecord(config: Config, run: RunFolder) -> dict[str, float]:
    """Write a data folder's instances to TFRecord files."""
    data = PretrainingData.open(config.source)
    layout = export_layout(data)
    with tqdm(total=len(data), desc="convert-data", unit=" instances") as progress:
        paths = write_tfrecords(
            data,
            run.path,
            num_files=config.num_files,
            shuffle_seed=config.shuffle_seed,
            progress=progress.update,
        )
    log.info(
        "%s instances in %d files. Read them with --max_seq_length=%d "
        "--max_predictions_per_seq=%d, and with the vocabulary they were made with.",
        f"{len(data):,}",
        len(paths),
        layout.max_seq_length,
        layout.max_predictions_per_seq,
    )
    if not layout.has_labels:
        log.warning("This data has no labels: next_sentence_labels is absent from the records.")
    return {
        "instances": len(data),
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "max_seq_length": layout.max_seq_length,
        "max_predictions_per_seq": layout.max_predictions_per_seq,
    }


def to_parquet(config: Config, run: RunFolder) -> dict[str, float]:
    """Write the instances of TFRecord files to shards and a manifest."""
    assert config.tokenizer is not None
    paths = find_tfrecords(config.source)
    tokenizer = load_tokenizer(config.tokenizer)
    size = sum(path.stat().st_size for path in paths)
    with tqdm(total=size, desc="convert-data", unit="B", unit_scale=True) as progress:
        manifest = import_tfrecords(
            run.path, paths, tokenizer=tokenizer, labels=config.labels, progress=progress.update
        )
    counts, options = manifest["counts"], manifest["options"]
    log.info(
        "%s instances of up to %d tokens from %d files; objective %s, %.2f%% of the tokens masked.",
        f"{counts['instances']:,}",
        options["max_seq_length"],
        len(paths),
        options["objective"],
        100 * manifest["statistics"]["mask_rate"],
    )
    return {**counts, **manifest["statistics"], "files": len(paths)}
