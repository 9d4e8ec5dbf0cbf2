"""Text of a block to token ids: flat arrays with the offsets of sentences and documents.

A block is some 2 MB of text from all over the corpus, and all that a worker holds at a time. What
is made of it depends on its text and its number alone, whoever makes it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpapp.text.word_encoding import LineEncoder
from nlpapp.text.words import WordMarker


@dataclass(frozen=True, kw_only=True)
class BlockText:
    """Documents, or a slice of a long one, as they were put aside: what a block is made of."""

    text: bytes
    """UTF-8; a sentence a line, each line ended, an empty line after each document."""
    document: str | None = None
    """Identity of the one document that all of this is of; None: of several."""
    dropped: tuple[int, ...] = ()
    """Numbers of the documents in ``text`` that are left out, as copies of earlier ones."""


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """Documents as token ids; first those that instances are made of, then guests.

    Guests only lend random segments, where a block's own documents are all the same one.
    """

    ids: np.ndarray
    """All tokens one after the other, uint16 or uint32, without special tokens."""
    sentence_offsets: np.ndarray
    """Where each sentence begins in ``ids``, and the end of the last: int64."""
    document_offsets: np.ndarray
    """Where each document begins in ``sentence_offsets``, and the end of the last: int64."""
    identities: Sequence[str]
    """For each document: slices of one document, and copies of it, have the same."""
    whole: np.ndarray
    """bool for each document: it is no slice of one."""
    number: int
    """Number of the block: with the seed, it decides on all draws."""
    num_own: int
    """Documents that instances are made of."""
    continues: np.ndarray | None = None
    """bool for each token: it goes on with the word before it; None: the vocabulary tells."""
    num_sentences: int = 0
    """Lines of the block's own documents."""
    empty_sentences: int = 0
    """Those that gave no token (of control characters, say) and are left out."""
    split_sentences: int = 0
    """Those longer than ``longest`` tokens, which were cut into several."""

    @property
    def num_documents(self) -> int:
        """Return the number of documents, guests and those without a token included."""
        return len(self.document_offsets) - 1

    @property
    def own_tokens(self) -> np.ndarray:
        """Return the ids of the documents that instances are made of."""
        return self.ids[: self.sentence_offsets[self.document_offsets[self.num_own]]]

    def boundaries(self, document: int) -> list[int]:
        """Return where the sentences of ``document`` begin in ``ids``, and where the last ends."""
        first, last = self.document_offsets[document], self.document_offsets[document + 1]
        bounds: list[int] = self.sentence_offsets[first : last + 1].tolist()
        return bounds


def tokenize_block(
    texts: Sequence[BlockText],
    encoder: LineEncoder,
    *,
    number: int,
    longest: int,
    guests: Sequence[BlockText] = (),
    marker: WordMarker | None = None,
) -> TokenBlock:
    """Return ``texts`` as token ids.

    A sentence of more than ``longest`` tokens is cut into sentences of ``longest`` and a rest, so
    that nothing of it has to be cut off later. ``marker`` tells the words that the vocabulary
    cannot tell.
    """
    pieces: list[bytes] = []
    identities: list[str] = []
    whole: list[bool] = []
    num_own = 0
    for place, part in enumerate([*texts, *guests]):
        documents = part.text.removesuffix(b"\n\n").split(b"\n\n")
        for order, document in enumerate(documents):
            if order not in part.dropped:
                pieces.append(document)
                whole.append(part.document is None)
                identities.append(
                    part.document or hashlib.blake2b(document, digest_size=16).hexdigest()
                )
        if place < len(texts):
            num_own = len(pieces)
    text = b"\n\n".join(pieces) + b"\n\n" if pieces else b""
    encoded = encoder.encode(text)
    lines = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
    closes = np.diff(lines, prepend=-1) == 1  # The empty line after each document.
    own = ~closes & (np.cumsum(closes) < num_own)
    lengths = np.diff(encoded.ends, prepend=0)
    cuts = -(-lengths // longest)
    # Sentence k of a line of n tokens begins k * longest after the line does.
    begins = np.repeat(encoded.ends - lengths, cuts)
    inside = np.arange(len(begins)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    return TokenBlock(
        ids=encoded.ids,
        sentence_offsets=np.append(begins + inside * longest, len(encoded.ids)),
        document_offsets=np.concatenate([[0], np.cumsum(cuts)[closes]]),
        identities=identities,
        whole=np.array(whole, dtype=bool),
        number=number,
        num_own=num_own,
        continues=None if marker is None else marker.mark(text, encoded),
        num_sentences=int(own.sum()),
        empty_sentences=int((lengths[own] == 0).sum()),
        split_sentences=int((cuts[own] > 1).sum()),
    )


def id_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32
