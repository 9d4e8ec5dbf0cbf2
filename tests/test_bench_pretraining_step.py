"""The benchmark of fit(): who goes first changes, and the spread stands beside the median."""

import pytest

from benchmarks import pretraining_step


def test_the_order_alternates_and_the_spread_is_told(monkeypatch):
    monkeypatch.setattr(pretraining_step, "VOCABULARY", 1100)
    monkeypatch.setitem(pretraining_step.SIZES, "tiny", (1, 16, 2))
    real_fit, real_timed, order = pretraining_step.fit, pretraining_step.timed, []
    looped = iter([9.0, 1.1, 1.3, 0.9, 1.2])  # The first turn warms up.

    def fit(**options):
        order.append("fit")
        metrics = real_fit(**options)
        return metrics | {"tokens": 10 * next(looped), "tokens_per_second": 10.0}

    def timed(side, batches, *, clip):
        order.append("bare")
        real_timed(side, batches, clip=clip)
        return 1.0, 1.0, []

    monkeypatch.setattr(pretraining_step, "fit", fit)
    monkeypatch.setattr(pretraining_step, "timed", timed)
    found = pretraining_step.loop_overhead("tiny", turns=3, steps=2)
    turns = list(zip(order[::2], order[1::2], strict=True))
    assert turns == [("fit", "bare"), ("bare", "fit")] * 2 + [("fit", "bare")]
    assert found["loop_overhead"] == pytest.approx(0.15)
    assert found["loop_overhead_spread"] == pytest.approx([-0.1, 0.3])
