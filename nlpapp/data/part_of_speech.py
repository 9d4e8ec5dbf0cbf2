"""Words of a text and their parts of speech, and words drawn by their part of speech.

Taggers, each a package that is imported when it is asked for:
    hanta: HanTa, English, brings its model;
    jieba: jieba.posseg, Chinese, brings its dictionary, and cuts Chinese into words;
    spacy:<model>: a pipeline of spaCy that the user has, with its words.
"""

import functools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from nlpapp.errors import ConfigError, nearest

TAGGERS = ("hanta", "jieba", "spacy:<model>")
IDEOGRAPHS = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+")
OPENING, CLOSING = '"([{“‘', '.,;:!?…)]}"”'
"""Punctuation that text without blanks before it leaves on a word. No apostrophes: 's is a word."""

OTHER = "X"
"""The part of speech of a word that is none of the others, as universal tags call it."""

Tagger = Callable[[str], tuple[list[str], list[str]]]
"""A text to its words, none with white space in it, and the part of speech of each."""


def split_words(text: str) -> list[str]:
    """Return what stands between white space; each ideograph of unspaced scripts is a word."""
    return WORD.findall(text)


def core(word: str) -> tuple[str, str, str]:
    """Return the punctuation before a word, the word, and the punctuation after it.

    What is nothing but punctuation is a word itself.
    """
    start = len(word) - len(word.lstrip(OPENING))
    end = len(word.rstrip(CLOSING))
    return (word[:start], word[start:end], word[end:]) if start < end else ("", word, "")


def check_tagger(name: str) -> None:
    """Raise ConfigError unless there is a tagger ``name`` on this machine."""
    if name == "hanta":
        _import("HanTa.HanoverTagger", "pip install nlpapp[pos]")
    elif name == "jieba":
        _import("jieba.posseg", "pip install nlpapp[zh]")
    elif name.startswith("spacy:"):
        spacy = _import("spacy", "pip install spacy")
        model = name.removeprefix("spacy:")
        if not spacy.util.is_package(model) and not Path(model).is_dir():
            raise ConfigError(
                f"tagger: spaCy's pipeline '{model}' is neither installed nor a folder: "
                f"`python -m spacy download {model}`."
            )
    else:
        raise ConfigError(
            f"tagger '{name}' is unknown; expected {', '.join(TAGGERS)}.{nearest(name, TAGGERS)}"
        )


@functools.lru_cache(maxsize=1)
def load_tagger(name: str) -> Tagger:
    """Return the tagger ``name``; a process loads it once.

    Raises:
        ConfigError: as `check_tagger`; when it is used, if it tells no parts of speech.
    """
    check_tagger(name)
    if name == "hanta":
        return _hanta()
    return _jieba() if name == "jieba" else _spacy(name.removeprefix("spacy:"))


def _hanta() -> Tagger:
    from HanTa import HanoverTagger

    # The model is a pickle: by its full path, since a bare name is looked for in the working folder
    # first.
    model = Path(HanoverTagger.__file__).with_name("morphmodel_en.pgz")
    tagger = HanoverTagger.HanoverTagger(str(model))

    def tag(text: str) -> tuple[list[str], list[str]]:
        words = split_words(text)
        return words, tagger.tag_sent([core(word)[1] for word in words], taglevel=0)

    return tag


def _jieba() -> Tagger:
    import jieba
    import jieba.posseg

    words = jieba.Tokenizer()
    # What initialize() does, but for its cache: a file in the common temporary folder, which
    # anybody may have written and which is read with marshal.
    words.FREQ, words.total = words.gen_pfdict(words.get_dict_file())
    words.initialized = True
    tagger = jieba.posseg.POSTokenizer(words)

    def tag(text: str) -> tuple[list[str], list[str]]:
        pairs = [pair for pair in tagger.cut(text) if pair.word.strip()]
        return [pair.word for pair in pairs], [pair.flag for pair in pairs]

    return tag


def _spacy(model: str) -> Tagger:
    import spacy

    pipeline = spacy.load(model, exclude=["ner", "lemmatizer"])

    def tag(text: str) -> tuple[list[str], list[str]]:
        tokens = [token for token in pipeline(text) if not token.is_space]
        # The fine tags tell "film" from "films"; a pipeline without them has the coarse ones.
        tags = [token.tag_ or token.pos_ for token in tokens]
        if tokens and not any(tags):
            raise ConfigError(
                f"tagger: spaCy's pipeline '{model}' gives no parts of speech; take one with a "
                "tagger, such as en_core_web_sm."
            )
        return [token.text for token in tokens], [tag or OTHER for tag in tags]

    return tag


def _import(module: str, install: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(
            f"tagger: {package} is not installed: `{install}`. Without a tagger, leave tagger and "
            "p_pos out; masking and n-grams need none."
        ) from None


class UnigramsByTag:
    """The words of a corpus by their part of speech, each as likely as it is frequent there."""

    def __init__(self, counts: Counter[tuple[str, str]]) -> None:
        """Take how often each (part of speech, word) is in the corpus."""
        self._words: dict[str, list[str]] = {}
        frequencies: dict[str, list[int]] = {}
        for (tag, word), count in sorted(counts.items()):
            self._words.setdefault(tag, []).append(word)
            frequencies.setdefault(tag, []).append(count)
        self._cumulative = {tag: list(accumulate(found)) for tag, found in frequencies.items()}

    def draw(self, tag: str, uniform: float) -> str:
        """Return a word of ``tag``, chosen by ``uniform``, a number from 0 to below 1."""
        cumulative = self._cumulative[tag]
        return self._words[tag][bisect_right(cumulative, uniform * cumulative[-1])]
