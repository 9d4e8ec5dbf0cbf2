import pytest

from nlpapp.text.prose import prose_sentences, reads_like_english, strip_markup, tidy

DOCSTRING = """open(name, mode='r') -> file object

Open a file and return it, whatever the
platform says. Raise an `OSError` otherwise:

    >>> open("x")
    <file x>

See this example::

    for line in open("x"):
        print(line)

The rest is prose again.

Options
=======

======  =======
mode    meaning
======  =======

- the first item is a sentence as well.
- The second item goes on
  over two lines.

:param name: The path of the file to open.
"""


def test_only_prose_is_left():
    assert prose_sentences(DOCSTRING) == [
        "Open a file and return it, whatever the platform says.",
        "Raise an OSError otherwise.",
        "See this example.",
        "The rest is prose again.",
        "the first item is a sentence as well.",
        "The second item goes on over two lines.",
        "The path of the file to open.",
    ]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("the ``with`` statement", "the with statement"),
        ("the *first* and the **second** one", "the first and the second one"),
        ("see :func:`~os.path.join` and :class:`the list <list>`", "see os.path.join and the list"),
        ("see `the page <https://example.org>`_ [1]_", "see the page"),
        ("two * three * four", "two * three * four"),
        ("*args and **kwargs", "*args and **kwargs"),
    ],
)
def test_markup_is_stripped(marked, plain):
    assert strip_markup(marked) == plain


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Return the number of items in it.", True),
        ("Call close() and then open() again.", True),
        ("Too short.", False),
        ("x = [i for i in range(10)]; y = x[0]", False),
        ("S.find(sub[, start[, end]])", False),
        ("ALL OF THIS IS SHOUTED", False),
        ("word " * 80, False),
        ("", False),
    ],
)
def test_english_is_told_from_code(sentence, expected):
    assert reads_like_english(sentence) is expected


def test_sentences_end_with_a_stop():
    assert [tidy(s) for s in ("As follows:", "No stop", "Fine!", "(All.)")] == [
        "As follows.",
        "No stop.",
        "Fine!",
        "(All.)",
    ]
