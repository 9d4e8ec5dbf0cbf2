"""Which tokens make up a word, for masking whole words.

Most tokenizers say so in the pieces themselves: "##" in WordPiece, a blank at the beginning of a
word in byte-level BPE and SentencePiece. Two things they leave open are settled here. Punctuation
is never part of a word, though BPE and SentencePiece write "unaffordable," without a blank. And a
Chinese text, which has no blanks, is not one word: each character is one, or, with a segmenter,
each word that the segmenter finds.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlpapp.errors import ConfigError
from nlpapp.text.chinese_words import (
    Cut,
    Segmenter,
    check_segmenter,
    is_ideograph,
    read_dictionary,
    segmenter_cut,
)
from nlpapp.text.word_pieces import Piece, line_starts_are_marked, read_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nlpapp.text.word_encoding import EncodedLines

_CODE_POINTS = 0x30000
"""Beyond the last Chinese character of BERT's blocks."""


@dataclass(frozen=True)
class WordTable:
    """What the ids alone tell of words."""

    continues: np.ndarray
    """bool by id: the piece goes on with the word before it."""
    alone: np.ndarray
    """bool by id: the piece is a word of its own, whatever stands around it; what follows begins a
    word. So are punctuation, Chinese characters, tabs and the like, and all special tokens: [UNK]
    too, which in BERT stands for a whole word and in others for what cannot be predicted anyway."""


def word_table(tokenizer: "PreTrainedTokenizerBase") -> WordTable | None:
    """Return what the ids tell of words, or None if they tell nothing.

    Known are WordPiece, byte-level BPE, SentencePiece and whole-word vocabularies, recognised by
    the parts of the tokenizer's engine.
    """
    pieces = read_pieces(tokenizer)
    return None if pieces is None else _table(tokenizer, pieces)


def _table(tokenizer: "PreTrainedTokenizerBase", pieces: Sequence[Piece | None]) -> WordTable:
    special = set(tokenizer.all_special_ids)
    continues = np.zeros(len(pieces), dtype=bool)
    alone = np.zeros(len(pieces), dtype=bool)
    for index, piece in enumerate(pieces):
        if piece is None or index in special:
            alone[index] = True
        else:
            continues[index] = not piece.opens
            alone[index] = _stands_alone(piece)
    return WordTable(continues & ~alone, alone)


def _stands_alone(piece: Piece) -> bool:
    text = piece.text.strip()
    if text.isascii() and text.isalnum():  # Most of them.
        return False
    if not text:
        # A lone blank may belong to the word after it, as in byte-level BPE; a tab does not.
        return piece.text not in ("", " ")
    return all(is_ideograph(letter) or is_punctuation(letter) for letter in text)


