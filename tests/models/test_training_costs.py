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
    figures = training_costs(
        bert, rows=32, longest=128, sequence_length=100.0, prediction_rate=0.15, **how
    )
    memory = bert_memory(config, rows=32, sequence_length=128, predictions=19, **how)
    assert figures == {
        "parameters": 110106428.0,  # BertForPreTraining of bert-base-uncased, tied weights once
        "flops_per_token": bert_training_flops(config, sequence_length=100.0, predictions=15.0),
        "memory_estimate_bytes": float(memory.total),
    }
    assert figures["flops_per_token"] == pytest.approx(6 * 89e6, rel=0.1)
    assert "110.11 M parameters" in caplog.text
    assert "32 sequences of 128 tokens" in caplog.text
