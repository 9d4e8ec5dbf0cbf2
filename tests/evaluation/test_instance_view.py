"""Instances as text: words put together, masks in sight, lines of a width, nothing but text."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from nlpapp.evaluation.instance_view import InstanceView, format_instance


def view(text, hidden=None, label=None, **fields):
    tokens = text.split()
    hidden = hidden or {}
    fields = {"length": len(tokens)} | fields
    return InstanceView(tokens, list(hidden), list(hidden.values()), label, **fields)


def test_masks_words_segments_and_label_are_in_sight():
    shown = view(
        "[CLS] the un ##afford ##able dog [MASK] car in [SEP] it rained . [SEP]",
        {6: "walked", 7: "home", 11: "rained"},
        "B is random",
    )
    assert format_instance(shown) == (
        "A  [CLS] the unaffordable dog [MASK: walked] {car -> home} in [SEP]\n"
        "B  it {kept: rained} . [SEP]\n"
        "= B is random, 14 tokens, 3 to predict (1 masked, 1 random, 1 kept)"
    )


def test_one_segment_has_no_name_and_dynamic_masks_no_numbers():
    assert format_instance(view("[CLS] a b [SEP]")) == "[CLS] a b [SEP]\n= 4 tokens"


def test_pieces_of_one_word_stay_together_around_masks():
    shown = view(
        "[CLS] un [MASK] ##able [MASK] [MASK] x [SEP]", {2: "##afford", 4: "walk", 5: "##ed"}
    )
    assert format_instance(shown).startswith("[CLS] un[MASK: afford]able [MASK: walk][MASK: ed] x ")


def test_padding_is_left_out():
    shown = view("[CLS] a [SEP] [PAD] [PAD]", length=3)
    assert format_instance(shown) == "[CLS] a [SEP]\n= 3 tokens"


def test_a_hidden_separator_or_an_ordinary_last_word_ends_no_segment():
    assert format_instance(view("a . b .")) == "a . b .\n= 4 tokens"
    shown = view("[CLS] a [SEP] b [SEP]", {2: "x"})
    assert format_instance(shown).splitlines()[0] == "[CLS] a {[SEP] -> x} b [SEP]"


def test_two_separators_in_a_row_part_two_segments():
    shown = view("<s> Hi \u0120you </s> </s> \u0120me </s>", {2: "\u0120you"}, mask_token="<mask>")
    assert format_instance(shown).splitlines()[:2] == [
        "A  <s> Hi {kept: you} </s>",
        "B  </s> me </s>",
    ]


def test_sentencepiece_words_begin_with_a_bar():
    shown = view("<s> \u2581walk ing \u2581<mask> </s>".replace("\u2581<", "<"), {3: "\u2581home"})
    shown = InstanceView(shown.tokens, [3], ["\u2581home"], None, 5, mask_token="<mask>")
    assert format_instance(shown).splitlines()[0] == "<s> walking [MASK: home] </s>"


@pytest.mark.parametrize(
    "text", ["caf\u00e9 \U0001f600 na\u00efve \u6211\u4eec", "a \u00a1b\u00ad c"]
)
def test_byte_level_pieces_become_the_text_again(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["abc"], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet)
    )
    pieces = tokenizer.encode(text).tokens
    assert len(pieces) > len(text)  # Every character but ASCII is spread over several pieces.
    shown = format_instance(InstanceView(pieces, [], [], None, len(pieces)))
    assert shown.splitlines()[0] == text.replace("\u00ad", "\ufffd")


def test_chinese_has_no_blanks_and_korean_keeps_them():
    shown = view("[CLS] \u6211 \u4eec \u3002 ok \ud55c\uad6d \uc5b4 [SEP]")
    expected = "[CLS] \u6211\u4eec\u3002 ok \ud55c\uad6d \uc5b4 [SEP]"
    assert format_instance(shown).splitlines()[0] == expected


def test_lines_keep_to_the_width_and_lose_nothing():
    words = [f"word{number}" for number in range(60)]
    lines = format_instance(view(" ".join(words)), width=31).splitlines()[:-1]
    assert max(map(len, lines)) <= 31
    assert " ".join(lines).split() == words
    for line, following in zip(lines, lines[1:], strict=False):
        assert len(f"{line} {following.split()[0]}") > 31
    chinese = format_instance(view(" ".join("\u6211" * 126)), width=20).splitlines()[:-1]
    assert [len(line) for line in chinese] == [10] * 12 + [6]


def test_a_mask_is_never_broken_and_a_long_word_has_its_own_line():
    shown = view("a [MASK] b", {1: "x" * 50})
    assert format_instance(shown, width=20).splitlines()[:-1] == ["a", f"[MASK: {'x' * 50}]", "b"]


def test_continued_lines_are_set_in():
    lines = format_instance(view("[CLS] aaaa bbbb [SEP] c [SEP]"), width=14).splitlines()
    assert lines[:3] == ["A  [CLS] aaaa", "   bbbb [SEP]", "B  c [SEP]"]


@pytest.mark.parametrize("bad", ["\x1b", "\u202e", "\x07", "\u0085"])
def test_what_steers_a_terminal_is_not_printed(bad):
    shown = format_instance(InstanceView([f"a{bad}b", "[MASK]"], [1], [f"{bad}c"], None, 2))
    assert bad not in shown
    assert shown.splitlines()[0] == "a\ufffdb [MASK: \ufffdc]"


@pytest.mark.parametrize("tokens", [[], ["##"], ["\u2581"], ["\u0120"], [""]])
def test_odd_pieces_do_not_fail(tokens):
    shown = format_instance(InstanceView(tokens, [], [], None, len(tokens)))
    assert shown.splitlines()[-1] == f"= {len(tokens)} tokens"