def is_punctuation(character: str) -> bool:
    """Say whether BERT takes ``character`` for punctuation: all ASCII signs, and category P."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def word_marker(
    tokenizer: "PreTrainedTokenizerBase",
    *,
    segmenter: Segmenter = "none",
    user_dictionary: str | None = None,
) -> "WordMarker | None":
    """Return what marks words in text, or None if `word_table` tells as much (or nothing at all).

    Raises:
        ConfigError: the segmenter is unknown, not installed or lacks its dictionary, or the
            tokenizer has no Chinese characters.
        DataError: the user dictionary cannot be read; the text names the line.
    """
    check_segmenter(segmenter, user_dictionary)
    if segmenter == "none" and line_starts_are_marked(tokenizer):
        return None
    pieces = read_pieces(tokenizer)
    if segmenter == "none" and pieces is None:
        return None
    if pieces is None:
        raise ConfigError(
            f"segmenter: {segmenter} needs a tokenizer that tells words (WordPiece, byte-level BPE "
            "or SentencePiece); this one is of another kind. Use segmenter: none."
        )
    return WordMarker(
        _table(tokenizer, pieces),
        segmenter=segmenter,
        user_dictionary=user_dictionary,
        pieces=pieces,
    )


class WordMarker:
    """Mark where words begin in encoded lines.

    It can be sent to other processes: what the segmenter needs is loaded where it is used first.
    """

    def __init__(
        self,
        table: WordTable,
        *,
        segmenter: Segmenter = "none",
        user_dictionary: str | None = None,
        pieces: Sequence[Piece | None] = (),
    ):
        """Take what the ids tell, and the text of the pieces if there is a segmenter.

        Raises:
            ConfigError: see `word_marker`.
            DataError: the user dictionary cannot be read.
        """
        check_segmenter(segmenter, user_dictionary)
        self.table = table
        self._segmenter = segmenter
        self._dictionary = read_dictionary(user_dictionary) if user_dictionary else []
        self._cut: Cut | None = None
        if segmenter == "none":
            return
        self._chinese = [_chinese_text(piece) for piece in pieces]
        self._is_chinese: np.ndarray = np.array([bool(text) for text in self._chinese])
        if not self._is_chinese.any():
            raise ConfigError(
                f"segmenter: {segmenter} is for Chinese, and the tokenizer's vocabulary holds no "
                "Chinese character. Use segmenter: none."
            )
        self._after_blank: np.ndarray = np.array(
            [piece is not None and piece.text.startswith(" ") for piece in pieces]
        )
        # By id the code point of a piece that is one Chinese character, or 0.
        self._code: np.ndarray = np.array(
            [ord(text) if len(text) == 1 else 0 for text in self._chinese], dtype=np.uint32
        )
        self._has_piece: np.ndarray = np.zeros(_CODE_POINTS, dtype=bool)
        self._has_piece[self._code] = True
        self._has_piece[0] = False

    def __getstate__(self) -> dict[str, object]:
        """Leave the loaded segmenter behind: it is large, and quickly loaded again."""
        return self.__dict__ | {"_cut": None}

    def mark(self, text: bytes, encoded: "EncodedLines") -> np.ndarray:
        """Return for each token whether it goes on with the word of the token before it.

        Args:
            text: the lines that were encoded, each ended by a line feed.
            encoded: their ids.

        Returns:
            bool, (T,); False where a line begins.
        """
        ids = encoded.ids
        alone = self.table.alone[ids]
        starts = alone | ~self.table.continues[ids]
        starts[1:] |= alone[:-1]
        line_starts = np.append(0, encoded.ends[:-1])
        line_starts = line_starts[line_starts < len(ids)]
        starts[line_starts] = True
        if self._segmenter != "none":
            tokens = np.flatnonzero(self._is_chinese[ids])
            if len(tokens):
                breaks = self._after_blank[ids]
                breaks[line_starts] = True
                self._find_gaps(text, encoded, tokens, breaks)
                starts[tokens] = self._word_starts(ids[tokens], tokens, breaks[tokens])
        return ~starts

    def _word_starts(
        self, ids: np.ndarray, positions: np.ndarray, breaks: np.ndarray
    ) -> np.ndarray:
        """Return for each Chinese token whether a word of the segmenter begins with it.

        The segmenter is given what stands together without a break: no other token, blank or line
        end between.
        """
        if self._cut is None:
            self._cut = segmenter_cut(self._segmenter, self._dictionary)
        pieces = [self._chinese[index] for index in ids.tolist()]
        offsets = np.cumsum([0, *map(len, pieces)])
        text = "".join(pieces)
        runs = breaks.copy()
        runs[0] = True
        runs[1:] |= np.diff(positions) != 1
        begins: np.ndarray = np.zeros(len(text) + 1, dtype=bool)
        limits = [*offsets[:-1][runs].tolist(), len(text)]
        for start, end in zip(limits[:-1], limits[1:], strict=True):
            at = start
            for word in self._cut(text[start:end]):
                begins[at] = True
                at += len(word)
        return begins[offsets[:-1]]

    def _find_gaps(
        self, text: bytes, encoded: "EncodedLines", tokens: np.ndarray, breaks: np.ndarray
    ) -> None:
        """Set ``breaks`` where the text has something between two characters and the ids nothing.

        That is a blank, which WordPiece leaves no trace of. The characters of a line are matched
        to its tokens one by one; a line where they differ in number (one became [UNK] in a longer
        word, say) is left as it is.
        """
        tokens = tokens[self._code[encoded.ids[tokens]] > 0]
        codes = np.frombuffer(text.decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
        found = np.flatnonzero(self._has_piece[np.minimum(codes, _CODE_POINTS - 1)])
        newlines = np.flatnonzero(codes == ord("\n"))
        line_of_found = np.searchsorted(newlines, found)
        line_of_token = np.searchsorted(encoded.ends, tokens, side="right")
        lines = len(encoded.ends)
        same = np.bincount(line_of_found, minlength=lines) == np.bincount(
            line_of_token, minlength=lines
        )
        found, tokens = found[same[line_of_found]], tokens[same[line_of_token]]
        agree = codes[found] == self._code[encoded.ids[tokens]]
        gap = np.diff(found) != 1
        breaks[tokens[1:][gap & agree[1:] & agree[:-1]]] = True


def _chinese_text(piece: Piece | None) -> str:
    """Return the characters of a piece of Chinese alone, or nothing."""
    text = "" if piece is None else piece.text.removeprefix(" ")
    return text if all(map(is_ideograph, text)) else ""
