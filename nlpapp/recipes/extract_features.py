"""Turn texts into vectors with any encoder."""

import dataclasses
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from nlpapp.data.feature_files import (
    FeatureChunk,
    FeatureLayout,
    FeatureWriter,
    check_room,
    read_pooled,
)
from nlpapp.data.feature_rows import RowEncoder, TextFile, read_rows, read_texts, scan, split_pair
from nlpapp.disk import disk_errors, write_json
from nlpapp.errors import ConfigError
from nlpapp.evaluation.neighbours import nearest_rows
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.classifiers import local_folder
from nlpapp.models.features import FeatureExtractor, load_encoder, random_encoder, weights_sha256
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CHUNK_BYTES = 128 << 20
"""Most bytes of features in memory at once, in float32: longer chunks are cut down to it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Turn each line of a text file into a vector, or a vector a token, with any encoder."""

    file: str
    """UTF-8 text, one text a line; a pair is written 'text a ||| text b'."""
    output_dir: str
    """Folder of the run; features.npy (or .safetensors, .parquet, .jsonl) goes there."""
    model: str | None = None
    """Encoder: the model folder of a run, any Hugging Face encoder or classifier, or a Hub name;
    absent: a BERT with random weights, to try the command out."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers to read: 0 is the first, -1 the last; several stand side by side in the files."""
    pooling: Literal["mean", "cls", "max", "none"] = "mean"
    """One vector a text: mean or maximum over its tokens, or its first token; none: per token."""
    format: Literal["npy", "safetensors", "parquet", "jsonl"] = "npy"
    """jsonl is what the original BERT script wrote, and needs pooling none."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """Numbers in the files; int8 has a scale for each vector, jsonl six decimal places."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut, of a pair the longer one first."""
    tokens_per_batch: int | None = None
    """Most tokens of a batch, padding included; absent: 1024 on a CPU, whose caches larger
    batches overflow, and 16384 on an accelerator."""
    chunk_rows: int = 4096
    """Texts read, sorted by length and written at once: bounds memory, and what a kill costs."""
    query: str | None = None
    """Print the texts nearest to this one, also of a run that is complete; needs pooling."""
    neighbours: int = 5
    """How many texts to print for the query."""
    seed: int = 42
    """Seed of random weights; nothing else is drawn."""

    def __post_init__(self) -> None:
        if min(self.chunk_rows, self.tokens_per_batch or 1, self.neighbours) < 1:
            raise ConfigError("chunk_rows, tokens_per_batch, neighbours must be at least 1.")
        if self.format == "jsonl" and self.pooling != "none":
            raise ConfigError("format jsonl has a vector for each token; give --pooling none too.")
        if self.format == "jsonl" and self.dtype == "int8":
            raise ConfigError("format jsonl is text, without int8; give --format npy, or no dtype.")
        if self.query is not None and self.pooling == "none":
            raise ConfigError("a query is compared with one vector a text; give --pooling mean.")


