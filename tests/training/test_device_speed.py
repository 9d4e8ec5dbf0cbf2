import torch

from nlpapp.training import device_speed


def test_the_peak_is_that_of_the_fastest_try(monkeypatch):
    tries = iter([9.0, 0.5, 0.25])
    clock = iter([0.0, 0.1])

    def seconds(left, right, product):
        torch.mm(left, right, out=product)
        return next(tries)

    monkeypatch.setattr(device_speed, "CPU_SIZE", 16)
    monkeypatch.setattr(device_speed, "_seconds", seconds)
    monkeypatch.setattr(device_speed.time, "perf_counter", lambda: next(clock, 9.9))
    # The first try, 9 s, warms up; 2 * 16^3 FLOPs then take 0.25 s at best.
    assert device_speed.matmul_peak("cpu", torch.float32) == 2 * 16**3 / 0.25


def test_a_real_measurement_is_positive_for_every_precision(monkeypatch):
    monkeypatch.setattr(device_speed, "CPU_SIZE", 32)
    monkeypatch.setattr(device_speed, "SECONDS", 0.0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        peak = device_speed.matmul_peak(torch.device("cpu"), dtype)
        assert 0 < peak < float("inf")
