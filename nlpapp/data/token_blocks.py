"""Documents to blocks of token ids: flat arrays with the offsets of sentences and documents.

A block is what one shard is made of, and all that is in memory at a time. Its limits depend on the
text alone, so that a block is the same whatever was made before it, and by whom.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from nlpapp.errors import ConfigError
from nlpapp.text.documents import Document

ENCODED_AT_ONCE = 4096
"""Sentences that are given to the tokenizer together: its results are far larger than the ids."""


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """Consecutive documents of a corpus as token ids."""

    ids: np.ndarray
    """All tokens one after the other, uint16 or uint32, without special tokens."""
    sentence_offsets: np.ndarray
    """Where each sentence begins in ``ids``, and the end of the last: int64."""
    document_offsets: np.ndarray
    """Where each document begins in ``sentence_offsets``, and the end of the last: int64."""
    first_document: int
    """Number of the first document in the whole corpus."""
    empty_sentences: int = 0
    """Sentences that gave no token (of control characters, say) and are left out."""
    split_sentences: int = 0
    """Sentences longer than ``longest`` tokens, which were cut into several."""

    @property
    def num_documents(self) -> int:
        """Return the number of documents, those without a token included."""
        return len(self.document_offsets) - 1

    def boundaries(self, document: int) -> list[int]:
        """Return where the sentences of ``document`` begin in ``ids``, and where the last ends."""
        first, last = self.document_offsets[document], self.document_offsets[document + 1]
        return self.sentence_offsets[first : last + 1].tolist()

    def tokens(self, document: int) -> np.ndarray:
        """Return the ids of ``document``."""
        first, last = self.document_offsets[document], self.document_offsets[document + 1]
        return self.ids[self.sentence_offsets[first] : self.sentence_offsets[last]]


def split_blocks(documents: Iterable[Document], block_bytes: int) -> Iterator[list[Document]]:
    """Yield consecutive documents of about ``block_bytes`` of text together.

    The last block is joined to the one before it if it is less than half as large, so that no block
    is left with too few documents to draw random ones from.
    """
    held: list[Document] = []
    block: list[Document] = []
    size = 0
    for document in documents:
        block.append(document)
        size += text_bytes(document)
        if size >= block_bytes and len(block) > 1:
            if held:
                yield held
            held, block, size = block, [], 0
    if held and (size < block_bytes / 2 or len(block) < 2):
        held, block = held + block, []
    if held:
        yield held
    if block:
        yield block


def text_bytes(document: Document) -> int:
    """Return the size of the document's text in bytes of UTF-8, line ends included."""
    return sum(len(sentence.encode("utf-8")) + 1 for sentence in document.sentences)


def plain_encoder(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of the tokenizer's engine that turns text into ids and nothing else.

    It neither cuts nor pads, and "[MASK]" written in a text is text, not a special token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} is a tokenizer in pure Python; make-data needs a fast one "
            "(a folder with tokenizer.json, or vocab.txt)."
        )
    encoder = Tokenizer.from_str(backend.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    return encoder


def id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def tokenize_block(
    documents: Sequence[Document], encoder: Tokenizer, *, first_document: int, longest: int
) -> TokenBlock:
    """Return ``documents`` as token ids.

    A sentence of more than ``longest`` tokens is cut into sentences of ``longest`` and a rest, so
    that nothing of it has to be cut off later.
    """
    flat = (sentence for document in documents for sentence in document.sentences)
    dtype = id_dtype(encoder.get_vocab_size(with_added_tokens=True))
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    document_offsets = [0]
    empty = split = 0
    encoded = _encode(flat, encoder)
    for document in documents:
        for ids in itertools.islice(encoded, len(document.sentences)):
            pieces = [min(longest, len(ids) - start) for start in range(0, len(ids), longest)]
            empty += not pieces
            split += len(pieces) > 1
            lengths += pieces
            parts.append(np.asarray(ids, dtype=dtype))
        document_offsets.append(len(lengths))
    return TokenBlock(
        ids=np.concatenate(parts) if parts else np.zeros(0, dtype),
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        document_offsets=np.asarray(document_offsets, dtype=np.int64),
        first_document=first_document,
        empty_sentences=empty,
        split_sentences=split,
    )


def _encode(sentences: Iterator[str], encoder: Tokenizer) -> Iterator[list[int]]:
    while batch := list(itertools.islice(sentences, ENCODED_AT_ONCE)):
        for encoding in encoder.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids
