"""WordPiece tokenizers: train one, load one, tell whether two are the same.

Training counts words first (a memory of distinct words, not of text) and hands the counts to the
trainer of `tokenizers`. The letters get their ids here, in the order of their code points: the
trainer numbers word-internal letters in the order of a hash map, so that two runs over one text
would give two different vocabularies.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nlpapp.errors import DataError, nearest

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In the order of their ids: padding is 0."""

LONGEST_WORD = 100
"""Characters; a longer word is [UNK] to every BERT tokenizer, so nothing is learnt from it."""

MOST_WORDS = 5_000_000
"""Distinct words that are counted at once; beyond it the rarest are forgotten."""

log = logging.getLogger(__name__)


def train_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool = True,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    max_bytes: int | None = None,
    model_max_length: int = 512,
) -> PreTrainedTokenizerFast:
    """Train a BERT tokenizer on ``texts``; the same texts give the same vocabulary, ids included.

    Args:
        texts: strings, read once; memory grows with the distinct words, not with the text.
        vocab_size: the number of pieces wanted, special tokens included; a small text gives fewer.
        lowercase: fold case and strip accents, as uncased BERT does.
        min_frequency: a pair of pieces seen less often than this is not joined.
        limit_alphabet: the most frequent characters that get a piece; words with others are [UNK].
        max_bytes: stop reading after this much UTF-8 text.
        model_max_length: the longest sequence, in tokens, that the tokenizer promises to models.

    Raises:
        DataError: if there is no word in ``texts``, or ``vocab_size`` has no room for its letters.
    """
    normalizer = _normalizer(lowercase)
    words = count_words(_limit_bytes(texts, max_bytes), normalizer)
    if not words:
        raise DataError("Cannot train a tokenizer: the texts hold no words. Check the input files.")
    letters = _alphabet(words, limit_alphabet)
    first = [*SPECIAL_TOKENS, *letters]
    if vocab_size <= len(first):
        raise DataError(
            f"vocab_size {vocab_size} is too small: the special tokens and the letters of the "
            "texts "
            f"alone are {len(first)} pieces. Raise vocab_size or lower limit_alphabet "
            f"(now {limit_alphabet})."
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=first,
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(words, set(letters)), trainer)
    vocabulary = learner.get_vocab()
    log.info("Trained %d pieces on %d distinct words.", len(vocabulary), len(words))
    return _bert_tokenizer(vocabulary, lowercase=lowercase, model_max_length=model_max_length)


def count_words(texts: Iterable[str], normalizer: normalizers.Normalizer) -> Counter[str]:
    """Return how often each word occurs, words being what BERT's pre-tokenizer cuts out.

    Words of more than `LONGEST_WORD` characters are left out. Where there are more than
    `MOST_WORDS` distinct words, those seen least are forgotten, so that memory does not grow with
    the text; what is left counts a little too low.
    """
    chunks: Counter[str] = Counter()
    words: Counter[str] = Counter()
    long: Counter[str] = Counter()
    for text in texts:
        chunks.update(normalizer.normalize_str(text).split())
        if len(chunks) > MOST_WORDS:
            _count_chunks(chunks, words, long)
    _count_chunks(chunks, words, long)
    if long:
        log.warning(
            "%d words of more than %d characters were left out, such as '%s...': they are [UNK].",
            long.total(), LONGEST_WORD, next(iter(long))[:20],
        )  # fmt: skip
    return words


