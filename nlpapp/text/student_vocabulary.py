"""Vocabularies of students: the words of their own texts, or the part of a WordPiece they use.

Embeddings are most of a small model: 30,522 pieces of width 300 are 9.2 M of a BiLSTM's 9.8 M
numbers. A vocabulary of what the task's texts hold is a fraction of that.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nlpapp.errors import ConfigError
from nlpapp.text.wordpiece import count_words

PAD, UNKNOWN = "[PAD]", "[UNK]"
OWN = ("min_frequency", "max_words", "lowercase")
"""Options of the kind words."""
ENCODED_AT_ONCE = 4096
"""Texts that are given to the tokenizer together."""


@dataclass(frozen=True, kw_only=True)
class StudentVocabularyConfig:
    """What the student reads."""

    kind: Literal["teacher", "pruned", "words"] = "teacher"
    """teacher: the teacher's pieces; pruned: those of them that the texts hold, and single
    characters; words: the words of the texts (train, and unlabeled_file if there is one)."""
    min_frequency: int = 2
    """Times that a word (or piece) must occur in these texts to be kept."""
    max_words: int = 50_000
    """Words that are kept at most, the most frequent ones; for kind words."""
    lowercase: bool = True
    """Whether words are made lower case and lose their accents; for kind words."""

    def __post_init__(self) -> None:
        for name in ("min_frequency", "max_words"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"vocabulary.{name} is {getattr(self, name)}; it must be at least 1."
                )
        used = {"teacher": (), "pruned": ("min_frequency",)}.get(self.kind, OWN)
        ignored = [n for n in OWN if n not in used and getattr(self, n) != getattr(type(self), n)]
        if ignored:
            raise ConfigError(
                f"vocabulary.{ignored[0]} is {getattr(self, ignored[0])}, but kind {self.kind} "
                "does not use it: leave it out, or change vocabulary.kind."
            )


def student_tokenizer(
    config: StudentVocabularyConfig, teacher: PreTrainedTokenizerBase, texts: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Return the student's tokenizer: ``teacher``, or one made from ``texts``.

    Raises:
        ConfigError: no word is frequent enough, or ``teacher`` is no WordPiece that can be pruned.
    """
    if config.kind == "words":
        return word_tokenizer(
            texts,
            min_frequency=config.min_frequency,
            max_words=config.max_words,
            lowercase=config.lowercase,
            mask_token=str(teacher.mask_token or "[MASK]"),
        )
    if config.kind == "pruned":
        return pruned_tokenizer(teacher, texts, min_frequency=config.min_frequency)
    return teacher


def word_tokenizer(
    texts: Iterable[str],
    *,
    min_frequency: int,
    max_words: int,
    lowercase: bool,
    mask_token: str = "[MASK]",
) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose entries are words, as BERT's pre-tokenizer cuts them.

    The most frequent come first, equal ones in alphabetical order; no special token is added to a
    text.

    Args:
        texts: to count words in.
        min_frequency: occurrences that a word needs.
        max_words: words at most, the special tokens apart.
        lowercase: whether letters lose case and accents.
        mask_token: of the teacher, which marks masked words in augmented texts.

    Raises:
        ConfigError: no word occurs often enough.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counts = count_words((text.replace(mask_token, " ") for text in texts), normalizer)
    frequent = sorted((-count, word) for word, count in counts.items() if count >= min_frequency)
    if not frequent:
        raise ConfigError(
            f"no word of the texts occurs {min_frequency} times; lower vocabulary.min_frequency."
        )
    entries = [PAD, UNKNOWN, mask_token, *(word for _, word in frequent[:max_words])]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(entries)}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        mask_token=mask_token,
        model_input_names=["input_ids", "attention_mask"],
    )


def pruned_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, min_frequency: int = 1
) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer with the pieces that ``texts`` hold, in the same order.

    Single characters and special tokens stay, so that every word can still be spelled. With
    ``min_frequency`` 1 the texts are cut as before.

    Raises:
        ConfigError: the tokenizer is not a WordPiece.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    if whole.get("model", {}).get("type") != "WordPiece":
        raise ConfigError(
            "vocabulary.kind pruned needs a teacher with a WordPiece tokenizer; use words or "
            "teacher."
        )
    counts: dict[int, int] = {}
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        encoded = tokenizer(list(texts[start : start + ENCODED_AT_ONCE]), add_special_tokens=False)
        for row in encoded["input_ids"]:
            for index in row:
                counts[index] = counts.get(index, 0) + 1
    prefix = whole["model"]["continuing_subword_prefix"]
    own = whole["model"]["vocab"]
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    pieces = sorted((own | added).items(), key=lambda item: item[1])
    kept = [
        (piece, index)
        for piece, index in pieces
        if piece in added
        or len(piece.removeprefix(prefix)) == 1
        or counts.get(index, 0) >= min_frequency
    ]
    moved = {index: new for new, (_, index) in enumerate(kept)}
    whole["model"]["vocab"] = {piece: moved[index] for piece, index in kept if piece in own}
    whole["added_tokens"] = [token | {"id": moved[token["id"]]} for token in whole["added_tokens"]]
    _move_special_ids(whole.get("post_processor") or {}, moved)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def _move_special_ids(post_processor: dict[str, Any], moved: dict[int, int]) -> None:
    """Give a post-processor of tokenizer.json the new ids of the tokens that it adds."""
    for token in (post_processor.get("special_tokens") or {}).values():
        token["ids"] = [moved[index] for index in token["ids"]]
    for name in ("sep", "cls"):
        if name in post_processor:
            word, index = post_processor[name]
            post_processor[name] = [word, moved[index]]
