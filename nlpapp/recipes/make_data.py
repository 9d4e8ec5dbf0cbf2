"""Turn text into pretraining data for BERT."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nlpapp.data.corpus_plan import BLOCK_BYTES
from nlpapp.data.corpus_text import TextOptions
from nlpapp.data.data_preview import first_examples, padding_shares, preview_examples
from nlpapp.data.manifest import UNFINISHED
from nlpapp.data.pretraining_data import PretrainingExample
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.data.pretraining_phases import Phase, data_sets
from nlpapp.data.pretraining_shards import write_pretraining_data
from nlpapp.data.task_pool import Executor, TaskPool
from nlpapp.disk import disk_errors
from nlpapp.errors import ConfigError
from nlpapp.evaluation.data_report import (
    LABELS,
    InstanceView,
    format_instance,
    summary,
    write_data_report,
)
from nlpapp.text.sources import DocumentUnit, InputFormat, Source, find_sources
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.run_folder import RunFolder

log = logging.getLogger(__name__)

EXAMPLES = 5
"""Instances shown in the report."""


@dataclass(frozen=True, kw_only=True)
class Config(PretrainingOptions):
    """Turn text into BERT pretraining data: parquet shards, a manifest and a report."""

    inputs: list[str] | str
    """Files, patterns such as 'books/*.txt', folders, or data sets such as 'hub:owner/name'."""
    tokenizer: str
    """A folder that train-tokenizer or transformers wrote, or a vocab.txt."""
    output_dir: str
    """Folder for shards and manifest; started again, it goes on where it stopped."""
    input_format: InputFormat = "auto"
    """lines: a sentence a line, blank line between documents; text: prose; auto: look and say."""
    text_column: str | None = None
    """Column (or JSON key) of the text; None: 'text', or the only column of strings."""
    document_unit: DocumentUnit = "file"
    """Of prose: a file is a document, or each paragraph (between blank lines) is one."""
    min_document_characters: int = 0
    """Drop documents that are shorter than this."""
    drop_duplicates: bool = False
    """Of documents with the same text, keep the first; they are counted in any case."""
    user_dictionary: str | None = None
    """File of words, one a line, for the segmenter."""
    phases: list[Phase] | None = None
    """Several data sets from one reading of the text, each in a folder of its own."""
    block_bytes: int = BLOCK_BYTES
    """Text that instances are made of at once, in bytes; random segments are drawn within it."""
    executor: Executor = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster (extra ray)."""
    workers: int | None = None
    """Tasks at a time; None: one for each core. The data do not depend on it."""
    ray_address: str | None = None
    """A running Ray cluster that sees output_dir and inputs; None: one on this machine."""
    preview: int = 0
    """Print this many examples, and write nothing."""

    def __post_init__(self) -> None:
        """Refuse options that cannot be run, before any file is read."""
        super().__post_init__()
        for _, options in data_sets(self, self.phases):
            _check_masking(options)
        if self.block_bytes < 10_000:
            raise ConfigError(f"block_bytes {self.block_bytes}: expected 10,000 or more.")
        for name in ("min_document_characters", "preview"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 (none) or more.")
        for given in [self.inputs] if isinstance(self.inputs, str) else self.inputs:
            if Path(given).is_dir() and Path(self.output_dir).resolve().is_relative_to(
                Path(given).resolve()
            ):
                raise ConfigError(
                    f"output_dir {self.output_dir} is in the input folder '{given}', so that what "
                    "is written would be read. Give an output_dir elsewhere."
                )


def run(config: Config) -> dict[str, float]:
    """Write the data and its report, and return its counts and statistics."""
    if config.preview:
        return _preview(config)
    with TaskPool(
        executor=config.executor, workers=config.workers, ray_address=config.ray_address
    ) as pool:
        run = RunFolder.open(
            config.output_dir, config=config, command="make-data", seed=config.seed
        )
        sources = _sources(config)
        pool.start()
        tokenizer = load_tokenizer(config.tokenizer)
        metrics: dict[str, float] = {}
        for name, options in data_sets(config, config.phases):
            log.info("Up to %d predictions an instance.", options.masking_options().max_predictions)
            folder = run.path / name
            manifest = write_pretraining_data(
                folder,
                sources=sources,
                tokenizer=tokenizer,
                options=options,
                text_options=_text_options(config),
                user_dictionary=config.user_dictionary,
                pool=pool,
                text_folder=run.path / UNFINISHED / "text" if name else None,
                block_bytes=config.block_bytes,
            )
            log.info("%s", summary(manifest))
            shown = first_examples(folder, manifest, EXAMPLES)
            with disk_errors(folder, "The data are complete, only the report is missing"):
                write_data_report(
                    folder,
                    manifest,
                    [_view(example, tokenizer, options) for example in shown],
                    padding=padding_shares(manifest["lengths"], options.max_seq_length),
                )
            prefix = f"{name}/" if name else ""
            figures = {**manifest["counts"], **manifest["statistics"]}
            metrics |= {prefix + key: value for key, value in figures.items()}
        shutil.rmtree(run.path / UNFINISHED, ignore_errors=True)
    if run.finished is not None:
        return run.finished
    metrics["seconds"] = run.seconds
    with disk_errors(run.path, "The data are complete, only metrics.json is missing"):
        run.finish(metrics)
    return metrics


def _sources(config: Config) -> list[Source]:
    return find_sources(
        config.inputs,
        input_format=config.input_format,
        text_column=config.text_column,
        document_unit=config.document_unit,
    )


def _text_options(config: Config) -> TextOptions:
    return TextOptions(
        min_document_characters=config.min_document_characters,
        drop_duplicates=config.drop_duplicates,
    )


def _check_masking(options: PretrainingOptions) -> None:
    if not 0 < options.masked_lm_prob < 1:
        what = "hides nothing" if options.masked_lm_prob == 0 else "leaves nothing to predict from"
        raise ConfigError(
            f"masked_lm_prob {options.masked_lm_prob} {what}: expected a share between 0 and 1, "
            "such as BERT's 0.15."
        )


def _preview(config: Config) -> dict[str, float]:
    sources, tokenizer = _sources(config), load_tokenizer(config.tokenizer)
    for name, options in data_sets(config, config.phases):
        examples = preview_examples(
            sources,
            tokenizer,
            options,
            count=config.preview,
            user_dictionary=config.user_dictionary,
        )
        print(f"\n=== {name or 'instances'}: {options.max_seq_length} tokens ===")
        for example in examples:
            print(f"\n{format_instance(_view(example, tokenizer, options))}")
    return {}


def _view(
    example: PretrainingExample, tokenizer: PreTrainedTokenizerBase, options: PretrainingOptions
) -> InstanceView:
    labels = (example.next_sentence_label, example.sentence_order_label)
    label = next((value for value in labels if value is not None), None)
    positions, originals = example.masked_lm_positions, example.masked_lm_ids
    return InstanceView(
        tokens=list(tokenizer.convert_ids_to_tokens(example.input_ids.tolist())),
        masked=[] if positions is None else positions.tolist(),
        originals=[]
        if originals is None
        else list(tokenizer.convert_ids_to_tokens(originals.tolist())),
        label=None if label is None else LABELS[options.objective][label],
        length=len(example.input_ids),
        mask_token=str(tokenizer.mask_token),
    )
