import numpy as np
import pytest

from nlpapp.deployment.export import (
    SUPPORTED,
    SUPPORTED_ENCODERS,
    export_classifier,
    export_encoder,
)
from nlpapp.deployment.export_formats import check_difference, check_formats, text_feeds
from nlpapp.deployment.parity import Difference
from nlpapp.errors import CheckpointError, ConfigError
from tests.deployment.models import build_encoder, build_model, load_tokenizer

TEXTS = ["the cat sat", "a bad film was good", "great"] * 4
QUICK = {"max_seq_length": 30, "calibration": TEXTS, "batches": 10}


def difference(largest, scale=1.0):
    return Difference(largest=largest, scale=scale, agreement=1.0, batches=1)


def test_each_format_has_its_limit():
    check_difference("fp32", difference(9e-5), relative=False)
    check_difference("fp32", difference(9e-4, 10), relative=True)
    check_difference("int8", difference(3.0), relative=False)
    refused = [("fp32", 2e-4, 10, False), ("fp16", 0.03, 1, False), ("int8", np.nan, 1, True)]
    refused += [("safetensors", 1e-4, 1, False), ("torch-export", np.inf, 1, False)]
    for name, largest, scale, relative in refused:
        with pytest.raises(CheckpointError, match=rf"\({name}\) differ from PyTorch's by"):
            check_difference(name, difference(largest, scale), relative=relative)


def test_formats_are_checked_by_name_and_need():
    assert check_formats(["safetensors", "fp16"], int8=True, calibration=()) == [
        "fp16",
        "int8",
        "safetensors",
    ]
    with pytest.raises(ConfigError, match="'fp15' is unknown.*Did you mean 'fp16'"):
        check_formats(["fp15"], int8=True, calibration=())
    with pytest.raises(ConfigError, match="--calibration_file"):
        check_formats(["int8-static"], int8=True, calibration=())


def test_texts_become_batches_of_the_models_inputs(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    feeds = text_feeds(tokenizer, names, TEXTS, 6)
    assert [len(feed["input_ids"]) for feed in feeds] == [8, 4]
    assert all(feed["input_ids"].shape[1] <= 6 and list(feed) == names for feed in feeds)
    (pair,) = text_feeds(tokenizer, names, [("a cat", "a dog")], 12)
    assert pair["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    sides = ["input_ids", "attention_mask", "input_ids_b", "attention_mask_b"]
    (both,) = text_feeds(tokenizer, sides, [("a cat", "a dog ran")], 12)
    assert both["input_ids"].shape == (1, 4) and both["input_ids_b"].shape == (1, 5)
    with pytest.raises(ConfigError, match="pairs of texts"):
        text_feeds(tokenizer, sides, ["a"], 12)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_format_of_a_classifier_passes(kind, tiny_tokenizer_folder, tmp_path):
    formats = ["fp16", "int8-static", "safetensors"]
    formats += ["torch-export"] if kind != "bilstm" else []
    metrics = export_classifier(
        build_model(kind),
        load_tokenizer(tiny_tokenizer_folder),
        tmp_path / "b",
        formats=formats,
        **QUICK,
    )
    for name in ("fp32", "int8", *formats):
        # What 8 bits may cost is decided on a data set; ranges of random weights say little.
        least = {"int8": 0.8, "int8-static": 0.5}.get(name, 0.95)
        assert metrics[f"{name}_label_agreement"] >= least and metrics[f"{name}_bytes"] > 0, name
    assert metrics["int8-static_weight_share"] > 0.8 and metrics["fp32_latency_ms"] > 0
    assert metrics["safetensors_max_difference"] <= 1e-5


@pytest.mark.parametrize("kind", SUPPORTED_ENCODERS)
def test_every_format_of_an_encoder_passes(kind, tiny_tokenizer_folder, tmp_path):
    formats = ["fp16", "int8-static", "safetensors", "torch-export"]
    metrics = export_encoder(
        build_encoder(kind),
        load_tokenizer(tiny_tokenizer_folder),
        tmp_path / "b",
        formats=formats,
        **QUICK,
    )
    assert all(metrics[f"{name}_bytes"] > 0 for name in ("fp32", "int8", *formats))
    assert metrics["safetensors_max_difference"] <= 1e-5
    assert metrics["fp16_max_difference"] <= 0.01 * metrics["largest_output"]
    assert metrics["int8_max_difference"] <= 0.2 * metrics["largest_output"]
