"""Label the rows of a file with any classifier."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from nlpapp.data.classification import encode_for, evaluation_steps, read_chunks
from nlpapp.errors import ConfigError
from nlpapp.evaluation.predictions import PredictionFile
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import (
    is_multi_label,
    local_folder,
    open_classifier,
    renamed_labels,
)
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits
from nlpapp.objectives.classification import forward_logits
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Label the rows of a file with any classifier; the file needs no labels."""

    file: str
    """TSV, CSV, JSONL or parquet file; read a part at a time, so it may be of any size."""
    output_dir: str
    """Folder for predictions.tsv: index, label and the probability of each class, row by row."""
    model: str | None = None
    """Classifier: the model folder of a run, any Hugging Face classifier, or a name on the Hub;
    absent: a BERT with random weights, to try the command out."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    text_column: str | None = None
    """Column of the text, by name or number from 1; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    header: bool = True
    """The first line of TSV and CSV files names the columns; if not, give their numbers."""
    label_names: list[str] | None = None
    """Names for the model's classes, in its order, in place of its own."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 64
    """Rows in one batch."""
    chunk_rows: int = 10_000
    """Rows read, predicted and written at once: bounds the memory."""
    seed: int = 42
    """Seed of random weights; nothing else is drawn."""

    def __post_init__(self) -> None:
        if self.chunk_rows < 1 or self.batch_size < 1:
            raise ConfigError("chunk_rows and batch_size must be at least 1.")


def run(config: Config) -> dict[str, float]:
    """Read, predict and write chunk by chunk; the file appears when it is complete."""
    run = RunFolder.open(config.output_dir, config=config, command="predict", seed=config.seed)
    if run.finished is not None:
        return run.finished
    tokenizer, model = _load(config)
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    chunks = read_chunks(
        config.file,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        header=config.header,
        chunk_rows=config.chunk_rows,
    )
    path = run.path / "predictions.tsv"
    output = PredictionFile(
        path,
        renamed_labels(model, config.label_names),
        multi_label=is_multi_label(model),
        prediction_column="label",
    )
    rows = 0
    with output if run.is_main else nullcontext(), tqdm(unit="row", disable=not run.is_main) as bar:
        for examples in chunks:
            encoded = encode_for(model, tokenizer, examples, max_seq_length=config.max_seq_length)
            steps, undo = evaluation_steps(
                encoded, tokenizer.pad_token_id, batch_size=config.batch_size
            )
            logits = predict_rows(model, forward_logits, steps)[undo]
            rows += len(logits)
            bar.update(len(logits))
            if run.is_main:
                output.append(logits)
    logger.info("%s: %d rows", path, rows)
    metrics = {
        "rows": float(rows),
        "seconds": run.seconds,
        "rows_per_second": rows / max(run.seconds, 1e-9),
    }
    run.finish(metrics)
    return metrics


def _load(config: Config) -> tuple[Any, Any]:
    if config.model is None and config.tokenizer is None:
        raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    model = open_classifier(
        folder,
        label_names=config.label_names,
        size=config.size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, model
