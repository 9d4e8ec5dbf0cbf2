"""Our model with the weights of the original code and of transformers 4.33: the same figures."""

import json

import numpy as np
import pytest
import torch

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.transformer_xl_import import (
    convert_weights,
    import_transformer_xl,
    plain_names,
)
from tests.conftest import REPOSITORY
from tests.golden.transformer_xl_cases import (
    CUTOFFS,
    LANES,
    MEMORY,
    ORIGINAL,
    TRANSFORMERS,
    texts,
)

GOLDEN = REPOSITORY / "tests" / "golden"


def recorded(case):
    """What the original computed, by the name of the record."""
    with np.load(GOLDEN / "original_transformer_xl.npz") as file:
        start = f"{case}/"
        return {
            name.removeprefix(start): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(start)
        }


def under(record, kind):
    start = f"{kind}/"
    return {n.removeprefix(start): t for n, t in record.items() if n.startswith(start)}


def original(case, **changes):
    options = ORIGINAL[case]
    given = {
        "mem_len": options.get("mem_len", MEMORY),
        "clamp_len": options.get("clamp_len"),
        "same_length": options.get("same_length", False),
        "pre_norm": options.get("pre_lnorm", False),
        "cutoffs": options.get("cutoffs"),
        "num_heads": 2 if options.get("attn_type") else None,
        "dropout": 0.0,
    }
    weights = under(recorded(case), "weights")
    return import_transformer_xl(weights, **given | changes)


@pytest.mark.parametrize("case", ORIGINAL)
def test_losses_memories_and_gradients_are_those_of_the_original(case):
    record, model, memory = recorded(case), original(case).train(), None
    for segment, (ids, labels) in enumerate(zip(*map(torch.from_numpy, texts()), strict=True)):
        output = model(ids, labels=labels, memory=memory)
        losses = record[f"losses {segment}/all"]
        torch.testing.assert_close(output.loss, losses.mean(), atol=1e-5, rtol=1e-5)
        log_probabilities = model(ids, memory=memory).logits
        found = -log_probabilities.gather(-1, labels[..., None])[..., 0]
        torch.testing.assert_close(found, losses.t(), atol=1e-5, rtol=1e-5)
        memory = output.memory
        for layer, remembered in enumerate(memory):
            expected = record[f"memory {segment}/{layer}"].transpose(0, 1)
            torch.testing.assert_close(remembered, expected, atol=1e-5, rtol=1e-5)
        output.loss.backward()
    expected = convert_weights(plain_names(under(record, "gradients")), model.config)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {name: gradient for name, gradient in found.items() if gradient is not None}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)
    assert set(expected) - set(found) <= {"softmax.tail_weight", "softmax.tail_bias"}


@pytest.mark.parametrize("case", TRANSFORMERS)
@torch.no_grad()
def test_log_probabilities_are_those_of_transformers(case):
    folder = GOLDEN / f"transfo-xl-{case}"
    settings = json.loads((folder / "config.json").read_text())
    model = import_transformer_xl(
        torch.load(folder / "pytorch_model.bin", weights_only=True),
        mem_len=settings["mem_len"],
        clamp_len=settings["clamp_len"] if settings["clamp_len"] > 0 else None,
        same_length=settings["same_length"],
        cutoffs=settings["cutoffs"][:2],
    )
    # transformers began with a memory of zeros, where we begin with none.
    memory = (torch.zeros(LANES, MEMORY, settings["d_model"]),) * settings["n_layer"]
    with np.load(GOLDEN / "transformers_transformer_xl.npz") as file:
        for segment, ids in enumerate(map(torch.from_numpy, texts()[0])):
            output = model(ids, memory=memory)
            memory = output.memory
            expected = torch.from_numpy(file[f"{case}/log-probabilities {segment}/all"])
            torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)


def test_a_softmax_with_vectors_of_its_own_stays_apart():
    weights = under(recorded("plain"), "weights")
    weights["crit.out_layers.0.weight"] = weights["crit.out_layers.0.weight"] + 1
    model = import_transformer_xl(weights, mem_len=MEMORY)
    assert model.output_tables is not None
    torch.testing.assert_close(
        model.output_tables.weight(0), weights["crit.out_layers.0.weight"], atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("case", "change", "options", "error", "message"),
    [
        ("plain", {"r_w_bias": None}, {}, ConfigError, "num_heads: weights with absolute"),
        ("plain", {"layers.1.pos_ff.layer_norm.bias": None}, {}, CheckpointError, "1 tensors do"),
        ("plain", {"out_layer.bias": torch.ones(2)}, {}, CheckpointError, "sampled softmax"),
        ("plain", {"r_emb": torch.ones(2)}, {}, CheckpointError, "attn_type 1 or 3"),
        (
            "plain",
            {"word_emb.emb_layers.0.weight": None},
            {},
            CheckpointError,
            "no tensor word_emb",
        ),
        ("adaptive, div_val 1", {}, {"cutoffs": None}, ConfigError, "the weights have 2"),
        ("adaptive, div_val 4", {}, {"cutoffs": [3, 4]}, ConfigError, r"are cut at \[8, 16\]"),
        ("absolute", {}, {"pre_norm": True}, CheckpointError, "absolute positions with pre_lnorm"),
    ],
)
def test_weights_that_cannot_be_imported_are_named(case, change, options, error, message):
    weights = under(recorded(case), "weights") | change
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    given = {"mem_len": 0, "num_heads": 2 if case == "absolute" else None}
    with pytest.raises(error, match=message):
        import_transformer_xl(weights, **given | options)


def test_cutoffs_are_read_where_the_weights_tell_them():
    assert original("adaptive, div_val 4", cutoffs=None).config.cutoffs == CUTOFFS
