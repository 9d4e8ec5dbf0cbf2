import math

import numpy as np
import pytest

from nlpapp.errors import ConfigError
from nlpapp.evaluation import effective_context
from nlpapp.evaluation.context_windows import window_losses
from nlpapp.evaluation.effective_context import (
    context_losses,
    measure_effective_context,
    plot_context_losses,
    relative_effective_context_length,
    relative_gain,
)


def test_losses_by_length_of_context_are_of_the_same_tokens(model, token_ids):
    found = context_losses(model, token_ids, lengths=[4, 8], num_targets=3)
    assert found.shape == (2, 3)
    for row, length in zip(found, (4, 8), strict=True):
        targets = np.array([8, 63, 119])
        expected = window_losses(model, token_ids, targets, window=length, batch_size=1)
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_a_text_too_short_is_named(model, token_ids):
    with pytest.raises(ConfigError, match="too few for a context of 200"):
        context_losses(model, token_ids, lengths=[100, 200], num_targets=3)


# Two models, two contexts, two tokens. The baseline of the short context is (2, 1).
LOSSES = np.array([[[2.0, 3.0], [1.0, 2.0]], [[4.0, 1.0], [3.0, 0.5]]])


@pytest.mark.parametrize(
    ("model_index", "ratio", "short", "long"),
    [
        (0, 1.0, (2 + 1) / 2, (1 + 1) / 2),
        (1, 1.0, (2 + 1) / 2, (2 + 0.5) / 2),
        (0, 0.5, 2, 1),  # the hardest half: the first token
        (1, 0.5, 2, 2),  # better with the longer context, but no better than model 0 without it
    ],
)
def test_relative_gain_is_the_papers(model_index, ratio, short, long):
    expected = (math.exp(short) - math.exp(long)) / math.exp(short)
    assert relative_gain(LOSSES, model_index, 0, 1, ratio=ratio) == pytest.approx(expected)


def test_the_effective_length_is_where_gains_end():
    steps = np.array([3.0, 2.5, 2.2, 2.195, 1.0])  # the third step gains half a percent
    losses = np.repeat(steps[None, :, None], 4, axis=2)
    lengths = [10, 20, 30, 40, 50]
    assert relative_effective_context_length(losses, lengths, 0) == 30
    assert relative_effective_context_length(losses, lengths, 0, threshold=0.001) == 50
    assert relative_effective_context_length(losses, lengths, 0, threshold=0.9) == 10


def test_losses_beyond_exp_have_a_gain():
    losses = np.array([[[2000.0], [1999.0]]])
    assert relative_gain(losses, 0, 0, 1) == pytest.approx(1 - math.exp(-1))


def test_what_a_better_model_knows_without_context_counts_no_longer(tmp_path, monkeypatch):
    """The models are their own losses: one learns from each step of context, one from none."""
    drawn = []
    monkeypatch.setattr(effective_context, "context_losses", lambda model, *_, **__: model)
    monkeypatch.setattr(
        effective_context, "plot_context_losses", lambda *inputs: drawn.append(inputs)
    )
    learns = np.repeat(np.array([[3.0], [2.0], [1.5]]), 4, axis=1)
    knows = np.full((3, 4), 1.0)
    ids, options = np.zeros(1), {"lengths": range(10, 31, 10), "num_targets": 4, "plot": tmp_path}
    names = [f"effective_context_{share}_percent" for share in (10, 50, 100)]
    alone = measure_effective_context([learns], ["a"], ids, **options)
    assert alone == dict.fromkeys(names, 30)
    pair = measure_effective_context([learns, knows], ["a", "b"], ids, **options)
    assert pair == dict.fromkeys([*names, *(f"compared_1_{name}" for name in names)], 10)
    assert drawn[0][2] == ["a: 30, 30, 30"] and drawn[1][2] == ["a: 10, 10, 10", "b: 10, 10, 10"]


def test_every_model_is_drawn(tmp_path):
    labels = [f"model {index}: 10, 20, 20" for index in range(10)]  # more than there are colours
    losses = np.random.default_rng(0).random((10, 2, 3))
    one, all_ten = (
        plot_context_losses(losses[:number], [10, 20], labels[:number], tmp_path / f"{number}.png")
        for number in (1, 10)
    )
    assert one.stat().st_size > 5000
    assert all_ten.stat().st_size > one.stat().st_size + 5000
