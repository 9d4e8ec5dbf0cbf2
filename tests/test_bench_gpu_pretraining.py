"""The benchmark for GPUs runs from end to end where there is none."""

import json

import pytest
import torch

from benchmarks import gpu_pretraining


@pytest.mark.parametrize("shortest", ["1", "0.25"])
def test_every_line_has_its_figures(capsys, monkeypatch, shortest):
    monkeypatch.setattr(gpu_pretraining, "matmul_peak", lambda device, dtype: 1e12)
    monkeypatch.setattr(gpu_pretraining, "VOCABULARY", 1100)
    monkeypatch.setitem(gpu_pretraining.SIZES, "tiny", (1, 16, 2))
    options = ["--device", "cpu", "--sizes", "tiny", "--lengths", "16", "--rows", "4"]
    gpu_pretraining.main([*options, "--steps", "2", "--no-compile", "--shortest", shortest])
    machine, mine, other, ratio = map(json.loads, capsys.readouterr().out.splitlines())
    assert machine["device"] == "cpu" and machine["bf16_peak_teraflops"] == 1.0
    assert (mine["side"], other["side"]) == gpu_pretraining.SIDES
    for figures in (mine, other):
        assert figures["rows"] == 4 and figures["sequences_per_second"] > 0
        assert 0 < figures["model_flops_utilization"] < 1
    full = mine["tokens_per_row"] == 16
    assert full == (shortest == "1") and 4 <= other["tokens_per_row"] <= 16
    speeds = ratio["best_sequences_per_second"]
    assert ratio["speed_ratio"] == pytest.approx(
        speeds["nlpapp"] / speeds["transformers"], abs=0.01
    )


def test_both_sides_have_the_same_loss():
    config = gpu_pretraining.bert_config(
        gpu_pretraining.BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, dropout=0),
        vocab_size=gpu_pretraining.VOCABULARY,
    )
    batch = gpu_pretraining.make_batch(4, 16, 0.25, "cpu")
    losses = []
    for side in gpu_pretraining.SIDES:
        torch.manual_seed(0)
        bert = gpu_pretraining.BertForPreTraining(config)
        losses.append(gpu_pretraining.make_loss(side, bert, compiled=False)(batch))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-6)


def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA GPU here; --device cpu"):
        gpu_pretraining.main([])
