"""The documents of a corpus, in order: the way in for whoever reads it as one stream.

`sources` says what the inputs stand for; to read parts of them in several processes, use its
`split_source` and `read_part`.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nlpapp.errors import ConfigError
from nlpapp.text.sentences import Document as Document
from nlpapp.text.source_bytes import DocumentUnit as DocumentUnit
from nlpapp.text.sources import InputFormat as InputFormat
from nlpapp.text.sources import (
    Source,
    SourcePart,
    find_sources,
    read_part,
    read_source,
    split_source,
)

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


def read_documents(
    inputs: Sequence[str],
    *,
    input_format: InputFormat = "auto",
    text_column: str | None = None,
    document_unit: DocumentUnit = "file",
) -> Iterator[Document]:
    """Yield the documents of ``inputs`` in order; the options are those of `find_sources`.

    Raises:
        DataError: a file is missing, empty, blank, damaged or not UTF-8, or a folder holds no text.
        ConfigError: an option is unknown.
    """
    # Before the first document is asked for, so that bad input shows before any work is done.
    sources = find_sources(
        inputs, input_format=input_format, text_column=text_column, document_unit=document_unit
    )
    return (document for source in sources for document in read_source(source))


def sample_documents(
    sources: Sequence[Source], *, max_bytes: int, rng: "np.random.Generator"
) -> Iterator[Document]:
    """Yield documents of parts drawn at random, until their text amounts to ``max_bytes``.

    Only the parts drawn are read, and of each no more than its share, so that a sample of a large
    corpus costs what the sample does. A file that cannot be cut gives its beginning.

    Args:
        sources: from `find_sources`.
        max_bytes: UTF-8 bytes of sentences wanted; the last document may go beyond.
        rng: decides which parts, and their order.
    """
    if max_bytes < 1:
        raise ConfigError(f"max_bytes {max_bytes}: expected 1 or more.")
    part_bytes = min(max(max_bytes // 64, 1 << 12), 1 << 24)
    drawn: list[tuple[SourcePart, int]] = []
    total = sum(source.size for source in sources)
    for source in sources:
        parts = split_source(source, part_bytes)
        # A part that could not be made this small gives no more than its share of the corpus.
        share = source.size / total if source.size else 1 / len(sources)
        quota = max(part_bytes, int(max_bytes * share / len(parts)))
        drawn += [(part, quota) for part in parts]
    left = max_bytes
    for index in rng.permutation(len(drawn)):
        part, quota = drawn[index]
        quota = min(quota, left)
        left -= quota
        for document in read_part(part):
            yield document
            quota -= sum(len(sentence.encode("utf-8")) + 1 for sentence in document.sentences)
            if quota <= 0:
                break
        left += quota  # What the part did not have, or, if negative, had too much.
        if left <= 0:
            break
    log.info("Drew %d bytes of text from %d parts at random.", max_bytes - left, len(drawn))
