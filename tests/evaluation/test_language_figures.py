import math

import numpy as np
import pytest
from PIL import Image

from nlpapp.evaluation.language_figures import plot_position_losses, text_figures
from nlpapp.text.language_text import TextCounts


def test_figures_are_literals():
    """Eight tokens of two bits each: sixteen bits for 32 characters, 64 bytes and 4 words."""
    counts = TextCounts(characters=32, bytes=64, words=4)
    found = text_figures(2 * math.log(2), np.arange(8), counts)
    assert found == pytest.approx(
        {
            "predicted_tokens": 8,
            "bits_per_character": 0.5,
            "bits_per_byte": 0.25,
            "word_perplexity": 16,
            "words": 4,
            "characters": 32,
            "bytes": 64,
        }
    )


def test_the_share_of_unknown_words_is_told():
    counts = TextCounts(characters=32, bytes=64, words=4)
    found = text_figures(1.0, np.array([3, 0, 3, 1]), counts, unknown_id=3)
    assert found["unknown_rate"] == 0.5


def test_a_loss_too_large_for_exp_is_an_infinite_perplexity():
    assert text_figures(1000.0, np.zeros(1), TextCounts(1, 1, 1))["word_perplexity"] == math.inf


def test_the_plot_shows_both_curves(tmp_path):
    output = plot_position_losses(
        np.linspace(3, 2, 16), np.linspace(5, 2, 16), tmp_path / "plots" / "loss.png"
    )
    with Image.open(output) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(axis=1).sum() > 100
