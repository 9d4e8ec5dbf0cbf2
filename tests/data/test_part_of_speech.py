import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from nlpapp.data.part_of_speech import (
    UnigramsByTag,
    check_tagger,
    core,
    load_tagger,
    split_words,
)
from nlpapp.errors import ConfigError


def test_ideographs_are_words():
    assert split_words("很好 film的 !") == ["很", "好", "film", "的", "!"]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("film", ("", "film", "")),
        ("film.", ("", "film", ".")),
        ('("film"),', ('("', "film", '"),')),
        ("'s", ("", "'s", "")),
        ("...", ("", "...", "")),
    ],
)
def test_punctuation_stands_beside_the_core_of_a_word(word, parts):
    assert core(word) == parts


def test_words_are_drawn_by_their_frequency_among_those_of_their_tag():
    unigrams = UnigramsByTag(Counter({("N", "cat"): 1, ("N", "dog"): 3, ("V", "runs"): 9}))
    drawn = [unigrams.draw("N", number / 400) for number in range(400)]
    assert Counter(drawn) == {"cat": 100, "dog": 300}
    assert unigrams.draw("V", 0.999999) == "runs"


def test_hanta_tags_words_without_the_punctuation_on_them():
    pytest.importorskip("HanTa")
    tag = load_tagger("hanta")
    words, tags = tag("The quick  cats, and she runs.")
    assert words == ["The", "quick", "cats,", "and", "she", "runs."]
    # The tags of the British National Corpus.
    assert tags == ["AT0", "AJ0", "NN2", "CJC", "PNP", "VVZ"]
    assert tag("") == ([], [])


def test_jieba_cuts_chinese_into_its_own_words():
    pytest.importorskip("jieba")
    words, tags = load_tagger("jieba")("我爱北京天安门。 很 好看")
    assert words == ["我", "爱", "北京", "天安门", "。", "很", "好看"]
    assert tags[:5] == ["r", "v", "ns", "ns", "x"]


def test_spacy_gives_its_fine_tags_or_else_the_coarse_ones(monkeypatch):
    def token(text, tag_, is_space=False):
        return SimpleNamespace(text=text, tag_=tag_, pos_="NOUN", is_space=is_space)

    loaded = []

    def load(model, exclude):
        loaded.append(model)
        return lambda text: [token("a", "DT"), token("\n", "_SP", True), token("film", "")]

    spacy = SimpleNamespace(load=load, util=SimpleNamespace(is_package=lambda name: name == "en"))
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    assert load_tagger("spacy:en")("a\nfilm") == (["a", "film"], ["DT", "NOUN"])
    assert loaded == ["en"]
    load_tagger.cache_clear()
    untagged = [SimpleNamespace(text=word, tag_="", pos_="", is_space=False) for word in "ab"]
    monkeypatch.setattr(spacy, "load", lambda model, exclude: lambda text: untagged)
    with pytest.raises(ConfigError, match="pipeline 'en' gives no parts of speech"):
        load_tagger("spacy:en")("a b")
    untagged[0].pos_ = "DET"
    assert load_tagger("spacy:en")("a b")[1] == ["DET", "X"]
    with pytest.raises(ConfigError, match="pipeline 'de' is neither installed nor a folder"):
        check_tagger("spacy:de")
    load_tagger.cache_clear()


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("hanta", "HanTa.HanoverTagger", "pip install nlpapp[pos]"),
        ("jieba", "jieba.posseg", "pip install nlpapp[zh]"),
        ("spacy:en_core_web_sm", "spacy", "pip install spacy"),
    ],
)
def test_a_missing_tagger_says_what_to_install(name, module, install, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=re.escape(install)):
        check_tagger(name)


def test_an_unknown_tagger_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"tagger 'hantaa' is unknown; .* 'hanta'"):
        check_tagger("hantaa")
