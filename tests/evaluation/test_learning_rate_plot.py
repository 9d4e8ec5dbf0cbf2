from types import SimpleNamespace

import numpy as np
from PIL import Image

from nlpapp.evaluation.learning_rate_plot import plot_learning_rates


def test_the_plot_shows_both_curves_and_the_suggestion(tmp_path):
    rates = np.geomspace(1e-6, 1, 30)
    losses = 1 + np.cos(np.linspace(0, 6, 30))
    search = SimpleNamespace(rates=rates, losses=losses, smoothed=losses, suggestion=1e-3)
    path = plot_learning_rates(search, tmp_path / "plots" / "rate.png")
    with Image.open(path) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(100_000)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # the curve, and the line