def run(config: Config) -> dict[str, float]:
    """Extract chunk by chunk, go on where an earlier try stopped, and answer the query."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("extract-features is one process; split the file for several.")
    # A query changes nothing that is stored: a complete run can be asked again.
    stored = dataclasses.replace(config, query=None, neighbours=5)
    run = RunFolder.open(
        config.output_dir, config=stored, command="extract-features", seed=config.seed
    )
    if run.finished is not None and config.query is None:
        return run.finished
    texts = scan(config.file)
    tokenizer, model, source = _load(config)
    encoder = RowEncoder(tokenizer, max_seq_length=config.max_seq_length)
    extractor = FeatureExtractor(model, layers=config.layers, pooling=config.pooling)
    identity = {"input": texts.sha256, "tokenizer": fingerprint(tokenizer), "model": source}
    if run.finished is None:
        with disk_errors(run.path, "Finished chunks are kept"):
            metrics = _extract(config, run, texts, encoder, extractor, identity)
        run.finish(metrics)
    if config.query is not None:
        _answer(config, run.path, texts, encoder, extractor)
    return run.finished or {}


def _load(config: Config) -> tuple[Any, Any, str]:
    """Return tokenizer, model on its device, and what identifies its weights."""
    if config.model is None and config.tokenizer is None:
        raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    if folder is not None:
        model, source = load_encoder(folder), weights_sha256(folder)
    else:
        logger.warning("no model is given: the features of a BERT with random weights")
        set_seed(config.seed, "weights")
        pad = tokenizer.pad_token_id
        sizes = bert_config(config.size, vocab_size=len(tokenizer), pad_token_id=pad)
        model, source = random_encoder(sizes), f"random {config.seed}"
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    return tokenizer, model.to(process_state().device), source


def _extract(
    config: Config,
    run: RunFolder,
    texts: TextFile,
    encoder: RowEncoder,
    extractor: FeatureExtractor,
    identity: dict[str, str],
) -> dict[str, float]:
    per_token = config.pooling == "none"
    layout = FeatureLayout(
        layers=tuple(config.layers),
        hidden_size=extractor.hidden_size,
        dtype=config.dtype,
        per_token=per_token,
    )
    row_bytes = 4 * len(config.layers) * extractor.hidden_size
    row_bytes *= config.max_seq_length if per_token else 1
    chunk_rows = max(1, min(config.chunk_rows, CHUNK_BYTES // row_bytes))
    check_room(run.path, layout.bytes_of(texts.rows))
    writer = FeatureWriter(run.path, config.format, layout, identity)
    if writer.rows:
        logger.info("going on after %d of %d texts", writer.rows, texts.rows)
    first = writer.rows
    spelled = per_token and config.format in ("parquet", "jsonl")
    with tqdm(total=texts.rows, initial=first, unit="text", smoothing=0.05) as bar:
        for rows in read_rows(config.file, skip=first, chunk_rows=chunk_rows):
            encoded = encoder(rows)
            batches = encoded.batches(_tokens_per_batch(config))
            values = extractor.rows(batches, encoded.lengths, progress=bar.update)
            ids = encoded.input_ids if per_token else None
            tokens = [encoder.tokens(row) for row in encoded.input_ids] if spelled else None
            counts = {"tokens": int(encoded.lengths.sum()), "cut": encoded.cut}
            writer.append(FeatureChunk(values, ids, tokens), counts)
    if cut := writer.counts.get("cut", 0):
        logger.warning("%d of %d texts were cut to max_seq_length", cut, writer.rows)
    paths = writer.finish()
    size = sum(path.stat().st_size for path in paths)
    shape = layout.shape(writer.vectors)
    about = {"shape": shape, **layout.about(config.format), "pooling": config.pooling, **identity}
    write_json(run.path / "features.json", about)
    logger.info("%s: %s", paths[0], json.dumps({"shape": shape, "bytes": size}))
    return {
        "rows": float(writer.rows),
        **{name: float(count) for name, count in writer.counts.items()},
        "bytes": float(size),
        "seconds": run.seconds,
        "rows_per_second": (writer.rows - first) / max(run.seconds, 1e-9),
    }


def _answer(
    config: Config, folder: Path, texts: TextFile, encoder: RowEncoder, extractor: FeatureExtractor
) -> None:
    encoded = encoder([split_pair(config.query or "")])
    query = extractor.rows(encoded.batches(_tokens_per_batch(config)), encoded.lengths)
    found = nearest_rows(query.reshape(-1), read_pooled(folder, config.layers), config.neighbours)
    lines = read_texts(texts.path, [row for row, _ in found])
    for row, cosine in found:
        print(f"{cosine:7.4f}  line {row + 1}  {lines[row]}")


def _tokens_per_batch(config: Config) -> int:
    on_cpu = process_state().device.type == "cpu"
    return config.tokens_per_batch or (1024 if on_cpu else 16384)
