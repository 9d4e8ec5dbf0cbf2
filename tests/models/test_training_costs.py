"""The costs told before training are those of `bert_cost` for what will be read."""

import logging

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.models.bert_cost import bert_memory, bert_training_flops
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.training_costs import training_costs


def test_figures_and_log(caplog):
    caplog.set_level(logging.INFO, logger="nlpapp")
    config = bert_config(BertSizeConfig(name="base"), vocab_size=30522)
    with torch.device("meta"):
        bert = BertForPreTraining(config)
    how = {"optimizer": "adamw", "precision": "bf16", "gradient_checkpointing": False}
    read = {"rows": 32, "longest": 128, "sequence_length": 100.0, "prediction_rate": 0.15}
    figures = training_costs(bert, **read, **how, on_cpu=False, sharded=False)
    memory = bert_memory(config, rows=32, sequence_length=128, predictions=19, **how)
    assert figures == {
        "parameters": 110106428.0,  # BertForPreTraining of bert-base-uncased, tied weights once
        "flops_per_token": bert_training_flops(config, sequence_length=100.0, predictions=15.0),
        "memory_estimate_bytes": float(memory.total),
    }
    assert figures["flops_per_token"] == pytest.approx(6 * 89e6, rel=0.1)
    assert "110.11 M parameters" in caplog.text
    assert "32 sequences of 128 tokens" in caplog.text
    assert "memory of a process: about" in caplog.text
    training_costs(bert, **read, **how, on_cpu=False, sharded=True)
    assert "memory of a process before sharding: about" in caplog.text
    on_cpu = training_costs(bert, **read, **how, on_cpu=True, sharded=False)
    # With attention dropout it keeps scores: 12 heads, 128 x 128 of them, in 11 layers and more.
    more = on_cpu["memory_estimate_bytes"] - figures["memory_estimate_bytes"]
    assert more == pytest.approx(32 * 12 * 128 * 128 * 9 * (11 + 20 / 128))
