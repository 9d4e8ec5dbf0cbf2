"""Train a WordPiece tokenizer on text."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from nlpapp import seeding
from nlpapp.errors import ConfigError
from nlpapp.text.documents import InputFormat, find_files, read_documents
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

    inputs: list[str]
    """Text files, patterns such as 'books/*.txt', or folders (their .txt files)."""
    output_dir: str
    """Folder for the tokenizer (in its model/ folder), the configuration and the figures."""
    input_format: InputFormat = "auto"
    """lines: a sentence a line, blank line between documents; text: prose; auto: look and say."""
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
    """Train on a random sample of documents of about this size, in bytes; None: on all of them."""
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
    tokenizer = train_wordpiece(
        _sentences(config),
        vocab_size=config.vocab_size,
        lowercase=config.lowercase,
        min_frequency=config.min_frequency,
        limit_alphabet=config.limit_alphabet,
        model_max_length=config.max_sequence_length,
    )
    save_tokenizer(tokenizer, run.model)
    metrics = {"vocab_size": float(len(tokenizer))} | describe(tokenizer, _sentences(config))
    log.info(
        "%s: %d pieces, %.2f tokens a word, %.3f %% [UNK]; fingerprint %s",
        run.model,
        len(tokenizer),
        metrics["tokens_per_word"],
        100 * metrics["unknown_rate"],
        fingerprint(tokenizer)[:12],
    )
    run.finish(metrics)
    return metrics


def _sentences(config: Config) -> Iterator[str]:
    """Yield the sentences of the inputs, or of a random part of their documents."""
    size = sum(path.stat().st_size for path in find_files(config.inputs))
    share = 1.0 if config.max_bytes is None else min(1.0, config.max_bytes / size)
    rng = seeding.generator(config.seed, "tokenizer sample")
    for document in read_documents(config.inputs, input_format=config.input_format):
        if rng.random() < share:
            yield from document.sentences