def _count_chunks(chunks: Counter[str], words: Counter[str], long: Counter[str]) -> None:
    """Move the counts of ``chunks``, cut at blanks, to those of words and of too long ones."""
    # Cutting at blanks first changes nothing, and leaves the slow part to distinct chunks only.
    cutter = pre_tokenizers.BertPreTokenizer()
    for chunk, count in chunks.items():
        for word, _ in cutter.pre_tokenize_str(chunk):
            if len(word) <= LONGEST_WORD:
                words[word] += count
            else:
                long[word[:LONGEST_WORD]] += count
    chunks.clear()
    least = 1
    while len(words) > MOST_WORDS:
        for word in [word for word, count in words.items() if count <= least]:
            del words[word]
        log.info("Words seen %d times or less were forgotten; %d are left.", least, len(words))
        least += 1
    while len(long) > 1000:  # Their number matters, the words do not.
        kept, extra = long.most_common(1)[0][0], long.total()
        long.clear()
        long[kept] = extra


def _alphabet(words: Counter[str], limit: int) -> list[str]:
    """Return the one-letter pieces, those that open a word first, in the order of code points."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
        inside.update(word[1:])
    kept = sorted(sorted(counts), key=lambda letter: -counts[letter])[:limit]
    return sorted(kept) + [f"##{letter}" for letter in sorted(set(kept) & inside)]


def _repeated(words: Counter[str], letters: set[str], size: int = 10_000) -> Iterator[str]:
    """Yield every word as often as it was counted; words with a dropped letter are left out."""
    for word, count in sorted(words.items()):
        if letters.issuperset(word):
            for start in range(0, count, size):
                yield f"{word} " * min(size, count - start)


def _limit_bytes(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    seen = 0
    for text in texts:
        yield text
        seen += len(text.encode("utf-8"))
        if max_bytes is not None and seen >= max_bytes:
            log.info("Stopped reading after %d bytes (max_bytes).", seen)
            return


def _normalizer(lowercase: bool) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(lowercase=lowercase)


def _bert_tokenizer(
    vocabulary: dict[str, int], *, lowercase: bool, model_max_length: int
) -> PreTrainedTokenizerFast:
    return BertTokenizer(
        vocab=vocabulary, do_lower_case=lowercase, model_max_length=model_max_length
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a folder that `AutoTokenizer.from_pretrained` loads, with a vocab.txt beside it."""
    folder = Path(folder)
    tokenizer.save_pretrained(folder)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text(
        "".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8"
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a Hugging Face tokenizer folder, or a bare WordPiece vocabulary file, from this machine.

    Of a bare vocabulary the letter case is guessed, and the guess is logged: a vocabulary without
    an upper-case piece is uncased.

    Raises:
        DataError: if nothing usable is there; for a vocabulary also if a special token is missing
            or a piece stands there twice.
    """
    path = Path(path)
    if path.is_file():
        return _load_vocabulary_file(path)
    if (path / "config.yaml").is_file() and (path / "model").is_dir():
        path = path / "model"  # The output folder of train-tokenizer or pretrain.
    if not path.is_dir():
        raise DataError(
            f"No tokenizer at '{path}': expected a tokenizer folder or a vocab.txt on this machine."
            f"{_nearest_sibling(path)}"
        )
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
        if (path / "vocab.txt").is_file():
            return _load_vocabulary_file(path / "vocab.txt")
        raise DataError(
            f"Folder '{path}' holds no tokenizer: expected tokenizer.json or vocab.txt. "
            "`nlpapp train-tokenizer` makes one."
        )
    from transformers import AutoTokenizer  # Loads torch, which a bare vocabulary does without.

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"The tokenizer in '{path}' cannot be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise DataError(
            f"'{path}' does not load as a text tokenizer, but as {type(tokenizer).__name__}."
        )
    return tokenizer


def _nearest_sibling(path: Path) -> str:
    return (
        nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
    )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Return piece -> id of a vocabulary file: one piece a line, whose number less one is the id.

    Raises:
        DataError: the file is not UTF-8, lacks a special token, or holds a piece twice.
    """
    try:
        # Not splitlines(): real vocabularies hold pieces that are Unicode line separators.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); expected a vocabulary."
        ) from None
    pieces = [line.removesuffix("\r") for line in lines]
    while pieces and not pieces[-1]:
        pieces.pop()
    vocabulary: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        if piece in vocabulary:
            raise DataError(
                f"{path}, line {index + 1}: piece '{piece}' stands there already in line "
                f"{vocabulary[piece] + 1}; each piece must be there once, since its line is its id."
            )
        vocabulary[piece] = index
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise DataError(
            f"{path} ({len(vocabulary)} lines) is not a BERT vocabulary: {', '.join(missing)} "
            "missing. "
            f"Expected one piece a line, among them {', '.join(SPECIAL_TOKENS)}."
        )
    return vocabulary


