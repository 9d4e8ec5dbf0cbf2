"""A small Transformer-XL whose memory matters, and a text for it."""

import numpy as np
import pytest
import torch

from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

VOCAB = 20


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        mem_len=8,
    )
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def token_ids():
    return np.random.default_rng(0).integers(0, VOCAB, 120).astype(np.uint8)
