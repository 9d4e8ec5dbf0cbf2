"""Train a WordPiece tokenizer on text."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from nlpapp import seeding
from nlpapp.errors import ConfigError
from nlpapp.text.documents import Document, InputFormat, sample_documents
from nlpapp.text.sources import Source, find_sources, read_source
from nlpapp.text.wordpiece import (
    SPECIAL_TOKENS,
    describe,
    fingerprint,
    save_tokenizer,
    train_wordpiece,
)
from nlpapp.training.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a BERT WordPiece tokenizer; the folder loads with AutoTokenizer."""

    inputs: list[str] | str
    """Files, patterns such as 'books/*.txt', folders, or data sets such as 'hub:owner/name'."""
    output_dir: str
    """Folder for the tokenizer (in its model/ folder), the configuration and the figures."""
    input_format: InputFormat = "auto"
    """lines: a sentence a line, blank line between documents; text: prose; jsonl, csv, parquet: the
    text_column of each row; auto: by the name, and for text by its lines, and say so."""
    text_column: str | None = None
    """Column or JSON key of the text; None: 'text', or else the only column of strings."""
    vocab_size: int = 30522
    """Pieces wanted, special tokens included; a small text gives fewer."""
    lowercase: bool = True
    """Fold case and strip accents, as uncased BERT does."""
    min_frequency: int = 2
    """Pairs of pieces seen less often than this are not joined."""
    limit_alphabet: int = 1000
    """Most frequent characters that get a piece; raise it for Chinese or Japanese (about 6000)."""
    max_sequence_length: int = 512
    """Longest sequence, in tokens, that the tokenizer allows."""
    max_bytes: int | None = None
    """Train on parts drawn at random, of about this size in bytes of text; None: on all text."""
    seed: int = 42
    """Seed of the sample that max_bytes draws."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.vocab_size <= len(SPECIAL_TOKENS):
            raise ConfigError(
                f"vocab_size {self.vocab_size}: expected more than the special tokens."
            )
        if self.min_frequency < 1 or self.limit_alphabet < 1:
            raise ConfigError("min_frequency and limit_alphabet: expected 1 or more.")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError(f"max_bytes {self.max_bytes}: expected 1 or more.")


def run(config: Config) -> dict[str, float]:
    """Train on sentences, save the tokenizer folder, and measure it on the first of them."""
    run = RunFolder.open(
        config.output_dir, config=config, command="train-tokenizer", seed=config.seed
    )
    if run.finished is not None:
        return run.finished
    sources = find_sources(
        config.inputs, input_format=config.input_format, text_column=config.text_column
    )
    tokenizer = train_wordpiece(
        _sentences(config, sources),
        vocab_size=config.vocab_size,
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
        limit_alphabet=config.limit_alphabet,
        model_max_length=config.max_sequence_length,
    )
    save_tokenizer(tokenizer, run.model)
    ids = {
        f"{name[1:-1].lower()}_token_id": float(number)
        for number, name in enumerate(SPECIAL_TOKENS)
    }
    figures = describe(tokenizer, _sentences(config, sources))
    metrics = {"vocab_size": float(len(tokenizer))} | figures | ids
    log.info(
        "%s: %d pieces, %.2f tokens a word, %.3f %% [UNK], %d words too long, %.1f %% of the "
        "pieces used in the first %d words; %s; fingerprint %s",
        run.model, len(tokenizer), metrics["tokens_per_word"], 100 * metrics["unknown_rate"],
        metrics["long_words"], 100 * metrics["vocabulary_used"], metrics["words"],
        ", ".join(f"{name} {number}" for number, name in enumerate(SPECIAL_TOKENS)),
        fingerprint(tokenizer)[:12],
    )  # fmt: skip
    run.finish(metrics)
    return metrics


def _sentences(config: Config, sources: list[Source]) -> Iterator[str]:
    """Yield the sentences of the sources, or of parts of them drawn at random."""
    documents: Iterator[Document]
    if config.max_bytes is None:
        documents = (document for source in sources for document in read_source(source))
    else:
        rng = seeding.generator(config.seed, "tokenizer sample")
        documents = sample_documents(sources, max_bytes=config.max_bytes, rng=rng)
    return (sentence for document in documents for sentence in document.sentences)
