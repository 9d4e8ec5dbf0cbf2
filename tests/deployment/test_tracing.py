import numpy as np
import pytest
import torch
from transformers import AutoModel

from nlpapp.deployment.parity import random_feeds
from nlpapp.deployment.tracing import (
    LayersModule,
    LogitsModule,
    Traceable,
    eager_attention,
    input_names,
    program_compute,
    text_axes,
    write_program,
)
from tests.deployment.models import build_encoder, build_model


def test_axes_name_what_is_free():
    assert text_axes(["input_ids", "input_ids_b"], ["logits", "layer_2"]) == {
        "input_ids": {0: "batch", 1: "length"},
        "input_ids_b": {0: "batch", 1: "length_b"},
        "logits": {0: "batch"},
        "layer_2": {0: "batch", 1: "length"},
    }


@torch.inference_mode()
def test_layers_are_those_of_transformers():
    model = build_encoder("bert")
    ids, mask = torch.arange(5, 11).view(2, 3), torch.ones(2, 3, dtype=torch.long)
    expected = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    names = ["input_ids", "attention_mask"]
    found = LayersModule(model, names, [0, 1, 2])(ids, mask)
    for one, other in zip(found, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other)
    (last,) = LayersModule(model, names, [2])(ids, mask)
    torch.testing.assert_close(last, expected.last_hidden_state)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_program_has_free_batch_and_length(kind, tmp_path):
    class WithTypes:
        model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    model = build_model(kind)
    names = input_names(model, WithTypes)
    assert ("token_type_ids" in names) == (kind == "bert")
    (example,) = random_feeds(model, names, max_seq_length=8, seed=0, shapes=[(2, 8)])
    source = Traceable(
        module=LogitsModule(model, names),
        inputs=names,
        outputs=["logits"],
        axes=text_axes(names, ["logits"]),
        example=example,
    )
    with eager_attention(model):
        write_program(source, tmp_path / "model.pt2")
    compute = program_compute(source, tmp_path / "model.pt2")
    shapes = [(1, 1), (1, 9), (5, 1), (3, 30)]
    for feed in random_feeds(model, names, max_seq_length=30, seed=1, shapes=shapes):
        np.testing.assert_allclose(compute(feed)[0], source.compute(feed)[0], atol=1e-4)


def test_attention_is_put_back():
    model = AutoModel.from_config(build_model("bert").config)
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), eager_attention(model):
        assert model.config._attn_implementation == "eager"
        raise RuntimeError
    assert model.config._attn_implementation == before
