"""The benchmark for GPUs runs from end to end where there is none."""

import json

import pytest
import torch

from benchmarks import gpu_transformer_xl
from benchmarks.transformer_xl import Ours, Size


class Slower(Ours):
    """Stands for the authors' code, which is not here; in bf16 it fails, as theirs may."""

    def loss(self, ids):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("expected scalar type Float\nand more")
        return super().loss(ids) + super().loss(ids)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    size = Size(1, 8, 2, width=20, heads=2, inner=16, vocabulary=50, cutoffs=(10, 20))
    monkeypatch.setattr(gpu_transformer_xl, "WIKITEXT_103", size)
    monkeypatch.setattr(gpu_transformer_xl, "Theirs", Slower)


def lines(capsys, *options):
    gpu_transformer_xl.main(["--device", "cpu", "--no-compile", "--steps", "2", *options])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_line_has_its_figures(capsys):
    machine, ours, plain, failed, ratio = lines(capsys, "--original", "folder", "--lanes", "3")
    assert machine["device"] == "cpu" and machine["published"] == 59961
    assert ours["side"] == "nlpapp" and ours["precision"] == "bf16" and ours["parameters"] > 50 * 20
    assert failed["failed"] == "expected scalar type Float"
    speeds = {line["side"]: line["tokens_per_second"] for line in (ours, plain)}
    assert ratio["best_tokens_per_second"] == speeds and min(speeds.values()) > 0
    assert ratio["speed_ratio"] == pytest.approx(speeds["nlpapp"] / speeds["original"], abs=0.01)


def test_without_the_authors_code_nlpapp_is_measured_alone(capsys):
    assert [line.get("side") for line in lines(capsys)] == [None, "nlpapp"]


def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA GPU here; --device cpu"):
        gpu_transformer_xl.main([])
