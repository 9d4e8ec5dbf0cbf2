import numpy as np
import onnxruntime
import pytest
import torch

from nlpapp.deployment.parity import random_memory_feeds
from nlpapp.deployment.tracing import Traceable, write_onnx
from nlpapp.deployment.transformer_xl_graph import (
    TransformerXLStep,
    memory_names,
    model_compute,
    step_axes,
)
from tests.deployment.models import build_language_model

CASES = {
    "plain": {},
    "adaptive": {"cutoffs": [20, 50], "div_val": 2, "clamp_len": 5},
    "untied": {"cutoffs": [20], "tie_word_embeddings": False},
    "pre_norm": {"pre_norm": True},
    "no_memory": {"mem_len": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_computes_what_the_model_does_at_every_length_of_memory(case, tmp_path):
    model = build_language_model(**CASES[case])
    mem_len = model.config.mem_len
    before, after = memory_names(2)

    def feeds(seed, number):
        options = {"mem_len": mem_len, "max_seq_length": 12, "batches": number}
        return list(random_memory_feeds(model.config, seed=seed, **options))

    step = TransformerXLStep(model, mem_len)
    source = Traceable(
        module=step,
        inputs=["input_ids", *before],
        outputs=["logits", *after],
        axes=step_axes(2),
        example=feeds(0, 4)[-1],
    )
    write_onnx(source, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    reference = model_compute(model, mem_len)
    for feed in feeds(3, 25):
        expected = reference(feed)
        for found in (session.run(None, feed), source.compute(feed)):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)


@torch.inference_mode()
def test_segments_with_memory_equal_the_models_own_reading():
    model = build_language_model()
    ids = torch.arange(1, 13)[None]
    step, memory = TransformerXLStep(model, 7), [torch.zeros(1, 0, 16)] * 2
    own = None
    for start in range(0, 12, 4):
        logits, *memory = step(ids[:, start : start + 4], *memory)
        expected = model(ids[:, start : start + 4], memory=own, mem_len=7)
        own = expected.memory
        torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
