"""The pieces of a vocabulary as text: what a piece spells, and whether a word begins with it."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


class Piece(NamedTuple):
    """A piece of a vocabulary."""

    text: str
    """What it spells, with the blank before it as a blank; of bytes that are no whole character,
    U+FFFD."""
    opens: bool
    """Whether it begins a word, as far as the tokenizer says."""


def read_pieces(tokenizer: "PreTrainedTokenizerBase") -> list[Piece | None] | None:
    """Return the pieces by id (None where there is none), or None if they do not tell words."""
    reader = _piece_reader(getattr(tokenizer, "backend_tokenizer", None))
    if reader is None:
        return None
    vocabulary = tokenizer.get_vocab()
    size = max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
    pieces: list[Piece | None] = [None] * size
    for piece, index in vocabulary.items():
        pieces[index] = reader(piece)
    return pieces


def line_starts_are_marked(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Say whether the first piece of every line is one that begins a word."""
    engine: Tokenizer = tokenizer.backend_tokenizer
    parts = list(_parts(engine.pre_tokenizer))
    blanks = [part for part in parts if part["type"] in ("Metaspace", "ByteLevel")]
    if not blanks:
        return type(engine.model).__name__ in ("WordPiece", "WordLevel")
    return all(
        part.get("prepend_scheme") == "always" or part.get("add_prefix_space") is True
        for part in blanks
    )


def _piece_reader(engine: "Tokenizer | None") -> Callable[[str], Piece] | None:
    if engine is None:
        return None
    model = engine.model
    kind = type(model).__name__
    if kind == "WordPiece":
        prefix = model.continuing_subword_prefix
        return _continuing_pieces(prefix) if prefix else None
    if kind == "WordLevel":
        return lambda piece: Piece(piece, opens=True)
    if getattr(model, "end_of_word_suffix", None):
        return None
    parts = {part["type"]: part for part in _parts(engine.pre_tokenizer)}
    if "ByteLevel" in parts:
        return _byte_piece
    if "Metaspace" in parts:
        return _blank_pieces(parts["Metaspace"]["replacement"])
    for part in _parts(engine.normalizer):
        # SentencePiece without a pre-tokenizer, as in Llama.
        if part["type"] == "Replace" and part["pattern"] == {"String": " "}:
            return _blank_pieces(part["content"])
    return None


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of the parts of a pre-tokenizer or normalizer, as in tokenizer.json."""
    if part is not None:
        yield from _flat(json.loads(part.__getstate__()))


def _flat(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if state["type"] != "Sequence":
        yield state
        return
    for part in state.get("pretokenizers", state.get("normalizers", ())):
        yield from _flat(part)


def _continuing_pieces(prefix: str) -> Callable[[str], Piece]:
    def read(piece: str) -> Piece:
        opens = not piece.startswith(prefix) or piece == prefix
        return Piece(piece if opens else piece.removeprefix(prefix), opens)

    return read


def _blank_pieces(mark: str) -> Callable[[str], Piece]:
    def read(piece: str) -> Piece:
        text = piece.replace(mark, " ")
        return Piece(text, opens=text[:1].isspace())

    return read


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each letter of GPT-2's alphabet stands for.

    Visible Latin-1 characters stand for themselves, the other bytes, in order, are written as the
    characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    letters = {chr(byte): byte for byte in visible}
    return letters | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_piece(piece: str) -> Piece:
    if not all(letter in _BYTE_OF for letter in piece):
        return Piece(piece, opens=True)  # An added token, which is written as it is.
    raw = bytes(_BYTE_OF[letter] for letter in piece)
    text = raw.decode("utf-8", errors="replace")
    # The first bytes of a Chinese character begin a word, its last bytes go on with it.
    return Piece(text, opens=text[:1].isspace() or 0xE4 <= raw[0] <= 0xE9 if raw else True)
