"""What a student's word embeddings start from: its teacher's, or vectors in a file.

Legend: V entries of the student's vocabulary, D width of the source, E width of the student.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.sentence_classifier import EMBEDDING_DEVIATION, SentenceClassifier

logger = logging.getLogger("nlpapp")


def start_embeddings(
    student: SentenceClassifier,
    source: str,
    *,
    tokenizer: Any,
    teacher: Any,
    teacher_tokenizer: Any,
) -> None:
    """Set the student's word embeddings to those of ``source``.

    Args:
        student: with random embeddings.
        source: "random" leaves them; "teacher" takes the teacher's, by PCA; else a file of vectors.
        tokenizer: of the student.
        teacher: a classifier.
        teacher_tokenizer: its tokenizer.

    Raises:
        ConfigError: as `read_vectors` and `teacher_rows`.
        DataError: as `read_vectors`.
    """
    if source == "random":
        return
    width = int(student.config.embedding_size)
    vocabulary = tokenizer.get_vocab()
    if source == "teacher":
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        ids = teacher_ids(words, teacher_tokenizer)
        rows = project_embeddings(teacher_rows(teacher, ids), width)
    else:
        rows = read_vectors(Path(source), vocabulary, width)
    rows[tokenizer.pad_token_id] = 0
    with torch.no_grad():
        student.encoder.embeddings.weight[: len(rows)] = rows  # type: ignore[union-attr,operator]


def teacher_ids(words: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the teacher's ids of each entry: its own where it has it, else those of the pieces."""
    known = tokenizer.get_vocab()
    unknown = tokenizer.unk_token_id
    # Byte-level tokenizers know a word by the blank before it; to others it makes no difference.
    return [
        [known[word]]
        if word in known
        else tokenizer(f" {word}", add_special_tokens=False)["input_ids"] or [unknown]
        for word in words
    ]


def project_embeddings(teacher: torch.Tensor, width: int) -> torch.Tensor:
    """Return a teacher's (V, D) word embeddings as (V, ``width``) ones to start a student from.

    They are centred, turned to their principal components (PCA, largest first), cut to ``width``,
    and scaled to the deviation that random embeddings start with. A student wider than its
    teacher gets random columns beside them, from torch's generator.
    """
    centred = (teacher - teacher.mean(0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)  # columns, by ascending variance
    kept = centred @ directions.flip(1)[:, :width]  # (V, min(D, width))
    kept = EMBEDDING_DEVIATION * kept / kept.std().clamp(min=1e-12)
    extra = EMBEDDING_DEVIATION * torch.randn(len(kept), width - kept.shape[1], dtype=torch.double)
    return torch.cat([kept, extra], dim=1).to(teacher.dtype)


def teacher_rows(teacher: Any, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return (V, D): for each entry of the student the mean of the teacher's embeddings of it.

    Args:
        teacher: a model with word embeddings.
        ids: the teacher's ids of each entry of the student's vocabulary.

    Raises:
        ConfigError: the teacher has no row for an id, or several tables.
    """
    words = teacher.get_input_embeddings().weight  # (V', D)
    if not isinstance(words, torch.Tensor):
        raise ConfigError("the teacher's embeddings are several tables; use --embeddings random.")
    words = words.detach()
    largest = max(max(row) for row in ids)
    if largest >= len(words):
        raise ConfigError(
            f"the teacher has {len(words)} embeddings, and the tokenizer gives ids up to "
            f"{largest}; use the teacher's tokenizer, or --embeddings random."
        )
    flat = torch.tensor([index for row in ids for index in row])
    starts = torch.tensor(np.cumsum([0, *(len(row) for row in ids[:-1])]))
    return torch.nn.functional.embedding_bag(flat, words, starts, mode="mean")


def read_vectors(path: Path, vocabulary: Mapping[str, int], width: int) -> torch.Tensor:
    """Return (V, ``width``) rows from a file of word vectors, in the order of the vocabulary.

    A text file has a word a line and its numbers behind it, as GloVe writes it, or with word2vec's
    line of two numbers first. A file that ends in .bin or .bin.gz is word2vec's binary format and
    is read by gensim. Entries that the file lacks get random numbers of the same deviation, from
    torch's generator, as in Kim 2014 (arXiv 1408.5882).

    Raises:
        ConfigError: the vectors have another width, no word is in the vocabulary, or gensim is
            needed and is not installed.
        DataError: the file cannot be read, or a line is broken; says which.
    """
    found: dict[int, np.ndarray] = {}
    is_binary = path.name.endswith((".bin", ".bin.gz"))
    for word, vector in _binary_vectors(path) if is_binary else _text_vectors(path):
        if word in vocabulary and vocabulary[word] not in found:
            found[vocabulary[word]] = np.asarray(vector, dtype=np.float32)
            if len(found[vocabulary[word]]) != width:
                raise ConfigError(
                    f"{path} has vectors of {len(vector)} numbers, and embedding_size is {width}; "
                    "make them equal."
                )
    if not found:
        raise ConfigError(
            f"none of the words in {path} is among the {len(vocabulary)} of the tokenizer; "
            "vectors of words need --vocabulary.kind words."
        )
    logger.info("%s: vectors for %d of %d entries", path, len(found), len(vocabulary))
    known = torch.from_numpy(np.stack(list(found.values())))
    deviation = float(known.std()) if known.numel() > 1 else EMBEDDING_DEVIATION
    rows = deviation * torch.randn(len(vocabulary), width)
    rows[list(found)] = known
    return rows


def _text_vectors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (word, numbers) of each line; all lines have as many numbers as the first."""
    width, told = 0, False
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                    width, told = int(parts[1]), True
                    continue
                width = width or len(parts) - 1
                # Some words of GloVe's 840 B file hold spaces, so the numbers count from the end.
                word, numbers = " ".join(parts[:-width]), parts[-width:]
                vector: np.ndarray = np.empty(0, dtype=np.float32)
                with suppress(ValueError):
                    vector = np.array(numbers, dtype=np.float32)
                wider = told and number == 2 and _ends_in_number(word)
                if wider or not word or len(vector) != width or not np.isfinite(vector).all():
                    raise DataError(
                        f"{path}, line {number}: expected a word and {width} numbers, as the first "
                        f"line has or says, found '{line.strip()[:60]}'."
                    )
                yield word, vector
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a text file of vectors: {error}") from error


def _ends_in_number(word: str) -> bool:
    """Return whether ``word`` has swallowed a number, of a line with more than the header says."""
    with suppress(ValueError):
        return " " in word and math.isfinite(float(word.split(" ")[-1]))
    return False


def _binary_vectors(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise ConfigError(
            f"{path}: word2vec's binary format is read by gensim, which is not installed: "
            "pip install gensim, or give the vectors as text."
        ) from error
    try:
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=True)
    except (OSError, EOFError, ValueError, MemoryError) as error:
        # A line of numbers that says too much asks for more memory than there is.
        raise DataError(
            f"{path} cannot be read as word2vec's binary format: {error}. Vectors as text have "
            "another ending, such as .txt."
        ) from error
    yield from zip(vectors.index_to_key, vectors.vectors, strict=True)
