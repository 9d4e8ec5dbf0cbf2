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
    machine, *ways, ratio = map(json.loads, capsys.readouterr().out.splitlines())
    assert machine["device"] == "cpu" and machine["bf16_peak_teraflops"] == 1.0
    assert [(way["side"], way["unpad"]) for way in ways] == [
        ("nlpapp", True), ("nlpapp", False), ("transformers", False)
    ]  # fmt: skip
    for figures in ways:
        assert figures["rows"] == 4 and figures["sequences_per_second"] > 0
        assert 0 < figures["model_flops_utilization"] < 1
        assert (figures["tokens_per_row"] == 16) == (shortest == "1")
    unpadded, padded, other = (way["sequences_per_second"] for way in ways)
    speeds = ratio["best_sequences_per_second"]
    assert speeds == {"nlpapp": max(unpadded, padded), "transformers": other}
    assert ratio["speed_ratio"] == pytest.approx(
        speeds["nlpapp"] / speeds["transformers"], abs=0.01
    )


def test_all_ways_have_the_same_loss():
    config = gpu_pretraining.bert_config(
        gpu_pretraining.BertSizeConfig(num_layers=1, hidden_size=16, num_heads=2, dropout=0),
        vocab_size=gpu_pretraining.VOCABULARY,
    )
    batch = gpu_pretraining.make_batch(4, 16, 0.25, "cpu")
    losses = []
    for side, unpad in gpu_pretraining.WAYS:
        torch.manual_seed(0)
        bert = gpu_pretraining.BertForPreTraining(config)
        loss_of = gpu_pretraining.make_loss(side, bert, unpad=unpad, compiled=False)
        losses.append(loss_of(batch))
    for loss in losses[1:]:
        torch.testing.assert_close(losses[0], loss, atol=1e-5, rtol=1e-6)


def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA GPU here; --device cpu"):
        gpu_pretraining.main([])