def _load_vocabulary_file(path: Path) -> PreTrainedTokenizerFast:
    if path.name == "tokenizer.json":
        raise DataError(
            f"'{path}' is a file of a tokenizer folder: give the folder '{path.parent}'."
        )
    vocabulary = read_vocabulary(path)
    # Names such as [unused1] and <S> are no text, whatever their letters.
    plain = (piece for piece in vocabulary if not re.fullmatch(r"\[.+\]|<.+>", piece))
    upper = next((piece for piece in plain if piece != piece.lower()), None)
    why = f"it holds '{upper}'" if upper else "no piece has an upper-case letter"
    log.info("%s is taken as %s: %s.", path, "cased" if upper else "uncased", why)
    return _bert_tokenizer(vocabulary, lowercase=upper is None, model_max_length=512)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 (hex) of all that decides which ids a text gets.

    Vocabulary, model, normalisation, word cutting and special tokens count; padding, truncation and
    the name of the class do not.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _fingerprint_of(backend.to_str())
    return _digest(
        {
            "vocabulary": tokenizer.get_vocab(),
            "special": sorted(tokenizer.all_special_tokens),
        }
    )


@lru_cache(maxsize=4)
def _fingerprint_of(description: str) -> str:
    """Return the fingerprint of an engine by its tokenizer.json; a run asks several times."""
    whole = json.loads(description)
    content = {part: whole[part] for part in ("model", "normalizer", "pre_tokenizer")}
    content["added"] = sorted((token["id"], token["content"]) for token in whole["added_tokens"])
    return _digest(content)


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_fingerprint(*, found: str, expected: str, found_in: str, expected_by: str) -> None:
    """Raise `DataError` unless the tokenizers behind two fingerprints are the same one."""
    if found != expected:
        raise DataError(
            f"{found_in} was made with another tokenizer ({found[:12]}) than {expected_by} "
            f"({expected[:12]}): the same ids would mean different words. Use one tokenizer for "
            "both."
        )


def describe(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, max_texts: int = 2000
) -> dict[str, float]:
    """Measure ``tokenizer`` on the first ``max_texts`` texts.

    Returns:
        ``tokens_per_word`` (fertility), ``unknown_rate`` (share of [UNK] among the tokens),
        ``vocabulary_used`` (share of the vocabulary that occurs), ``words`` and ``tokens`` seen,
        ``long_words`` (words of more than `LONGEST_WORD` characters, which are [UNK]).
    """
    counts: Counter[int] = Counter()
    words = long = 0
    for text in islice(texts, max_texts):
        encoding = tokenizer(text, add_special_tokens=False, verbose=False)
        counts.update(encoding["input_ids"])
        words += len({index for index in encoding.word_ids() if index is not None})
        # A word that is [UNK] is one token, whose span is the whole word.
        long += sum(
            end - start > LONGEST_WORD and index == tokenizer.unk_token_id
            for index, (start, end) in zip(
                encoding["input_ids"], encoding.encodings[0].offsets, strict=True
            )
        )
    tokens = counts.total()
    return {
        "words": float(words),
        "tokens": float(tokens),
        "tokens_per_word": tokens / max(words, 1),
        "unknown_rate": counts[tokenizer.unk_token_id] / max(tokens, 1),
        "vocabulary_used": len(counts) / len(tokenizer),
        "long_words": float(long),
    }
